"""Every node of a real cluster is asked before work starts, and one that cannot do the work is named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from clusters import ROOT, Cluster, node, started_cluster
from fault_proxy import fault_proxy
from s3_servers import SECRET_KEY, S3Server

from ccp_ray import node_probe
from ccp_ray.node_probe import skew

CODE = "ccp-ray's code"
WRONG = "planted+wrong/secret-0123456789abcdefghij"


@pytest.fixture(scope="module")
def cluster(rclone_server: S3Server) -> Iterator[Cluster]:
    """Two nodes that know the store's keys, but for the second one's secret."""
    with started_cluster(more=rclone_server.environment()) as head:
        other = {**head.environment, "AWS_SECRET_ACCESS_KEY": WRONG}
        with node([f"--address={head.address}", "--num-cpus=1"], other):
            yield head


def test_a_node_that_the_store_refuses_is_named_before_anything_is_written(cluster, rclone_bucket, tmp_path):
    uri = f"{rclone_bucket.uri}/documents"
    done = cluster.run("generate", "--output", uri)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    expected = (
        r"ccp-ray: error: 1 of 2 nodes cannot do this job, and nothing was started\. node [0-9a-f]{8} at \S+: "
        rf"cannot list {uri}/: wrong credentials: the secret key does not match the access key\. Mend .*"
    )
    assert re.fullmatch(expected, line), line
    assert WRONG not in line
    assert SECRET_KEY not in line
    assert rclone_bucket.keys() == []


def test_doctor_shows_the_nodes(cluster, rclone_bucket):
    done = cluster.run("doctor", "--store", rclone_bucket.uri)
    assert done.returncode == 1
    checks = [check for check in json.loads(done.stdout)["checks"] if check["name"].startswith("node ")]
    assert sorted(check["ok"] for check in checks) == [False, True]
    fit, unfit = sorted(checks, key=lambda check: not check["ok"])
    here = node_probe._versions()
    assert f"Python {here['Python']}, ray {here['ray']}, torch {here['torch']}" in fit["detail"]
    assert re.search(r"clock within \d+\.\d s of ours, \d+\.\d GiB free", fit["detail"])
    assert "wrong credentials" in unfit["detail"]


ASKING = """
import contextlib, json, sys, time
from ccp_ray import node_probe
from ccp_ray.session import ray_session

@contextlib.contextmanager
def unseen(*_):
    yield "/none/beacon"

def ask(what, place):
    started = time.monotonic()
    told[what] = [report.problems for report in node_probe.ask_nodes(place)]
    told[f"{what}, ms"] = 1000 * (time.monotonic() - started)

address, uri, folder = sys.argv[1:]
told = {}
with ray_session(address):
    ask("store", uri)
    ask("folder", folder)
    with_torch = node_probe._versions() | {"torch": "0.1", "ccp-ray's code": "another"}
    node_probe._versions = lambda: with_torch
    ask("versions", folder)
    node_probe._beacon, node_probe._versions = unseen, dict
    ask("unseen", folder)
print(json.dumps(told))
"""


READING = """
import json, sys
from ccp_ray import node_probe
from ccp_ray.session import ray_session

address, uri = sys.argv[1:]
with ray_session(address):
    asked = [node_probe.ask_nodes(uri, writes=writes) for writes in (True, False)]
print(json.dumps([[problem for report in reports for problem in report.problems] for reports in asked]))
"""


def asked(cluster: Cluster, code: str, endpoint: str, *arguments: str) -> Any:
    """What a driver of the cluster prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code, cluster.address, *arguments],
        env={**cluster.environment, "AWS_ENDPOINT_URL": endpoint},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_node_that_may_not_write_is_named(cluster, rclone_server, rclone_bucket):
    """Such as one whose role may list and read alone; a job that writes nothing takes it."""
    with fault_proxy(rclone_server.endpoint) as proxy:
        proxy.inject("403", "PUT", times=None)
        told = asked(cluster, READING, proxy.endpoint, rclone_bucket.uri)
    writing, reading = (sorted(problems) for problems in told)
    assert writing[0] == reading[0]  # the other node's secret is wrong
    assert reading[1:] == []
    assert re.fullmatch(r"cannot write s3://\S+/\.ccp-tmp-probe-\w+: access denied; check .*", writing[1]), writing
    assert rclone_bucket.keys() == []


