"""A head that is lost is told in one line, whether a call of Ray's fails or none does."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from ccp_ray import head_loss
from ccp_ray.errors import CcpError


def test_what_ray_raises_when_its_head_is_lost_becomes_one_error_and_nothing_else_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        with pytest.raises(ZeroDivisionError), head_loss.head_loss_told(address):
            raise ZeroDivisionError
    gone = (
        rf"the Ray cluster, {address}, is gone \(RuntimeError: closed\)\. What is committed stays: run the same command"
    )
    with pytest.raises(CcpError, match=gone), head_loss.head_loss_told(address):
        raise RuntimeError("closed\nrpc_code: 14")
    with pytest.raises(CcpError, match=r"^another$"), head_loss.head_loss_told(address):
        raise CcpError("another")
    with pytest.raises(KeyError), head_loss.head_loss_told(address):
        raise KeyError("a bug of ours")


def test_a_head_that_does_not_answer_is_told_once_and_so_is_its_return(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    knocks = iter([True, False, False, True, False, False, False, False, False, True])
    left = [True]

    def answers(address: str) -> bool:
        left[0] = (answer := next(knocks, None)) is not None
        return answer is not False

    monkeypatch.setattr(head_loss, "answers", answers)
    monkeypatch.setattr(head_loss, "_EVERY_S", 0.001)
    with head_loss.head_loss_told("10.0.0.1:6379"):
        for _ in range(500):
            if not left[0]:
                break
            time.sleep(0.01)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "the head of the Ray cluster, 10.0.0.1:6379, does not answer; if it is gone, Ray ends this run within a "
        "minute. What is committed stays: run the same command again on a cluster",
        "the head of the Ray cluster answers again",
    ]


@pytest.mark.parametrize(("end", "told"), [("pass", False), ("raise KeyError", False), ("os._exit(1)", True)])
def test_a_run_that_is_ended_from_without_is_told_by_another_process(end: str, told: bool) -> None:
    # Ray kills the children of a process that it ends.
    code = (
        "import os, psutil\nfrom ccp_ray.head_loss import head_loss_told\nfrom jobs.command import native_noise_aside\n"
        "with native_noise_aside(), head_loss_told('127.0.0.1:1'):\n"
        f" for child in psutil.Process().children(): child.kill()\n {end}"
    )
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ("this run was ended from without" in ended.stderr) == told
