"""Peak memory counts this process and what it started."""

from __future__ import annotations

import subprocess
import sys

from jobs.usage import PeakMemory, tree_bytes


def test_a_childs_memory_is_counted() -> None:
    before = tree_bytes()
    script = "x = bytearray(200 << 20); print('ready', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    with PeakMemory() as peak:
        now = tree_bytes()
    child.communicate("\n")
    assert now - before > 190 << 20
    assert peak.bytes > before + (190 << 20)
