"""The complete `embed` job in the bench: on local disk against the bare encoder loop, and on S3 against local disk.

* Job: `embed` as a user calls it in a running Ray session, timed around the call: read, tokenise, start the actors and
  load the model, encode, checksum, write, commit, manifest.
* Bare loop: as many warm actors, and the same pieces of tokens ready in Ray's object store; vectors are thrown away.
* On S3 texts and output lie on `rclone serve s3` on loopback, whose work is done by the same cores.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ccp_ray.artifact import Artifact
from ccp_ray.embed import embed
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.session import machine_cpus, ray_session
from ccp_ray.storage import open_store
from jobs.benches.figures import Figure, interleaved, median, median_ratio, report
from jobs.benches.texts import Texts, write_texts
from jobs.benches.workers import Workers, stored
from jobs.loopback import s3_bucket

_PIECES_A_WORKER = 8
_LEAST_PIECE_ROWS, _MOST_PIECE_ROWS = 64, 16_384
_JOB, _S3, _BARE = "job, local", "job, S3", "bare loop"


def job_bench(source: str, texts: Texts, rounds: int, folder: Path) -> dict[str, Any]:
    """The figures. folder: for texts and outputs."""
    from ccp_ray.hardware import resolve
    from ccp_ray.text_reader import tokenizer_of

    workers = machine_cpus()
    config = EmbedConfig(piece_rows=piece_rows(len(texts.rows), workers))
    file = write_texts(texts, folder / "texts.parquet")
    made: list[Artifact] = []

    def job(place: str, root: str) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            made.append(embed(source, place, f"{root}/out-{uuid.uuid4().hex[:8]}", config))
            return time.perf_counter() - started

        return run

    with s3_bucket("rclone", folder / "s3") as bucket, ray_session():
        open_store(bucket).upload(file, file.name)
        rows, _ = tokenizer_of(source).tokenize(texts.texts)
        starts = range(0, len(rows), config.piece_rows)
        pieces = [stored(rows[start : start + config.piece_rows]) for start in starts]
        bare = Workers(min(workers, len(pieces)), source, resolve(config.precision))
        contenders = {
            _BARE: lambda: bare.encode_tokens(pieces, config.token_budget),
            _JOB: job(str(file), str(folder / "local")),
            _S3: job(f"{bucket}/{file.name}", bucket),
        }
        measured = interleaved(contenders, rounds, "job")
    figures = [
        Figure("complete job", len(texts.rows) / median(measured, _JOB), "texts/s"),
        Figure("complete job / bare encoder loop", median_ratio(measured, _BARE, _JOB), at_least=0.9),
        Figure("job on S3 / job on local disk", median_ratio(measured, _JOB, _S3), at_least=0.9),
        Figure("padding efficiency", made[0].measured["padding_efficiency"], at_least=0.95),
    ]
    return report(figures, workers=workers, piece_rows=config.piece_rows, seconds=measured)


def piece_rows(texts: int, workers: int) -> int:
    """Eight pieces a worker, so that none waits long for the last one; 64 to 16,384 rows each."""
    return max(_LEAST_PIECE_ROWS, min(_MOST_PIECE_ROWS, -(-texts // (_PIECES_A_WORKER * workers))))
