"""Jobs submitted to a real cluster that demands a token, into a real store, from a client without credentials."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from clusters import ROOT, Cluster, started_cluster
from forked_commands import ForkedCommands, forked_commands
from planted import encoded
from ranks import wait_until
from s3_servers import ACCESS_KEY, SECRET_KEY, Bucket, S3Server, free_port
from tcp_proxy import tcp_proxy

NOWHERE = "s3://nowhere/long"
SMALL = ("count=2", "concepts=60", "documents=12", "dev_documents=3", "sentences=8", "test_sentences=20")


@pytest.fixture(scope="module")
def cluster(rclone_server: S3Server) -> Iterator[Cluster]:
    """Its nodes have credentials for the store and do not know where it is."""
    own = {name: value for name, value in rclone_server.environment().items() if name != "AWS_ENDPOINT_URL"}
    with started_cluster(dashboard=True, own=own) as started:
        yield started


@pytest.fixture(scope="module")
def ccp(cluster: Cluster, rclone_server: S3Server) -> Iterator[ForkedCommands]:
    """The client knows where the store and the cluster are, has the token, and no credentials."""
    address = {"AWS_ENDPOINT_URL": rclone_server.endpoint, "RAY_API_SERVER_ADDRESS": cluster.dashboard}
    nothing = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "HOME": "/nonexistent",
    }
    with forked_commands({**cluster.environment, **address, **nothing}) as commands:
        yield commands


@pytest.fixture(scope="module")
def bucket(rclone_server: S3Server) -> Bucket:
    made = Bucket(rclone_server, f"test-{uuid.uuid4().hex[:12]}")
    rclone_server.client().create_bucket(Bucket=made.name)
    return made


@pytest.fixture(scope="module")
def long_job(ccp: ForkedCommands) -> Iterator[str]:
    """The id of a job that runs until it is stopped, and takes no time from others: its store never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = ccp("submit", *generate(NOWHERE), "--detach", "--json", AWS_ENDPOINT_URL=endpoint)
        job = started.json["job"]["id"]
        assert wait_until(lambda: any(f"jobs.generate --output {NOWHERE}" in line for line in command_lines()), 60)
        yield job
        ccp("stop", job)


def generate(output: str, settings: tuple[str, ...] = SMALL) -> list[str]:
    return ["generate", "--output", output, *(part for value in settings for part in ("--set", value))]


def command_lines() -> Iterator[str]:
    for process in psutil.process_iter(["cmdline"]):
        yield " ".join(process.info["cmdline"] or [])


def kept_by_ray(cluster: Cluster) -> str:
    """All that the cluster tells of its jobs to whoever has the token."""
    header = {"authorization": f"Bearer {cluster.environment['RAY_AUTH_TOKEN']}"}
    return requests.get(f"{cluster.dashboard}/api/jobs/", headers=header, timeout=30).text


def test_a_job_runs_and_its_artifact_is_in_the_bucket(cluster: Cluster, ccp: ForkedCommands, bucket: Bucket):
    output = f"{bucket.uri}/documents"
    done = ccp("submit", *generate(output), "--json")
    told = done.json
    assert done.code == 0, done.err
    assert told["job"] | {"started": 0, "ended": 0, "fingerprint": ""} == {
        "id": f"ccp-ray-generate-{told['job']['fingerprint'][:12]}",
        **{"state": "SUCCEEDED", "verb": "generate", "output": output, "fingerprint": "", "attempt": 1},
        **{"started": 0, "ended": 0, "exit_code": 0},
    }
    assert f"documents {made_here(bucket, 'documents')[:12]} at {output}" in done.err  # the log
    assert told["measured"]["first_own_line_s"] < 60
    again = ccp("submit", *generate(f"{output}/"), "--json")
    assert (again.code, again.json["job"]["id"]) == (0, told["job"]["id"])
    assert "succeeded before" in again.err
    assert [job["id"] for job in ccp("jobs", "--json").json["jobs"] if job["output"] == output] == [told["job"]["id"]]


def made_here(bucket: Bucket, name: str) -> str:
    """The fingerprint that lies in the store."""
    body = bucket.server.client().get_object(Bucket=bucket.name, Key=f"{name}/artifact.json")["Body"].read()
    return json.loads(body)["fingerprint"]


