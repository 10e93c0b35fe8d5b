"""Wait for a Ray cluster's nodes: python wait_for_nodes.py ADDRESS COUNT [SECONDS]. Exit code 1: not in time.

COUNT 0 waits until the head listens: one more start of Ray's command line, two seconds each, would be dear for a poll.
"""

from __future__ import annotations

import socket
import sys
import time


def listens(address: str) -> bool:
    """Whether anybody answers at the head's port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def main(address: str, count: int, seconds: float) -> int:
    give_up = time.monotonic() + seconds
    while not listens(address):
        if time.monotonic() > give_up:
            print(f"no Ray head at {address} within {seconds:.0f} s; its own words are above", file=sys.stderr)
            return 1
        time.sleep(0.5)
    if not count:
        return 0
    import ray

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    while (alive := sum(node["Alive"] for node in ray.nodes())) < count:
        if time.monotonic() > give_up:
            print(f"{alive} of {count} Ray nodes within {seconds:.0f} s", file=sys.stderr)
            return 1
        time.sleep(0.5)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 300.0))
