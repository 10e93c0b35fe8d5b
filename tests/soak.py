"""make soak ARGS="MINUTES [--seed N] [--fault WORDS] [--output FILE]"

Pipelines on hosts that fail at random, one after another. Each meets three faults in stages drawn from the seed; a
driver that died or gave up is started again, as a person would. Whatever happened, it must end with the fingerprints of
an undisturbed run. Every fault, the stage it met and the seconds until something was committed again go to a JSON file
(runs/soak.json), which `docs/faults.md` shows:

    python tests/soak.py --table FILE [FILE ...]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from host_faults import FAULTS, HEAD, WORKER
from host_run import HostRun, read_table, write_table
from hosts import Lan, obstacle, started_lan
from pipeline_run import STAGES, fingerprints
from small_recipe import RECIPE, write_recipe

from ccp_ray.progress import say

FAULTS_A_RUN = 3


def main() -> int:
    """Exit code 0 where every pipeline ended as the undisturbed one."""
    asked = _asked()
    if asked.table:
        print(markdown([row for file in asked.table for row in read_table(file)]))
        return 0
    if obstacle():
        say(f"soak: {obstacle()}")
        return 1
    if not _faults_of(STAGES[0], asked.fault):
        say(f"soak: --fault {asked.fault}: there is {'; '.join(FAULTS)}")
        return 1
    say(f"soak: seed {asked.seed}, {asked.minutes} minutes")
    chance, over = random.Random(asked.seed), time.monotonic() + 60 * asked.minutes
    with tempfile.TemporaryDirectory(prefix="ccp-soak-") as scratch, started_lan("a", "b", "c") as lan:
        recipe, wanted, number = write_recipe(Path(scratch), pretrain=with_workers()), None, 0
        # All now, and no pipeline takes less than a minute: rclone looks for new buckets once in five.
        for later in range(int(asked.minutes) + 2):
            lan.bucket(f"run-{later}")
        while time.monotonic() < over:
            # The first is left alone: what the others are compared with.
            plan = drawn(chance, asked.fault) if wanted else []
            hosted = one(lan, recipe, f"run-{number}", Path(scratch), plan)
            found = fingerprints(str(hosted.run))
            wanted = wanted or found
            rows = [row | {"seed": asked.seed, "run": number, "same": found == wanted} for row in hosted.table]
            write_table(asked.output, rows)
            if found != wanted:
                say(f"soak: run {number} differs: {[stage for stage in found if found[stage] != wanted[stage]]}")
                say(hosted.log.read_text()[-4000:])
                return 1
            say(f"soak: run {number} is the same; seconds without a commit: {[row['seconds'] for row in rows]}")
            number += 1
    return 0


def with_workers() -> dict[str, Any]:
    """The training's settings with a fixed number of workers: else there are as many as the cluster has when it begins,
    which is one where a node is just lost, and the encoder is another one within rounding.
    """
    return RECIPE["pretrain"] | {"resources": RECIPE["pretrain"]["resources"] | {"workers": 2}}


def drawn(chance: random.Random, words: str) -> list[tuple[str, str, float]]:
    """(stage, fault, seconds into the stage), in the order of stages. words: in the names of the faults."""
    able = {stage: faults for stage in STAGES if (faults := _faults_of(stage, words))}
    stages = sorted(chance.sample(range(len(able)), FAULTS_A_RUN))
    names = [list(able)[stage] for stage in stages]
    return [(name, chance.choice(able[name]), chance.uniform(0, 3)) for name in names]


def _faults_of(stage: str, words: str) -> list[str]:
    without_ray = stage == "report"  # the driver makes it alone
    return [fault for fault in FAULTS if words in fault and not (without_ray and fault in (WORKER, HEAD))]


def one(lan: Lan, recipe: Path, name: str, scratch: Path, plan: list[tuple[str, str, float]]) -> HostRun:
    """A whole pipeline and what befell it."""
    hosted = HostRun(lan, recipe, name, scratch / f"{name}.log", starts_left=10)
    hosted.new_cluster()
    hosted.start()
    for stage, fault, delay in plan:
        say(f"soak: {name}: {fault}, {delay:.1f} s into {stage}")
        hosted.reach(stage)
        time.sleep(delay)
        hosted.disturb(fault, stage, FAULTS[fault])
    hosted.finish()
    return hosted


def markdown(rows: list[dict[str, Any]]) -> str:
    """Faults by stages: the seconds without a commit, each time."""
    stages = [*STAGES, *sorted({row["stage"] for row in rows} - set(STAGES))]
    lines = [f"| fault | {' | '.join(stages)} |", f"|---|{'---|' * len(stages)}"]
    for fault in dict.fromkeys([*FAULTS, *(row["fault"] for row in rows)]):
        met = [[round(row["seconds"]) for row in rows if (row["fault"], row["stage"]) == (fault, at)] for at in stages]
        if any(met):
            lines.append(f"| {fault} | {' | '.join(', '.join(map(str, sorted(times))) for times in met)} |")
    return "\n".join(lines)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", nargs="?", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--fault", default="", help="only those with these words in their names")
    parser.add_argument("--output", default="runs/soak.json")
    parser.add_argument("--table", nargs="+", help="print what these hold, and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
