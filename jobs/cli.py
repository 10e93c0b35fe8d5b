"""The `ccp-ray` command: every verb is one module of this folder, also run as `python -m jobs.VERB`."""

from __future__ import annotations

from jobs.ablate import ablate
from jobs.baseline import baseline
from jobs.bench import bench
from jobs.calibrate import calibrate
from jobs.command import main as run_verbs
from jobs.curve import curve
from jobs.doctor import doctor_command
from jobs.embed import embed
from jobs.evaluate import evaluate
from jobs.export import export
from jobs.fetch_data import fetch_data
from jobs.finetune import finetune
from jobs.gc import gc
from jobs.generate import generate
from jobs.index import index
from jobs.jobs import jobs
from jobs.logs import logs
from jobs.mine import mine
from jobs.passages import passages
from jobs.pipeline import pipeline_command
from jobs.prepare import prepare
from jobs.pretrain import pretrain
from jobs.report import report
from jobs.search import search
from jobs.status import status
from jobs.stop import stop
from jobs.submit import submit
from jobs.untrained import untrained
from jobs.verify import verify

VERBS = (
    *(pipeline_command, generate, prepare, pretrain, mine, finetune, embed, calibrate, index, search),
    *(evaluate, baseline, untrained, passages, curve, report, ablate),
    *(submit, jobs, logs, stop),
    *(status, verify, gc, export, doctor_command, fetch_data, bench),
)


def main() -> None:
    """Entry point of `ccp-ray`."""
    run_verbs(*VERBS)


if __name__ == "__main__":
    main()
