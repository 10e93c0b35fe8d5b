"""Parts of the folder of real text that not every copy has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def part(data_folder: Path, name: str) -> str:
    """The folder, which holds `name`. Skips where it does not; fails in CI."""
    if not (data_folder / name).is_dir():
        message = f"no {name}/ in {data_folder}: set CCP_RAY_DATA to a folder that has it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return str(data_folder)
