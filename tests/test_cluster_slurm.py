"""The Slurm script: sound shell, and really run here, with a Slurm that only knows how to start processes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from cluster_files import CLUSTER, ROOT

SCRIPT = CLUSTER / "slurm/ccp-ray.sbatch"
BIN = Path(sys.executable).parent

# A step: notes its options, and runs the command that follows them. Both "nodes" are this machine.
SRUN = """#!/bin/sh
echo "srun $*" >>"$STUBS/calls"
while [ "${1#--}" != "$1" ]; do shift; done
[ "$2" != start ] || stat -c 'token %a' "$RAY_AUTH_TOKEN_PATH" >>"$STUBS/calls"
exec "$@"
"""
SCONTROL = """#!/bin/sh
echo "scontrol $*" >>"$STUBS/calls"
[ "$1 $2" != "show hostnames" ] || printf 'first\\nsecond\\n'
"""


def environment(stubs: Path, job: int) -> dict[str, str]:
    """What sbatch gives the script, and the stubs before all else."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o700)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    slurm = {"SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "1"}
    ours = {"SLURM_SUBMIT_DIR": str(ROOT), "CCP_RAY_BIN": str(BIN), "STUBS": str(stubs)}
    ours |= {"CCP_RAY_HEAD_ADDRESS": "127.0.0.1", "PATH": f"{stubs}:{os.environ['PATH']}"}
    return clean | slurm | ours


def test_the_script_is_sound_shell() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    shellcheck = shutil.which("shellcheck", path=str(BIN))
    if shellcheck is None and sys.platform == "linux" and os.uname().machine == "x86_64":
        pytest.fail("shellcheck is not installed beside this Python; it is one of the extra [dev]")
    if shellcheck is None:
        pytest.skip("no shellcheck for this platform")
    scripts = [SCRIPT, *(ROOT / "scripts").glob("*.sh")]
    done = subprocess.run(
        [shellcheck, "--severity=style", *map(str, scripts)], capture_output=True, text=True, check=False
    )
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


@pytest.mark.timeout(200)
def test_a_job_runs_on_its_nodes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    job = 10_000_000 + os.getpid()
    folder, output = Path(f"/tmp/ccp-ray-{job}"), tmp_path / "documents"
    settings = ["count=2", "concepts=60", "documents=12", "dev_documents=3", "sentences=8", "test_sentences=20"]
    command = ["bash", str(SCRIPT), "generate", "--output", str(output), "--json"]
    command += [part for each in settings for part in ("--set", each)]
    try:
        done = subprocess.run(
            command, env=environment(tmp_path, job), capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Ray runs on 2 nodes, head first; the command begins" in done.stderr
        assert '"kind": "documents"' in done.stdout.splitlines()[-1]
        assert (output / "artifact.json").is_file()
        assert not [
            each for each in psutil.process_iter(["cmdline"]) if f"{folder}/" in " ".join(each.info["cmdline"] or ())
        ]
        assert not list(ROOT.glob(f".ccp-ray-{job}-*"))  # the token went with the job
        calls = (tmp_path / "calls").read_text().splitlines()
        assert [line for line in calls if line.startswith("token")] == ["token 600"] * 2
        starts = [line for line in calls if " start " in line]
        assert [("--nodelist=first" in line, "--exclude=first" in line) for line in starts] == [
            (True, False),
            (False, True),
        ]
        assert all("--overlap" in line and "--cpus-per-task=1" in line for line in starts)
        assert "scontrol requeue" not in (tmp_path / "calls").read_text()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(folder, ignore_errors=True)
