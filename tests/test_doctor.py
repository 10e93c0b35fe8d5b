"""doctor: real findings on this machine and on real stores; nothing is left behind."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

import pytest
from s3_servers import free_port

from ccp_ray.storage import open_store
from jobs import doctor as module
from jobs.doctor import Check, doctor, render


def by_name(checks: list[Check]) -> dict[str, Check]:
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


@pytest.mark.usefixtures("ray_local")
def test_this_machine_is_fit():
    checks = by_name(doctor(None, None))
    assert [name for name, check in checks.items() if check.ok is False] == []
    assert checks["ray"].detail.startswith("local Ray: 2 CPUs, 0 GPUs, a task ran on ")
    assert importlib.metadata.version("torch") in checks["torch"].detail
    assert {"python", "cpu, memory", "disk here", "bf16", "c++ compiler", "packages"} <= set(checks)


def test_a_store(root_uri):
    checks = by_name(module._store(root_uri))
    settles = not root_uri.startswith("s3://") or open_store(root_uri).conditional_writes()
    assert {name: check.ok for name, check in checks.items()} == {
        "store write": True,
        "store read": True,
        "store races": True if settles else None,
        "store clock": True,
        "store delete": True,
    }
    assert list(open_store(root_uri).list()) == []
    if not root_uri.startswith("s3://"):
        assert not Path(root_uri).exists()  # not even the folder


def test_a_store_that_refuses(rclone_bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-wrong-secret-0123456789abcdefghij")
    (check,) = module._store(rclone_bucket.uri)
    assert check.name == "store write"
    assert check.ok is False
    assert "wrong credentials" in check.detail
    assert "planted" not in render([check])
    (check,) = module._store("gs://bucket/x")
    assert "unknown scheme 'gs'" in check.detail


def test_a_store_whose_clock_is_off(moto_bucket, monkeypatch):
    monkeypatch.setattr("ccp_ray.storage_s3.S3Store.clock", lambda _: 1704067200.0)
    check = by_name(module._store(moto_bucket.uri))["store clock"]
    assert check.ok is False
    assert "set the clocks" in render([check])


def test_a_store_that_gives_back_other_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("ccp_ray.storage.LocalStore.read", lambda *_: b"other")
    check = by_name(module._store(str(tmp_path)))["store read"]
    assert check.ok is False
    assert os.listdir(tmp_path) == []


def test_a_cluster_that_is_not_there(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    (check,) = module._ray(f"127.0.0.1:{free_port()}")
    assert check.ok is False
    assert "nobody answers there" in check.detail
    assert "check the address" in render([check])


@pytest.mark.parametrize(
    ("lines", "ok", "words"),
    [
        ("torch=={torch}\nnone-such==1 ; python_version < '3'\n", True, "1 pinned packages installed"),
        ("# a comment\n\ntorch==0.1\n", None, r"1 differ: torch .* \(pinned ==0\.1\)"),
        ("torch==0.1 ; python_version < '3'\nuv==9\n", True, "0 pinned packages installed"),
    ],
)
def test_packages_against_pins(tmp_path, lines, ok, words):
    pins = tmp_path / "constraints.txt"
    pins.write_text(lines.format(torch=importlib.metadata.version("torch").partition("+")[0]))
    check = module._packages(pins)
    assert check.ok is ok
    assert re.search(words, check.detail)


@pytest.mark.parametrize(("absent", "ok"), [(["faiss-cpu"], True), (["faiss-cpu", "faiss-gpu-cu12"], False)])
def test_faiss_for_gpus_stands_for_the_one_for_cpus(tmp_path, monkeypatch, absent, ok):
    pins = tmp_path / "constraints.txt"
    pins.touch()
    monkeypatch.setattr(module, "_version", lambda name: None if name in absent else "1.0")
    check = module._packages(pins)
    assert check.ok is ok
    assert ("faiss-cpu missing" in check.detail) is not ok


def test_an_installation_without_pins_is_only_noted(tmp_path):
    check = module._packages(tmp_path / "none")
    assert check.ok is None
    assert "no constraints file" in check.detail


def test_the_rendering_is_aligned_and_gives_advice_only_where_needed():
    text = render(
        [Check("a", True, "fine", "x"), Check("long name", False, "bad", "do this"), Check("b", None, "so so")]
    )
    assert text.splitlines() == [
        "ok   a          fine",
        "FAIL long name  bad",
        "                -> do this",
        "note b          so so",
    ]
    assert render([]) == ""
