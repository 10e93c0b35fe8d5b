"""The Slurm script under a real Slurm: a training that is told goes on, and a job that is cancelled stays so.

Two hosts of `hosts` with a slurmd each, slurmctld and munged on the first. A slurmd has its processes to itself, as on
a node of its own: else each node would tell the workers of both. Everything of it ends with its host.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import small_recipe
import yaml
from cluster_files import CLUSTER, ROOT
from hosts import Lan, obstacle, started_lan
from ranks import wait_until
from test_cluster_slurm import OURS, programs

from ccp_ray.artifact import Artifact, open_artifact
from ccp_ray.pretrain_job import pretrain

# A job that was requeued waits until a job step's credential is out of date, two minutes by itself.
CONFIG = """
ClusterName=ccp
FirstJobId={first}
SlurmctldHost={host}({a})
SlurmUser=root
AuthInfo=socket={folder}/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
NodeName=a NodeHostname={host} NodeAddr={a} CPUs=1
NodeName=b NodeHostname={host} NodeAddr={b} CPUs=1
PartitionName=all Nodes=ALL Default=YES
"""
FIRST = 20_000_000 + os.getpid()  # the number is in names below /tmp and the checkout, too
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CGROUPS = "CgroupPlugin=cgroup/v1\n"  # which alone looks at no cgroup before it needs one; nothing here does


@dataclass
class Slurm:
    lan: Lan
    folder: Path

    def start(self) -> None:
        """Its daemons; returns when both nodes can be given to jobs."""
        (self.folder / "key").write_bytes(os.urandom(128))
        (self.folder / "key").chmod(0o400)
        self.folder.chmod(0o711)  # munged wants its socket within everybody's reach
        hosts = {host.name: host.address for host in self.lan.hosts.values()}
        config = self.folder / "slurm.conf"
        config.write_text(CONFIG.format(folder=self.folder, host=socket.gethostname(), first=FIRST, **hosts))
        (self.folder / "cgroup.conf").write_text(CGROUPS)
        files = [f"--{name}-file={self.folder / name}" for name in ("pid", "seed", "log")]
        munged = ["munged", "--foreground", f"--key-file={self.folder / 'key'}", f"--socket={self.folder / 'munge'}"]
        self.lan["a"].start([*munged, *files], self.folder / "munged.log")
        assert wait_until((self.folder / "munge").exists, 20)
        self.lan["a"].start(["slurmctld", "-D", "-f", config], self.folder / "slurmctld.log")
        for name in ("a", "b"):
            alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
            self.lan[name].start([*alone, "slurmd", "-D", "-N", name, "-f", config], self.folder / f"slurmd-{name}.log")
        ready = wait_until(lambda: self.ask("sinfo", "--noheader", "--format=%T %D") == "idle 2", 60, 0.2)
        assert ready, [path.read_text()[-2000:] for path in self.folder.glob("*.log")]

    def ask(self, *command: str, **variables: str) -> str:
        """What a command of Slurm's prints on the first host; "" where it fails."""
        clean = {n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "AWS_", "SLURM_"))}
        given = {"SLURM_CONF": str(self.folder / "slurm.conf"), "CCP_RAY_HEAD_ADDRESS": self.lan["a"].address}
        inside = ["ip", "netns", "exec", self.lan["a"].namespace, *command]
        done = subprocess.run(inside, cwd=ROOT, env=clean | given | variables, text=True, capture_output=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    def submit(self, *command: str, **variables: str) -> str:
        """The script with a command of ccp-ray's, on both nodes; the job's number."""
        options = ["--parsable", "--nodes=2", "--cpus-per-task=1", f"--output={self.folder}/job-%j"]
        job = self.ask("sbatch", *options, str(CLUSTER / "slurm/ccp-ray.sbatch"), *command, **variables)
        assert job.isdecimal(), (self.folder / "slurmctld.log").read_text()[-2000:]
        return job

    def state(self, job: str) -> str:
        fields = self.ask("scontrol", "show", "job", job).split()
        return next((field.removeprefix("JobState=") for field in fields if field.startswith("JobState=")), "")

    def over(self, job: str) -> bool:
        return self.state(job) not in {"PENDING", "RUNNING", "COMPLETING"}

    def said(self, job: str) -> str:
        log = self.folder / f"job-{job}"
        return log.read_text() if log.exists() else ""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"no Slurm here: {', '.join(missing)} missing (Debian: slurmctld, slurmd, slurm-client, munge)")
    if obstacle():
        pytest.skip(obstacle())
    with started_lan("a", "b") as lan:
        started = Slurm(lan, lan.folder)
        started.start()
        yield started
    for path in Path("/tmp").glob(f"ccp-ray-{FIRST}*"):
        shutil.rmtree(path)
    assert lan.left() == []
    assert not list(ROOT.glob(f".ccp-ray-{FIRST}*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_that_is_told_goes_on_when_its_job_runs_again(
    slurm: Slurm, small_corpus: Artifact, tmp_path: Path
) -> None:
    """One worker a node; the only checkpoint is the notice's, and the encoder is that of an undisturbed training."""
    settings: dict[str, object] = {"steps": 600, "resources": {"checkpoint_every": 100_000}}
    config, output = tmp_path / "pretrain.yaml", tmp_path / "encoder"
    config.write_text(yaml.safe_dump(small_recipe.RECIPE["pretrain"] | settings))
    command = ["pretrain", small_corpus.uri, "--config", str(config), "--output", str(output)]
    job = slurm.submit(*command, CCP_RAY_BIN=str(Path(sys.executable).parent))
    assert wait_until(lambda: " steps, " in slurm.said(job) or slurm.over(job), 240, 0.1)
    slurm.ask("scancel", "--batch", "--signal=TERM", job)
    assert wait_until(lambda: slurm.over(job), 400, 1)
    said = slurm.said(job)
    assert slurm.state(job) == "COMPLETED", said[-3000:]
    assert said.count("1 training workers told, 0 of them still run") == 2
    step = said.partition("the checkpoint of step ")[2].split()[0]
    assert f"going on from the checkpoint of step {step} with 2 workers" in said
    undisturbed = pretrain(small_corpus.uri, str(tmp_path / "other"), small_recipe.configured(**settings))
    assert open_artifact(str(output)).fingerprint == undisturbed.fingerprint


def test_a_job_that_is_cancelled_is_not_requeued(slurm: Slurm, tmp_path: Path) -> None:
    """With a Ray and a ccp-ray that only wait for SIGTERM."""
    stubs = programs(tmp_path / "bin", OURS)
    job = slurm.submit("pretrain", CCP_RAY_BIN=str(stubs), STUBS=str(tmp_path), PYTHON=sys.executable)
    assert wait_until(lambda: "the command begins" in slurm.said(job) or slurm.over(job), 60, 0.1)
    slurm.ask("scancel", job)
    assert wait_until(lambda: slurm.state(job) not in {"RUNNING", "COMPLETING"}, 60, 0.2)
    assert slurm.state(job) == "CANCELLED", slurm.said(job)
