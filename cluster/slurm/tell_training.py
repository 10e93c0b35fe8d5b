"""Tell this node's training workers that their machine will be taken: python tell_training.py RAY_FOLDER [SECONDS]

SIGTERM to a worker is a notice (docs/design.md, "Notices"): it finishes the step, commits a checkpoint with all others,
and ends. Waits for the workers that it told; exit code 1 if one still runs after SECONDS (240).

Another job of the same user may run on this node, so nothing is found by name alone: workers are children of the raylet
whose command line names RAY_FOLDER, the folder of one job's Ray.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import psutil

TITLE = "ray::RayTrainWorker"  # Ray sets a worker's title from its actor's class


def workers(folder: str) -> Iterator[psutil.Process]:
    """The training's worker processes below the raylets that use `folder`."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet" and f"{folder}/" in " ".join(process.info["cmdline"] or ()):
            yield from (child for child in process.children() if _title(child).startswith(TITLE))


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended meanwhile
        return ""


def main(folder: str, seconds: float) -> int:
    told = []
    for worker in workers(folder):
        try:
            worker.terminate()
        except psutil.NoSuchProcess:
            continue
        told.append(worker)
    _, left = psutil.wait_procs(told, timeout=seconds)
    print(f"{len(told)} training workers told, {len(left)} of them still run", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 240.0))