def test_nothing_secret_is_in_the_job_or_on_a_command_line(cluster: Cluster, ccp: ForkedCommands, long_job: str):
    told = kept_by_ray(cluster)
    assert long_job in told
    shown = [told, ccp("logs", long_job).out, *command_lines()]
    for secret in (cluster.environment["RAY_AUTH_TOKEN"], SECRET_KEY, ACCESS_KEY):
        forms = {form.decode() for form in encoded(secret.encode())}
        # But the test's own server's.
        assert not [form for form in forms for text in shown if form in text and "serve s3" not in text]
    environment = next(job for job in json.loads(told) if job["submission_id"] == long_job)["runtime_env"]
    assert set(environment) == {"working_dir", "env_vars"}
    assert set(environment["env_vars"]) == {"AWS_ENDPOINT_URL"}


def test_the_same_attaches_and_another_onto_the_same_output_is_refused(ccp: ForkedCommands, long_job: str):
    same = ccp("submit", *generate(NOWHERE), "--detach", "--json")
    assert (same.code, same.json["job"]["id"]) == (0, long_job)
    assert "attached, nothing new is started" in same.err
    other = ccp("submit", *generate(NOWHERE, ("documents=7",)), "--detach")
    assert other.code == 2
    assert f"job {long_job} (generate, RUNNING) writes there" in other.error
    running = [job["id"] for job in ccp("jobs", "--json").json["jobs"] if job["output"] == NOWHERE]
    assert running == [long_job]
    table = ccp("jobs").out
    assert re.search(rf"{long_job} +RUNNING +generate +\S+ \S+ ago +\S+ \S+ +{NOWHERE}\n", table)


def test_ctrl_c_ends_the_client_and_not_the_job(ccp: ForkedCommands, long_job: str):
    follower = subprocess.Popen(
        [sys.executable, "-m", "jobs.logs", long_job, "--follow"],
        cwd=ROOT,
        env=ccp.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert follower.stdout is not None
    assert follower.stdout.readline()  # it follows
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=30)
    assert follower.returncode == 130, said
    assert f"{long_job} goes on; follow it with: ccp-ray logs {long_job} --follow --address http" in said
    assert f"ccp-ray stop {long_job}" in said
    assert "Traceback" not in said
    states = {job["id"]: job["state"] for job in ccp("jobs", "--json").json["jobs"]}
    assert states[long_job] == "RUNNING"


def test_a_plan_says_what_is_needed_and_what_is_there(ccp: ForkedCommands, bucket: Bucket):
    small = ccp("submit", "pretrain", f"{bucket.uri}/corpus", "--output", f"{bucket.uri}/encoder", "--plan")
    assert small.code == 0, small.err
    assert "needs    2 workers of 1 CPU each (resources.workers)" in small.out
    assert "cluster  1 node with 2 CPUs and 0 GPUs, of which" in small.out
    large = ["pretrain", f"{bucket.uri}/corpus", "--output", f"{bucket.uri}/encoder", "--set", "resources.workers=4"]
    plan = ccp("submit", *large, "--plan", "--json").json
    assert (plan["verdict"], plan["need"]["workers"], plan["room"]["nodes"][0]["cpus"]) == ("small", 4, 2)
    refused = ccp("submit", *large)
    assert refused.code == 2
    assert "needs 4 workers of 1 CPU each" in refused.error
    assert "room for 2" in refused.error
    assert "--wait" in refused.error
    assert "pretrain" not in ccp("jobs").out


