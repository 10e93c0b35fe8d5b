"""The examples of docs/reading.md run, against small artifacts at the places they name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from embeddings_factory import write_embeddings
from index_factory import D, build

from ccp_ray.artifact import Artifact, Output, Request, open_output
from ccp_ray.calibration import Calibration
from ccp_ray.model_source import model_reference

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reading.md"
LANGUAGES = ["de", "en"]


def calibration(uri: Path) -> Artifact:
    """Shifts each language; nothing else."""
    steps = {
        lang: (np.full(D, 0.1 * number, dtype=np.float32), np.ones(D, dtype=np.float32), np.eye(D, dtype=np.float32))
        for number, lang in enumerate(LANGUAGES)
    }
    output = open_output(str(uri), Request(kind="calibration", config={}))
    assert isinstance(output, Output)
    fitted = Calibration("en", steps)
    return output.finish([fitted.save(output.store)], fitted.summary())


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/embeddings, runs/calibration, runs/index and runs/calibrated-index in the current folder."""
    encoder = model_reference("encoder", str(tiny_models.plain_folder(tmp_path / "encoder"))).model_dump()
    vectors = np.random.default_rng(0).normal(size=(250, D)).astype(np.float32)
    table = [{"id": f"d{i}", "lang": LANGUAGES[i % 2], "text": f"text {i}"} for i in range(250)]
    parts = [(vectors[a:b], [tuple(row.values()) for row in table[a:b]]) for a, b in ((0, 120), (120, 250))]
    write_embeddings(str(tmp_path / "runs/embeddings"), parts)
    fitted = calibration(tmp_path / "runs/calibration")
    build(tmp_path / "runs/index", vectors, table, 2, encoder=encoder)
    build(tmp_path / "runs/calibrated-index", vectors, table, 2, encoder=encoder, calibration=fitted)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_run(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) == 5
    assert "250 vectors of 16 dimensions; rows by language: {'de': 125, 'en': 125}" in capsys.readouterr().out
    np.testing.assert_array_equal(names["others"], names["e"][:][[3, 190, 7, 249]])
    assert names["table"].num_rows == 500
    assert {hit.lang for hits in names["only"] for hit in hits} == {"de"}


def test_importing_the_package_loads_no_reader() -> None:
    code = "import sys, ccp_ray; print(sorted({'numpy', 'pyarrow', 'faiss', 'torch', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PAGE.parents[1], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import ccp_ray

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        ccp_ray.Nothing  # noqa: B018