def test_what_the_nodes_answer(cluster, rclone_server, rclone_bucket, tmp_path):
    """Asked of the real nodes: a store whose clock is off, other packages here, a folder that they do not see."""
    with fault_proxy(rclone_server.endpoint) as proxy:
        proxy.inject("old_answer", "GET", times=None)
        told = asked(cluster, ASKING, proxy.endpoint, rclone_bucket.uri, str(tmp_path))
    (off,), (refused,) = sorted(told["store"])[::-1]
    assert re.fullmatch(r"its clock is 3[56]\d\d s ahead of the store's \(S3 takes 15 minutes\): set it \(NTP\)", off)
    assert "wrong credentials" in refused
    assert told["folder"] == [[], []]
    assert os.listdir(tmp_path) == []
    here = node_probe._versions()
    differ = f"torch {here['torch']} (here 0.1), ccp-ray's code {here[CODE]} (here another)"
    assert told["versions"] == [[f"other versions: {differ}; install the same on every node (constraints.txt)"]] * 2
    assert (
        told["unseen"] == [["does not see /none as this machine does: use s3://, or a folder that all nodes share"]] * 2
    )
    print({name: round(value) for name, value in told.items() if name.endswith("ms")})


def test_a_client_of_another_release_is_one_line(cluster, tmp_path):
    code = f"""
import ray
ray.__version__ = "2.59.0"
from ccp_ray.errors import CcpError
from ccp_ray.session import ray_session
try:
    with ray_session("{cluster.address}"):
        pass
except CcpError as error:
    print(error)
"""
    run = {"env": dict(cluster.environment), "cwd": ROOT, "capture_output": True, "text": True, "timeout": 200}
    done = subprocess.run([sys.executable, "-c", code], check=False, **run)
    python = ".".join(map(str, sys.version_info[:3]))
    assert done.stdout == (
        f"Ray at {cluster.address}: the cluster has Ray 2.60.0 and Python {python}, this machine has Ray 2.59.0 and "
        f"Python {python}; both must be the same: install the cluster's here\n"
    ), done.stderr


@pytest.mark.parametrize(
    ("clock", "expected"),
    [(105.0, 0.0), (100.0, 0.0), (110.0, 0.0), (1110.0, 1000.0), (50.0, -50.0)],
)
def test_a_clock_is_off_only_as_far_as_the_way_cannot_explain(clock, expected):
    assert skew(100.0, clock, 110.0) == expected


def answered(**changes: object) -> dict[str, object]:
    usual = {"sent": 0.0, "clock": 1.0, "answered": 2.0, "versions": {}, "free": 1 << 40, "used": 0.5}
    return usual | {"store": "", "store_skew": 0.0} | changes


@pytest.mark.parametrize(
    ("changes", "problems", "notes"),
    [
        ({}, [], []),
        ({"clock": 1000.0}, ["its clock is 998 s ahead of this machine's (S3 takes 15 minutes): set it (NTP)"], []),
        ({"clock": -100.0}, [], ["its clock is 100 s behind this machine's; set it (NTP)"]),
        ({"store_skew": 61.0}, [], ["its clock is 61 s behind the store's; set it (NTP)"]),
        ({"free": 5e8}, ["only 0.5 GiB free for Ray's files: free some, or move them (--temp-dir)"], []),
        ({"used": 0.96}, [], ["the disk of Ray's files is 96 % full; from 95 % on Ray spills nothing to it"]),
    ],
)
def test_what_an_answer_means(changes, problems, notes):
    report = node_probe._judge("n", answered(**changes), {})
    assert (report.problems, report.notes) == (problems, notes)


def test_faiss_for_cpus_and_for_gpus_belong_together():
    cpu, gpu = {"faiss": "faiss-cpu 1.15.1"}, {"faiss": "faiss-gpu-cu12 1.14.1.post1"}
    assert node_probe._differences(gpu, cpu) == node_probe._differences(cpu, gpu) == []
    for other in ({"faiss": ""}, {"faiss": "faiss-cpu 1.14.1"}):
        assert len(node_probe._differences(other, cpu)) == 1


def test_versions_without_their_local_part_and_packages_that_only_a_node_has():
    assert node_probe._versions()["torch"] == node_probe._version("torch")
    assert "+" not in node_probe._versions()["torch"]
    assert node_probe._differences({"torch": "2", "boto3": "1"}, {"torch": "2", "boto3": ""}) == []
    (line,) = node_probe._differences({"torch": ""}, {"torch": "2"})
    assert line.startswith("other versions: torch missing (here 2);")