@pytest.mark.timeout(600)
def test_a_job_waits_for_cpus_that_others_use_and_is_followed_over_a_connection_that_breaks(
    cluster: Cluster, ccp: ForkedCommands, bucket: Bucket, tmp_path: Path
) -> None:
    command = generate(f"{bucket.uri}/waited")
    with all_cpus_held(cluster) as let_go, tcp_proxy(urlsplit(cluster.dashboard).port or 0) as proxy:
        # Ray's report of what is used is up to five seconds old.
        assert wait_until(lambda: ccp("submit", *command, "--plan", "--json").json["verdict"] == "busy", 60, 0.5)
        refused = ccp("submit", *command)
        assert refused.code == 2
        assert "needs one worker of 1 CPU, but others use them: 1 node with 2 CPUs" in refused.error
        assert "of which 0 CPUs and 0 GPUs are free, room for 0 at the moment; add nodes" in refused.error
        assert not told_to_run(ccp, command)
        address = f"http://127.0.0.1:{proxy.port}"
        with following(ccp, tmp_path, "submit", *command, "--wait", "--address", address) as follower:
            follower.says(r"needs one worker .* but others use them: .*; the job waits for them there")
            job = follower.says(r"submitted (ccp-ray-generate-[0-9a-f]{12}) to")
            assert wait_until(lambda: waits_for_a_cpu(cluster), 120, 0.5), follower.told()
            assert wait_until(lambda: "entrypoint" in follower.out.read_text(), 60, 0.1)
            proxy.cut()
            broken = r"the connection broke \(\w+\); trying again in [\d.]+ s, the job goes on\n"
            follower.says(rf"{job}: {broken}(.*\n)*.*{broken}")  # a second time: nobody answers
            assert told_to_run(ccp, command) == ["RUNNING"]
            assert set(bucket.keys()).isdisjoint({"waited/artifact.json"})
            let_go()
            proxy.mend()
            assert follower.process.wait(240) == 0, follower.told()
    assert f"documents {made_here(bucket, 'waited')[:12]} at" in follower.out.read_text()
    assert follower.out.read_text() == ccp("logs", job).out  # every character, and each once
    assert "Traceback" not in follower.told()


