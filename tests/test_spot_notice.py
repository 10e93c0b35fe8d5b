"""EC2's notice to a spot machine reaches Ray: a metadata service on loopback, and a real node that is then drained."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from cluster_files import CLUSTER
from clusters import started_cluster
from ranks import wait_until

SCRIPT = CLUSTER / "aws" / "spot_notice.py"
# Work on the node: one without any is gone as soon as it is drained.
DRIVER = """
import ray, time

@ray.remote
class Work:
    def begun(self):
        return True

ray.init("auto", logging_level="ERROR", log_to_driver=False)
work = Work.remote()
print(ray.get(work.begun.remote()), flush=True)
while not (told := ray._private.state.state.get_draining_nodes()):
    time.sleep(0.1)
print([deadline / 1000 - time.time() for deadline in told.values()], flush=True)
"""


class Metadata(http.server.BaseHTTPRequestHandler):
    """As EC2's, version 2: no answer without the token that a PUT gives."""

    notice = ""
    refused = False
    out = False

    def do_PUT(self) -> None:
        self.answer(200 if self.path == "/latest/api/token" else 404, "the token")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "the token":
            self.answer(401)
        elif self.out:
            type(self).refused = True
            self.answer(500)
        elif self.path == "/latest/meta-data/spot/instance-action" and self.notice:
            self.answer(200, self.notice)
        else:
            self.answer(404)

    def answer(self, status: int, body: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[tuple[str, type[Metadata]]]:
    own = type("Own", (Metadata,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), own) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}", own
        finally:
            server.shutdown()


def test_a_node_is_drained_when_ec2_says_that_it_takes_the_machine(metadata: tuple[str, type[Metadata]]) -> None:
    host, service = metadata
    pipes = {"stdout": subprocess.PIPE, "text": True}
    with started_cluster() as cluster:
        shared = {**pipes, "env": {**cluster.environment, "RAY_ADDRESS": cluster.address}}
        with (
            subprocess.Popen([sys.executable, "-c", DRIVER], **shared) as driver,
            subprocess.Popen([sys.executable, SCRIPT, host], **shared) as listener,
        ):
            try:
                assert driver.stdout is not None
                assert driver.stdout.readline() == "True\n"
                service.out = True
                assert wait_until(lambda: service.refused, 30)
                when = datetime.now(timezone.utc) + timedelta(seconds=120)
                service.notice = json.dumps({"action": "terminate", "time": f"{when:%Y-%m-%dT%H:%M:%SZ}"})
                assert listener.poll() is None
                service.out = False
                said, _ = listener.communicate(timeout=60)
                told, _ = driver.communicate(timeout=60)
            finally:
                listener.kill()
                driver.kill()
    assert listener.returncode == 0, said
    assert "does not answer (OSError('status 500')); asking on" in said
    assert f"EC2 takes this machine at {when:%H:%M:%S} UTC, in 1" in said
    (left_s,) = json.loads(told)
    assert 60 < left_s <= 120
