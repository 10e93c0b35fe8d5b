"""The audit of pins: what is a finding, what is silence, and that nothing is ignored without a reason."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "audit.py"
spec = importlib.util.spec_from_file_location("audit", SCRIPT)
assert spec is not None
assert spec.loader is not None
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

FOUND = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3.1.3"], "description": "bad"}
BAD, GOOD = {"name": "b", "version": "1", "vulns": [FOUND]}, {"name": "g", "version": "1", "vulns": []}
SILENT = {"name": "s", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "asked", "code", "strict"),
    [
        ([GOOD], 1, 0, 0),
        ([GOOD, BAD], 2, 1, 1),
        ([GOOD, SILENT], 1, 0, 3),
        ([BAD, SILENT], 1, 1, 1),  # silence about one excuses no other
        ([], 0, 0, 3),
    ],
)
def test_verdicts(packages, asked, code, strict):
    verdict = audit.judged({"dependencies": packages})
    assert (verdict.asked, verdict.exit_code(False), verdict.exit_code(True)) == (asked, code, strict)
    assert verdict.findings == ["b 1: PYSEC-1 (CVE-1), fixed in 3.1.3"] * (BAD in packages)


def test_nothing_is_ignored_without_a_reason():
    assert audit.ignored("# about\n\nPYSEC-1  # only its server\nCVE-2 # never called\n") == ["PYSEC-1", "CVE-2"]
    with pytest.raises(ValueError, match="PYSEC-1 has no reason"):
        audit.ignored("PYSEC-1\n")
    audit.ignored(audit.IGNORED.read_text())
