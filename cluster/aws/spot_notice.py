"""Tell Ray what EC2 tells a spot machine two minutes before it is taken: python spot_notice.py [HOST:PORT]

Ray does not listen for it. This does, on every worker (`cluster.yaml` starts it beside Ray), every five seconds at the
machine's metadata service, and has Ray drain the node: nothing new is scheduled there, and a training that has workers
on it commits a checkpoint (docs/design.md, "Notices"). Ends when Ray has taken it.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

HOST = "169.254.169.254"
TOKEN, NOTICE = "/latest/api/token", "/latest/meta-data/spot/instance-action"
EVERY_S, TIMEOUT_S = 5.0, 2.0


def ask(host: str) -> datetime | None:
    """When the machine is taken; None: nothing was said. Raises OSError, ValueError or KeyError for another answer.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    """
    status, token = _request(host, "PUT", TOKEN, {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    if status != 200:
        raise OSError(f"no token, status {status}")
    status, told = _request(host, "GET", NOTICE, {"X-aws-ec2-metadata-token": token})
    if status == 404:  # as long as there is no notice
        return None
    if status != 200:
        raise OSError(f"status {status}")
    return datetime.fromisoformat(json.loads(told)["time"].replace("Z", "+00:00"))


def _request(host: str, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP: {error}") from None
    finally:
        connection.close()


def drain(taken: datetime) -> int:
    """Have Ray drain this node; the exit code of its command."""
    left = max(0, int((taken - datetime.now(timezone.utc)).total_seconds()))
    print(f"EC2 takes this machine at {taken:%H:%M:%S} UTC, in {left} s: Ray is told", flush=True)
    why = ("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=EC2 takes the spot machine")
    ray = Path(sys.executable).with_name("ray")
    return subprocess.run([ray, "drain-node", *why, f"--deadline-remaining-seconds={left}"], check=False).returncode


def main(host: str) -> int:
    silent = False
    while True:
        try:
            taken, silent = ask(host), False
        except (OSError, ValueError, KeyError) as error:
            if not silent:
                print(f"the metadata service at {host} does not answer ({error!r}); asking on", flush=True)
            taken, silent = None, True
        if taken is not None and drain(taken) == 0:
            return 0
        time.sleep(EVERY_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else HOST))
