"""A benchmark in a file of one's own: the example of docs/benchmarks.md runs, and what is wrong with others is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ccp_ray.errors import CcpError, DataError, UsageError
from eval.evaluate import EvaluateConfig, load_any
from eval.plugin import load_plugin
from eval.protocol import Vectors

EXAMPLE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
CONFIG = EvaluateConfig()


RANKED = """
from eval.ranked import Collection as C, Question as Q

class Ranked:
    depth, needs_text = 1, False
    def __init__(self, collections, questions): self.own = collections, questions
    def collections(self): return self.own[0]
    def questions(self): return self.own[1]
    def score(self, run): ...
    def describe(self): ...
    def key(self): ...
"""
FROZEN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Frozen:
    name: str
    def texts(self): return []
    def score(self, lookup): ...
    def describe(self): ...
    def key(self): ...

def load(data): return Frozen("NAME")
"""


def example() -> str:
    return EXAMPLE.read_text().partition("```python\n")[2].partition("```")[0]


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "paraphrases.tsv").write_text("".join(f"de\tfrage {i}\tantwort {i}\n" for i in range(60)))
    (tmp_path / "mine.py").write_text(example())
    return str(tmp_path / "mine.py")


def test_the_example_of_the_docs_is_a_benchmark(mine: str, tmp_path: Path) -> None:
    assert len(example().splitlines()) < 60
    loaded = load_any([mine], str(tmp_path), CONFIG)
    benchmark = loaded.texts()["mine"]
    assert benchmark.name == "mine"
    texts = benchmark.texts()
    assert len(texts) == 120
    rows = {text.id: np.eye(60, dtype=np.float32)[int(text.text.split()[1])] for text in texts}
    vectors = Vectors({"de": list(rows)}, {"de": np.array(list(rows.values()))})
    score = benchmark.score(vectors.get)
    assert score["macro"] == score["languages"]["de"] == {"accuracy": 1.0}


def test_the_code_is_part_of_what_is_asked(mine: str, tmp_path: Path) -> None:
    before = load_any([mine], str(tmp_path), CONFIG).reference("mine", {})
    Path(mine).write_text(example() + "# changed\n")
    assert load_any([mine], str(tmp_path), CONFIG).reference("mine", {}).fingerprint != before.fingerprint


def test_files_that_are_no_benchmark(tmp_path: Path, mine: str) -> None:
    cases: list[tuple[str, str, type[CcpError], str]] = [
        ("a.py", "x = 1", UsageError, "defines no function load"),
        ("b.py", "import nothing_of_this_name", UsageError, "nothing_of_this_name"),
        ("c.py", "def load(data", UsageError, "SyntaxError"),
        ("d.py", "def load(data):\n    raise KeyError('k')", DataError, r"load\(.*KeyError"),
        ("e.py", "def load(data):\n    return 1", DataError, "load returned int without 'score'"),
        ("h.py", FROZEN, DataError, r"h\.py: load returned Frozen, whose name cannot be set"),
        ("i.py", RANKED + "def load(data): return Ranked(None, [])", DataError, r"collections\(\) failed: TypeError"),
        ("f-g.py", "def load(data): ...", UsageError, "letters, digits and _"),
        ("tatoeba.py", "def load(data): ...", UsageError, "there is a benchmark 'tatoeba' already"),
    ]
    for name, text, error, message in cases:
        (tmp_path / name).write_text(text)
        with pytest.raises(error, match=message):
            load_any([str(tmp_path / name)], str(tmp_path), CONFIG)
    for name, fields, message in (
        ("unknown.py", "[C('a', 'x')], [Q('1', 'de', 't', 'b')]", "question '1' asks collection 'b'.*it names a"),
        ("unasked.py", "[C('a', 'x'), C('z', 'y')], [Q('1', 'de', 't', 'a')]", "no question asks collection 'z'"),
        ("empty.py", "[], []", "no collections"),
    ):
        (tmp_path / name).write_text(RANKED + f"def load(data): return Ranked({fields})")
        with pytest.raises(UsageError, match=rf"{name}: {message}"):
            load_any([str(tmp_path / name)], str(tmp_path), CONFIG)
        assert load_plugin(str(tmp_path / name), str(tmp_path), collections=False).name == name[:-3]
    with pytest.raises(UsageError, match="cannot be read"):
        load_any([str(tmp_path / "none.py")], str(tmp_path), CONFIG)
    (tmp_path / "paraphrases.tsv").unlink()
    with pytest.raises(UsageError, match="no such file"):
        load_plugin(mine, str(tmp_path))


def test_a_frozen_benchmark_may_have_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "frozen.py").write_text(FROZEN.replace("NAME", "frozen"))
    assert load_plugin(str(tmp_path / "frozen.py"), str(tmp_path)).name == "frozen"
