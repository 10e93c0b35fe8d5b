"""Print what ccp-ray needs, one requirement a line: python requirements.py cpu|gpu [pyproject.toml]

The Dockerfile installs this list before it copies the code, so a changed line of code does not install 3 GB again (pip
cannot install a project's dependencies alone). faiss-gpu takes faiss-cpu's place: both own the folder `faiss`.
Needs Python 3.11 or newer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tomllib


def requirements(pyproject: str, device: str) -> list[str]:
    """The requirements for `device` (cpu or gpu) of a pyproject.toml, as text."""
    project = tomllib.loads(pyproject)["project"]
    wanted: list[str] = project["dependencies"]
    if device == "gpu":
        return [each for each in wanted if not each.startswith("faiss-cpu")] + project["optional-dependencies"]["gpu"]
    return wanted


def main() -> None:
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ("cpu", "gpu"):
        sys.exit(__doc__)
    file = Path(sys.argv[2]) if len(sys.argv) == 3 else Path("pyproject.toml")
    print("\n".join(requirements(file.read_text(encoding="utf-8"), sys.argv[1])))


if __name__ == "__main__":
    main()
