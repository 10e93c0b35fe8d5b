"""What travels to a cluster: the files git would keep, nothing secret, the same bytes each time, and not too much."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from ccp_ray import job_package
from ccp_ray.errors import UsageError
from ccp_ray.job_package import package

FILES = {
    "pyproject.toml": "[project]",
    ".gitignore": "*.log\n/runs/\nbuild/\n!keep.log\nsecret.txt\n",
    "keep.log": "kept",
    "drop.log": "dropped",
    "runs/x.bin": "dropped",
    "src/runs/y.py": "kept: the pattern is for the top alone",
    "src/build/z.o": "dropped",
    "src/.gitignore": "!drop.log\n*.tmp\n",
    "src/drop.log": "kept: the deeper file takes it back",
    "src/a.tmp": "dropped",
    "a.tmp": "kept",
    "secret.txt": "dropped",
    "sub dir/ümlaut.py": "kept",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_goes_is_what_git_would_add(checkout: Path):
    subprocess.run(["git", "init", "-q", checkout], check=True)
    listed = subprocess.run(
        ["git", "-C", checkout, "ls-files", "-z", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(package(checkout).files) == sorted(filter(None, listed.stdout.split("\0")))


def test_credentials_environments_and_what_rayignore_names_stay(checkout: Path):
    for name in (".env", ".aws/credentials", ".ray/auth_token", ".venv/bin/python", "src/__pycache__/a.pyc", "big.npy"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    (checkout / ".rayignore").write_text("*.npy\n")
    for name in ("laptop.env", "store.env", ".ccp-ray-12-Ab3/token", "deploy.pem", "id_ed25519.pub", "src/credentials"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    shipped = package(checkout)
    assert shipped.secretive == [
        *(".aws", ".ccp-ray-12-Ab3", ".env", ".ray", "deploy.pem", "id_ed25519.pub", "laptop.env"),
        *("src/credentials", "store.env"),
    ]
    gone = set(package(checkout).files) ^ set(FILES)
    assert not {name for name in package(checkout).files if name.startswith((".env", ".aws", ".ray/", ".venv"))}
    assert gone == {".rayignore", *(name for name, text in FILES.items() if text == "dropped")}


def test_the_archive_holds_the_files_and_is_the_same_each_time(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
):
    (checkout / "run.sh").write_text("#!/bin/sh\n")
    (checkout / "run.sh").chmod(0o755)
    out = tmp_path_factory.mktemp("out")
    shipped = package(checkout, {"submitted/0-a.yaml": b"a: 1\n"})
    shipped.write(out / "1.zip")
    shutil.copytree(checkout, out / "elsewhere")  # other times
    package(out / "elsewhere", {"submitted/0-a.yaml": b"a: 1\n"}).write(out / "2.zip")
    assert (out / "1.zip").read_bytes() == (out / "2.zip").read_bytes()
    with zipfile.ZipFile(out / "1.zip") as archive:
        assert archive.read("submitted/0-a.yaml") == b"a: 1\n"
        assert archive.read("src/drop.log").decode() == FILES["src/drop.log"]
        assert archive.getinfo("run.sh").external_attr >> 16 == 0o755
        assert set(archive.namelist()) == {*shipped.files, "submitted/0-a.yaml"}


def test_too_much_is_refused_with_what_is_largest(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job_package, "MOST_BYTES", 100_000)
    (checkout / "src" / "vectors.npy").write_bytes(bytes(80_000))
    package(checkout).check()
    (checkout / "weights.bin").write_bytes(bytes(70_000))
    with pytest.raises(UsageError, match=r"Largest: src/ \(80 kB\), src/vectors.npy \(80 kB\), weights.bin \(70 kB\)"):
        package(checkout).check()


def test_without_a_checkout_the_packages_go_alone(checkout: Path):
    (checkout / "pyproject.toml").unlink()
    for name in ("ccp_ray/__init__.py", "jobs/recipes/a.yaml", "eval/b.py", "torch/c.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    assert sorted(package(checkout).files) == ["ccp_ray/__init__.py", "eval/b.py", "jobs/recipes/a.yaml"]
    assert str(package(checkout)).startswith("the installed packages ccp_ray, jobs, eval: 3 files")


def test_a_data_folder_behind_a_link_stays(checkout: Path, tmp_path_factory: pytest.TempPathFactory):
    data = tmp_path_factory.mktemp("data")
    (data / "text").write_text("x")
    (checkout / "data").symlink_to(data)
    (checkout / "one").symlink_to(data / "text")
    assert {name for name in package(checkout).files if name not in FILES} == {"one"}
