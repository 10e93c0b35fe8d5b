"""Asks about known vulnerabilities of every package that constraints.txt pins for this Python: `make audit`.

pip-audit does the asking (of the package index' advisories; ARGS="-s osv" asks OSV), from a virtual environment of its
own, so that what it needs moves no pin. Exit code 0: nothing known; 1: something is known that
`scripts/audit_ignored.txt` does not excuse. A package that nobody could be asked about is no finding: it is said
loudly and the exit code stays 0, so that a network without advisories does not stop work; with --strict it is 3.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PINS, IGNORED = ROOT / "constraints.txt", ROOT / "scripts" / "audit_ignored.txt"
HOME, PIP_AUDIT = ROOT / ".venv-audit", "pip-audit==2.10.1"


class Verdict(NamedTuple):
    """What is known of the pins. asked: how many there was an answer for; silent: those without one, and why."""

    asked: int
    findings: list[str]
    silent: list[str]

    def exit_code(self, strict: bool) -> int:
        return 1 if self.findings else 3 if strict and (self.silent or not self.asked) else 0


def judged(report: dict[str, Any]) -> Verdict:
    """pip-audit's JSON."""
    packages = report["dependencies"]
    silent = [f"{package['name']}: {package['skip_reason']}" for package in packages if "skip_reason" in package]
    findings = [
        f"{package['name']} {package['version']}: {found['id']} ({', '.join(found['aliases']) or 'no other name'}), "
        f"fixed in {', '.join(found['fix_versions']) or 'no release yet'}"
        for package in packages
        for found in package.get("vulns", [])
    ]
    return Verdict(len(packages) - len(silent), findings, silent)


def ignored(text: str) -> list[str]:
    """Ids of the file: one a line, each with its reason. Raises ValueError for one without."""
    rows = [line.partition("#") for line in text.splitlines() if line.partition("#")[0].strip()]
    unexplained = [row[0].strip() for row in rows if not row[2].strip()]
    if unexplained:
        raise ValueError(f"{IGNORED.name}: {unexplained[0]} has no reason; write `ID  # why it does not concern us`")
    return [row[0].strip() for row in rows]


def audit(options: list[str]) -> Verdict:
    """Ask about all pins. Raises CalledProcessError where pip-audit cannot be installed."""
    program = HOME / "bin" / "pip-audit"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", HOME], check=True)
        subprocess.run([HOME / "bin" / "pip", "install", "-q", PIP_AUDIT], check=True)
    excused = [part for name in ignored(IGNORED.read_text()) for part in ("--ignore-vuln", name)]
    command = [program, "--disable-pip", "--no-deps", "--progress-spinner=off", "-f", "json", "-r", PINS]
    done = subprocess.run([*command, *excused, *options], capture_output=True, text=True, check=False)
    try:
        return judged(json.loads(done.stdout))
    except ValueError:  # it ends with a traceback where there is no network
        said = (done.stderr.strip() or "no message").splitlines()[-1]
        return Verdict(0, [], [f"all pins: {said}"])


def main() -> None:
    strict, options = "--strict" in sys.argv, [word for word in sys.argv[1:] if word != "--strict"]
    verdict = audit(options)
    for finding in verdict.findings:
        print(f"audit: VULNERABLE {finding}")
    if verdict.silent:
        print(f"audit: NOT AUDITED, nobody could be asked about {len(verdict.silent)} of them: {verdict.silent[0]}")
    print(f"audit: {verdict.asked} pins audited, {len(verdict.findings)} vulnerabilities")
    sys.exit(verdict.exit_code(strict))


if __name__ == "__main__":
    main()
