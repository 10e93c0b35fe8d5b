"""The Slurm script: sound shell, and run with a Slurm, a Ray and a ccp-ray that only note how they were called.

With a real Slurm and a real training it runs in `test_slurm_real.py`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from cluster_files import CLUSTER, ROOT
from ranks import wait_until

SLURM = CLUSTER / "slurm"
SCRIPT = SLURM / "ccp-ray.sbatch"
BIN = Path(sys.executable).parent

# A step runs the command that follows its options. Both "nodes" are this machine.
SLURMS = {
    "srun": """
        echo "srun $*" >>"$STUBS/calls"
        while [ "${1#--}" != "$1" ]; do shift; done
        exec "$@"
    """,
    "squeue": """
        cat "$STUBS/state" 2>/dev/null || echo RUNNING
    """,
    "scontrol": """
        echo "scontrol $*" >>"$STUBS/calls"
        [ "$1 $2" != "show hostnames" ] || printf 'first\\nsecond\\n'
    """,
}
# Ray stays until SIGTERM, and so does ccp-ray where it is told to; python does what is none of the script's helpers.
# Two files: "fall" ends a worker's Ray, once; "hold" keeps the nodes from being there.
OURS = {
    "ray": """
        trap 'echo "ray ends" >>"$STUBS/calls"; exit 0' TERM
        stat -c 'token %a' "$RAY_AUTH_TOKEN_PATH" >>"$STUBS/calls"
        echo "ray $*" >>"$STUBS/calls"
        case "$*" in *--address=*) ! rm "$STUBS/fall" 2>/dev/null || exit 1 ;; esac
        while :; do sleep 0.05; done
    """,
    "ccp-ray": """
        echo "ccp-ray $*" >>"$STUBS/calls"
        while [ "$1" = pretrain ]; do sleep 0.05; done
        exit 7
    """,
    "python": """
        case "$1" in
        *wait_for_nodes.py | *tell_training.py) echo "python $(basename "$1") ${*:2}" >>"$STUBS/calls" ;;&
        *wait_for_nodes.py)
            until [ "$(grep -c '^ray start' "$STUBS/calls")" -ge $(($3 ? $3 : 1)) ]; do sleep 0.05; done
            while [ "$3" != 0 ] && [ -e "$STUBS/hold" ]; do sleep 0.05; done
            ;;
        *tell_training.py) ;;
        *) exec "$PYTHON" "$@" ;;
        esac
    """,
}


def programs(folder: Path, texts: dict[str, str]) -> Path:
    """Shell scripts in a folder that is made."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o700)
    return folder


