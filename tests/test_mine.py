"""Mining hard negatives: against a brute-force search, and what is never a negative."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pair_files
import pytest
import tiny_models
import torch
from without_ray import embedding_here

from ccp_ray.artifact import verify_artifact
from ccp_ray.config import build_config
from ccp_ray.encoder import Encoder
from ccp_ray.errors import DataError, UsageError
from ccp_ray.lines import pack_lines, source_file, unpacked_lines
from ccp_ray.mine import MineConfig, hard_negatives, mine, mine_passages
from ccp_ray.pair_sources import Asked, Passage, SourceConfig, read_source
from ccp_ray.search import Hit

pytestmark = pytest.mark.timeout(300)


def hit(name: str, text: str) -> Hit:
    return Hit(name, 1.0, "en", text)


def test_positives_answers_and_copies_are_no_negatives() -> None:
    asked = Asked("q", "en", "who?", ["Karl  Marx", "no"], [Passage("T", "A text.", "7")], [])
    hits = [
        hit("7", "changed since"),
        hit("1", "t\n\na  TEXT."),
        hit("2", "A text."),
        hit("3", "It was karl marx."),
        hit("4", "Nothing, no."),
        hit("5", "nothing, NO."),
        hit("6", "Else."),
    ]
    assert [found.id for found in hard_negatives(asked, hits)] == ["4", "6"]


def wide_encoder(folder: Path) -> str:
    """With weights so large that cosines differ by more than rounding."""
    model = tiny_models.bert()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(15)
    model.save_pretrained(folder)
    tiny_models.tokenizer(24).save_pretrained(folder)
    return str(folder)


def mined(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line.data) for line in unpacked_lines(source_file(f"{folder}/pairs.jsonl.gz"))]


def test_the_mined_are_those_of_a_brute_force_search(ray_local: None, tmp_path: Path) -> None:
    found = pair_files.rows(20)
    for row in found:
        row["answers"] = [row["positive_ctxs"][0]["text"][:2]]
    texts = list(dict.fromkeys(p["text"] for row in found for p in [*row["positive_ctxs"], *row["hard_negative_ctxs"]]))
    rows = [{"id": f"p{number:03d}", "text": text} for number, text in enumerate(texts)]
    (tmp_path / "passages.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = wide_encoder(tmp_path / "encoder")
    file = pair_files.write_dpr(tmp_path / "questions.json", found)
    asked = {"sources": [{"file": file}], "first": 2, "last": 15, "keep": 4}
    config = build_config(MineConfig, asked | {"embed": {"precision": "fp32", "dtype": "float32"}})
    output = mine_passages(source, str(tmp_path / "passages.jsonl"), str(tmp_path / "mined"), config)
    assert verify_artifact(output) == []
    assert output.summary["questions"] == 20

    encoder = Encoder.load(source)
    unit = lambda vectors: vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # noqa: E731
    scores = unit(encoder.encode([row["question"] for row in found])) @ unit(encoder.encode(texts)).T
    for row, score, got in zip(found, scores, mined(tmp_path / "mined" / "pairs"), strict=True):
        ranked = [texts[place] for place in np.argsort(-score, kind="stable")[1:15]]
        positives = {p["text"] for p in row["positive_ctxs"]}
        expected = [text for text in ranked if text not in positives and row["answers"][0] not in text][:4]
        assert [passage["text"] for passage in got["hard_negative_ctxs"]] == expected
        assert got["question"] == row["question"]
    assert output.read("pairs.jsonl.gz") == pack_lines(mined(tmp_path / "mined" / "pairs"))

    pairs = list(read_source(SourceConfig(file=f"{tmp_path}/mined/pairs/pairs.jsonl.gz")))
    assert all(isinstance(one, Asked) and len(one.negatives) <= 4 for one in pairs)
    again = mine(f"{tmp_path}/mined/index", str(tmp_path / "again"), config)
    assert again.fingerprint == output.fingerprint
    two = config.model_copy(update={"question_encoder": source, "question_tokens": 4})
    assert mine(f"{tmp_path}/mined/index", str(tmp_path / "two"), two).fingerprint != output.fingerprint

    read_otherwise = build_config(MineConfig, asked | {"embed": {"pooling": "cls", "prompt": "ab", "max_tokens": 9}})
    with embedding_here():
        other = mine_passages(source, str(tmp_path / "passages.jsonl"), str(tmp_path / "other"), read_otherwise)
    with_limit = config.model_copy(update={"question_tokens": 9})  # that of the index: so it must change nothing
    limited = mine(f"{tmp_path}/other/index", str(tmp_path / "limited"), with_limit)
    assert limited.read("pairs.jsonl.gz") == other.read("pairs.jsonl.gz") != output.read("pairs.jsonl.gz")

    empty = pair_files.write_dpr(tmp_path / "empty.json", [])
    with pytest.raises(DataError, match=r"empty\.json: no question that could be used"):
        mine(
            f"{tmp_path}/mined/index",
            str(tmp_path / "none"),
            config.model_copy(update={"sources": [SourceConfig(file=empty)]}),
        )
    assert not (tmp_path / "none" / "_job.json").exists()
    with pytest.raises(UsageError, match="first=3 is more than last=2"):
        build_config(MineConfig, asked | {"first": 3, "last": 2})