@contextlib.contextmanager
def all_cpus_held(cluster: Cluster) -> Iterator[Callable[[], object]]:
    """Another program has reserved them; call what is given to end it."""
    hold = (
        f"import ray; ray.init('{cluster.address}', logging_level='ERROR', log_to_driver=False)\n"
        "print(ray.util.placement_group([{'CPU': 2}]).wait(60), flush=True)\ninput()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold], env=dict(cluster.environment), text=True, **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        yield lambda: holder.communicate("\n")


def waits_for_a_cpu(cluster: Cluster) -> bool:
    """Whether Ray knows of a task that wants a CPU and has none."""
    header = {"authorization": f"Bearer {cluster.environment['RAY_AUTH_TOKEN']}"}
    told = requests.get(f"{cluster.dashboard}/api/cluster_status", headers=header, timeout=30).json()
    report = told["data"]["clusterStatus"]["loadMetricsReport"]
    return any(wanted.get("CPU") for wanted, _ in report["resourceDemand"])


def told_to_run(ccp: ForkedCommands, command: list[str]) -> list[str]:
    """States of the jobs that write to the command's output."""
    output = command[command.index("--output") + 1]
    return [job["state"] for job in ccp("jobs", "--json").json["jobs"] if job["output"] == output]


@contextlib.contextmanager
def following(ccp: ForkedCommands, folder: Path, *arguments: str) -> Iterator[Following]:
    """A verb in a process of its own, that is killed in the end."""
    out, err = folder / "out", folder / "err"
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    with open(out, "wb") as standard, open(err, "wb") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=ccp.environment, stdout=standard, stderr=errors)
    try:
        yield Following(process, out, err)
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Following:
    """It, and the files that its output goes to."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def told(self) -> str:
        return self.err.read_text()

    def says(self, pattern: str) -> str:
        """Waits for it; what its group found."""
        wait_until(lambda: bool(re.search(pattern, self.told())) or self.process.poll() is not None, 120, 0.1)
        found = re.search(pattern, self.told())
        assert found, self.told()
        return found[found.lastindex or 0]


def test_stopping_waits_and_may_be_asked_again(ccp: ForkedCommands, long_job: str):
    stopped = ccp("stop", long_job)
    assert (stopped.code, stopped.out) == (0, f"{long_job}: STOPPED; submit the same again to continue\n")
    assert not any(NOWHERE in line for line in command_lines())
    again = ccp("stop", long_job)
    assert (again.code, again.out) == (0, f"{long_job}: was over already, STOPPED\n")
    plan = ccp("submit", *generate(NOWHERE), "--plan", "--json").json
    assert (plan["job"], plan["action"], plan["attempt"]) == (f"{long_job}-2", "start", 2)
    assert ccp("logs", long_job, "--follow").code == 1  # it did not succeed


def test_a_job_that_fails_gives_its_exit_code_and_is_tried_again_as_the_second(ccp: ForkedCommands, bucket: Bucket):
    command = ["prepare", f"{bucket.uri}/nothing", "--output", f"{bucket.uri}/corpus"]
    first = ccp("submit", *command)
    assert first.code == 2, first.err
    assert f"ccp-ray: error: {bucket.uri}/nothing" in first.out  # the job's own words
    job = re.findall(r"submitted (ccp-ray-prepare-[0-9a-f]{12}) to", first.err)[0]
    assert first.err.splitlines()[-1] == f"ccp-ray: {job} failed with exit code 2; submit the same again to continue"
    second = ccp("submit", *command, "--python", "no-such-python")
    assert f"submitted {job}-2, attempt 2 ({job} is FAILED)" in second.err
    assert (second.code, "--python" in second.err.splitlines()[-1]) == (127, True)
    assert f"ccp-ray: error: {bucket.uri}/nothing" in ccp("logs", job).out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"RAY_AUTH_TOKEN": secrets.token_hex(32)}, "refuses the token"),
        ({"RAY_AUTH_TOKEN": None}, "demands a token and got none: set RAY_AUTH_MODE=token"),
        ({"RAY_API_SERVER_ADDRESS": None}, "--address: give the address of the cluster's dashboard"),
        (
            {"RAY_API_SERVER_ADDRESS": "ray://127.0.0.1:10001"},
            "jobs go to the cluster's dashboard, for example http://",
        ),
        ({"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{free_port()}"}, "is the cluster up"),
    ],
)
def test_a_cluster_that_cannot_be_had_is_one_line(ccp: ForkedCommands, changes: dict[str, str | None], said: str):
    done = ccp("jobs", **changes)
    assert said in done.error
    assert done.err.count("\n") == 1
    assert done.code in (1, 2)
    assert not any(value in done.err for value in changes.values() if value and "://" not in value)


def test_an_address_that_is_given_wins_over_the_environment(cluster: Cluster, ccp: ForkedCommands):
    done = ccp("jobs", "--address", cluster.dashboard, RAY_API_SERVER_ADDRESS="http://127.0.0.1:9", RAY_ADDRESS="x:1")
    assert done.code == 0, done.err


def test_an_unknown_job_is_one_line(ccp: ForkedCommands):
    for verb in (["logs"], ["stop"], ["logs", "--follow"]):
        done = ccp(*verb, "ccp-ray-embed-000000000000")
        assert done.code == 2
        assert "no such job on http://" in done.error


class OtherDashboard(http.server.BaseHTTPRequestHandler):
    """Answers as a dashboard of these versions."""

    versions = ("2.58.1", "3.11.9")

    def do_GET(self) -> None:
        ray, python = self.versions
        answers: dict[str, Any] = {
            "/api/version": {"version": "4", "ray_version": ray, "ray_commit": "", "session_name": ""},
            "/api/v0/cluster_metadata": {
                "result": True,
                "msg": "",
                "data": {"rayVersion": ray, "pythonVersion": python},
            },
        }
        body = json.dumps(answers.get(self.path)).encode()
        self.send_response(200 if self.path in answers else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        (("2.58.1", "3.11.9"), "runs Ray 2.58.1, this program needs 2.60"),
        (("2.60.0", "3.9.1"), "runs Python 3.9.1, this program needs 3.10 to 3.13"),
    ],
)
def test_another_version_is_refused(ccp: ForkedCommands, monkeypatch, versions: tuple[str, str], said: str):
    monkeypatch.setattr(OtherDashboard, "versions", versions)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OtherDashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        done = ccp("submit", *generate("s3://b/x"), "--address", address)
        server.shutdown()
    assert said in done.error
    assert done.code == 1


def test_what_is_no_dashboard_is_one_line(ccp: ForkedCommands):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = ccp("jobs", "--address", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert done.code == 1
    assert "does not answer as a Ray dashboard does" in done.error