def environment(stubs: Path, job: int) -> dict[str, str]:
    """What sbatch gives the script, with a Slurm of stubs before all else on the PATH, and the real ray and ccp-ray."""
    slurm = programs(stubs, SLURMS)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    given = {"SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "1"}
    ours = {"SLURM_SUBMIT_DIR": str(ROOT), "CCP_RAY_BIN": str(BIN), "STUBS": str(stubs), "PYTHON": sys.executable}
    ours |= {"CCP_RAY_HEAD_ADDRESS": "127.0.0.1", "PATH": f"{slurm}:{os.environ['PATH']}"}
    return clean | given | ours


def test_the_script_is_sound_shell() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    shellcheck = shutil.which("shellcheck", path=str(BIN))
    if shellcheck is None and sys.platform == "linux" and os.uname().machine == "x86_64":
        pytest.fail("shellcheck is not installed beside this Python; it is one of the extra [dev]")
    if shellcheck is None:
        pytest.skip("no shellcheck for this platform")
    scripts = map(str, [SCRIPT, *(ROOT / "scripts").glob("*.sh")])
    done = subprocess.run([shellcheck, "--severity=style", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_slurm_is_asked_for_notice_and_requeue() -> None:
    options = [line.removeprefix("#SBATCH ") for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=B:TERM@300", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= set(options)
    assert not [option for option in options if option.startswith("--exclusive")]  # two jobs may share a node


@pytest.mark.parametrize(
    ("arguments", "changes", "said"),
    [
        ([], {}, "give ccp-ray's verb"),
        (["generate"], {"SLURM_SUBMIT_DIR": "/"}, "no checkout of ccp-ray"),
        (["generate"], {"CCP_RAY_BIN": "/nowhere"}, "/nowhere/ray is missing: run make setup"),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(
    tmp_path: Path, arguments: list[str], changes: dict[str, str], said: str
) -> None:
    given = environment(tmp_path, 1) | changes
    done = subprocess.run(["bash", SCRIPT, *arguments], env=given, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert not (tmp_path / "calls").exists()


class Job:
    """One start of the script, with everything but the shell a stub."""

    def __init__(self, stubs: Path, *arguments: str) -> None:
        self.number = 10_000_000 + os.getpid()
        self.folder = Path(f"/tmp/ccp-ray-{self.number}")
        self.record = stubs / "calls"
        given = environment(stubs, self.number) | {"CCP_RAY_BIN": str(programs(stubs / "bin", OURS))}
        self.process = subprocess.Popen(
            ["bash", str(SCRIPT), *arguments], env=given, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def calls(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []

    def ends(self) -> tuple[int, str]:
        """Exit code and what was said. Fails where it left a process or the token."""
        _, said = self.process.communicate(timeout=60)
        alive = [each for each in psutil.process_iter(["status"]) if each.info["status"] != psutil.STATUS_ZOMBIE]
        assert not [each for each in alive if _group(each) == self.process.pid]
        assert not list(ROOT.glob(f".ccp-ray-{self.number}-*"))
        assert self.calls().count("ray ends") == 2
        return self.process.returncode, said


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


@contextmanager
def started(stubs: Path, *arguments: str) -> Iterator[Job]:
    job = Job(stubs, *arguments)
    try:
        yield job
    finally:
        if job.process.poll() is None:
            os.killpg(job.process.pid, signal.SIGKILL)
        shutil.rmtree(job.folder, ignore_errors=True)


def test_a_command_runs_on_all_nodes_with_a_token_and_its_code_is_the_jobs(tmp_path: Path) -> None:
    with started(tmp_path, "prepare", "some text", "--output", "x") as job:
        code, said = job.ends()
        port = 20000 + job.number % 3000 * 3
        calls, address = job.calls(), f"127.0.0.1:{port}"
        assert code == 7
        assert "Ray runs on 2 nodes, head first; the command begins" in said
        assert f"ccp-ray prepare some text --output x --address {address}" in calls
        assert [line for line in calls if line.startswith("token")] == ["token 600"] * 2
        head, worker = (line for line in calls if line.startswith("ray start"))
        own = f"--port={port} --dashboard-port={port + 1} --ray-client-server-port={port + 2}"
        assert f"--head --node-ip-address=127.0.0.1 {own} --temp-dir={job.folder}/ray" in head
        assert f"--address={address}" in worker
        assert f"python wait_for_nodes.py {address} 2" in calls
        steps = [line for line in calls if line.startswith("srun") and " start " in line]
        assert [("--nodelist=first" in each, "--exclude=first" in each) for each in steps] == [
            (True, False),
            (False, True),
        ]
        assert all("--overlap" in each and "--cpus-per-task=1" in each for each in steps)
        assert job.folder.stat().st_mode & 0o777 == 0o700  # Ray's own folders below it are open to all
        assert not [line for line in calls if line.startswith("scontrol requeue")]


def test_a_notice_is_passed_on_and_the_job_is_requeued(tmp_path: Path) -> None:
    with started(tmp_path, "pretrain", "corpus", "--output", "x") as job:
        assert wait_until(lambda: any(line.startswith("ccp-ray pretrain") for line in job.calls()))
        job.process.send_signal(signal.SIGTERM)
        code, said = job.ends()
        calls = job.calls()
        assert code != 0
        assert "training is told to leave a checkpoint" in said
        told, requeued = (
            calls.index(f"python tell_training.py {job.folder}"),
            calls.index(f"scontrol requeue {job.number}"),
        )
        assert told < calls.index("ray ends") < requeued == len(calls) - 1
        (step,) = [line for line in calls if "tell_training" in line and line.startswith("srun")]
        assert "--nodes=2 --ntasks=2" in step


def test_a_job_that_slurm_has_ended_is_not_requeued(tmp_path: Path) -> None:
    """scancel sends the same signal; the job would come back for ever."""
    (tmp_path / "state").write_text("COMPLETING\n")
    with started(tmp_path, "pretrain", "corpus", "--output", "x") as job:
        assert wait_until(lambda: any(line.startswith("ccp-ray pretrain") for line in job.calls()))
        job.process.send_signal(signal.SIGTERM)
        code, _ = job.ends()
        assert code == 143
        assert not [line for line in job.calls() if "tell_training" in line or "requeue" in line]


def test_a_notice_while_ray_starts_is_not_forgotten(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    with started(tmp_path, "pretrain", "corpus", "--output", "x") as job:
        assert wait_until(lambda: sum("wait_for_nodes" in line for line in job.calls()) == 2)
        job.process.send_signal(signal.SIGTERM)
        (tmp_path / "hold").unlink()
        job.ends()
        assert not [line for line in job.calls() if line.startswith("ccp-ray")]
        assert job.calls()[-1] == f"scontrol requeue {job.number}"


def test_a_workers_ray_that_ended_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "fall").touch()
    with started(tmp_path, "pretrain", "corpus", "--output", "x") as job:
        begun = [f"ray start --block --disable-usage-stats --num-cpus=1 {kind}" for kind in ("--head", "--address")]
        assert wait_until(lambda: [sum(each.startswith(it) for each in job.calls()) for it in begun] == [1, 2], 60)
        job.process.send_signal(signal.SIGTERM)
        job.ends()


RAYLET = """
import subprocess, sys
worker = subprocess.Popen([sys.argv[2], "-I", "-S", "-c", "import time; time.sleep(60)"], executable=sys.executable)
print(worker.pid, flush=True)
worker.wait()
"""


@contextmanager
def raylet(home: Path, folder: str, worker: str) -> Iterator[psutil.Process]:
    """A process that is called as Ray's raylet is, with a child that has a worker's title: the child."""
    program = home / "raylet"
    if not program.exists():
        program.symlink_to(Path(sys.executable).resolve())
    command = [str(program), "-I", "-S", "-c", RAYLET, f"--store={folder}/session/sockets/store", worker]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    try:
        yield child
    finally:
        for each in (child, psutil.Process(process.pid)):
            if each.is_running():
                each.kill()
        process.wait(10)
        process.stdout.close()


def test_only_this_jobs_training_is_told(tmp_path: Path) -> None:
    mine, other = str(tmp_path / "mine"), str(tmp_path / "mine2")  # one name begins with the other
    training = "ray::RayTrainWorker.execute"
    with (
        raylet(tmp_path, mine, training) as told,
        raylet(tmp_path, mine, "ray::Encode") as encoder,
        raylet(tmp_path, other, training) as neighbour,
    ):
        command = [sys.executable, str(SLURM / "tell_training.py"), mine, "20"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "1 training workers told, 0 of them still run\n")
        assert not told.is_running() or told.status() == psutil.STATUS_ZOMBIE
        assert encoder.is_running()
        assert neighbour.is_running()


def test_a_head_that_does_not_come_is_said() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, str(SLURM / "wait_for_nodes.py"), address, "1", "0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"no Ray head at {address} within 0 s")
        taken.listen()
        assert subprocess.run([*command[:3], "0"], check=False).returncode == 0
