"""Wait for a Ray cluster's nodes: python wait_for_nodes.py ADDRESS COUNT [SECONDS]. Exit code 1: not in time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def main(address: str, count: int, seconds: float) -> int:
    give_up = time.monotonic() + seconds
    check = [str(Path(sys.executable).with_name("ray")), "health-check", "--address", address]
    while subprocess.run(check, capture_output=True, check=False).returncode:
        if time.monotonic() > give_up:
            print(f"no Ray head at {address} within {seconds:.0f} s; its own words are above", file=sys.stderr)
            return 1
        time.sleep(1)
    import ray

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    while (alive := sum(node["Alive"] for node in ray.nodes())) < count:
        if time.monotonic() > give_up:
            print(f"{alive} of {count} Ray nodes within {seconds:.0f} s", file=sys.stderr)
            return 1
        time.sleep(1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 300.0))
