"""Mining: against a brute-force search, what is never a negative, and positives for questions with answers alone."""

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
from ccp_ray.mine import MineConfig, answering, hard_negatives, mine, mine_passages
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
        hit("8", "A Karl Marxist."),
    ]
    assert [found.id for found in hard_negatives(asked, hits)] == ["4", "6"]


def test_a_positive_is_the_first_whose_text_holds_an_answer() -> None:
    asked = Asked("q", "te", "when?", ["1917", "yes"], [], [])
    hits = [
        hit("1", "Yes.\n\nYes."),
        hit("2", "19170 of them."),
        hit("3", "1917\n\nA year."),
        hit("4", "A\n\nIn 1917."),
    ]
    assert answering(asked, [*hits, hit("5", "1917.")]) == [Passage("", "A\n\nIn 1917.", "4")]
    assert answering(asked, hits[:3]) == []
    found = asked._replace(positives=answering(asked, hits))
    assert [one.id for one in hard_negatives(found, hits)] == ["1"]


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


def test_questions_with_answers_alone_get_the_highest_passage_that_holds_one(ray_local: None, tmp_path: Path) -> None:
    """XOR's train set and DPR's TSV in, what `finetune` reads out."""
    rng = np.random.default_rng(5)
    words = [pair_files.text(rng, 5) for _ in range(14)]
    titles, bodies = ([" ".join(rng.choice(words, count)) for _ in range(40)] for count in (1, 4))
    lines = [f"p{number}\t{body}\t{title}" for number, (title, body) in enumerate(zip(titles, bodies, strict=True))]
    (tmp_path / "passages.tsv").write_text("\n".join(["id\ttext\ttitle", *lines]) + "\n")
    answers = [[word, "yes"] for word in words[:8]] + [["yes"], ["no"], ["nowhere"], [words[0][:1] + "0"]]
    rows = [
        {"id": f"q{number}", "question": pair_files.text(rng, 9), "answers": answer, "lang": " ar", "split": "train"}
        for number, answer in enumerate(answers)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = wide_encoder(tmp_path / "encoder")
    asked = {"sources": [{"file": str(tmp_path / "train.jsonl")}], "first": 3, "last": 25, "keep": 3}
    config = build_config(MineConfig, asked | {"embed": {"precision": "fp32", "dtype": "float32"}})
    with embedding_here():
        output = mine_passages(source, str(tmp_path / "passages.tsv"), str(tmp_path / "mined"), config)
    assert verify_artifact(output) == []

    encoder, texts = Encoder.load(source), [f"{title}\n\n{body}" for title, body in zip(titles, bodies, strict=True)]
    unit = lambda vectors: vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # noqa: E731
    scores = unit(encoder.encode([row["question"] for row in rows])) @ unit(encoder.encode(texts)).T
    expected, at_first = {}, 0
    for row, score in zip(rows, scores, strict=True):
        ranked = list(map(int, np.argsort(-score, kind="stable")[:25]))
        positive = next((place for place in ranked if row["answers"][0] in bodies[place].split()), None)
        if positive is not None:
            away = [texts[place] for place in ranked[2:] if row["answers"][0] not in texts[place]]
            expected[row["id"]] = (texts[positive], list(dict.fromkeys(away))[:3])
            at_first += positive == ranked[0]
    assert at_first < len(expected) < 9, "some positives must be further down, some questions without"

    found = list(read_source(SourceConfig(file=f"{output.uri}/pairs.jsonl.gz")))
    assert all(isinstance(one, Asked) and one.lang == "ar" for one in found)
    got = {one.id: (one.positives[0].text, [each.text for each in one.negatives]) for one in found}  # type: ignore[union-attr]
    assert got == expected
    counted = {"questions": len(expected), "questions_by_answer": len(expected), "questions_of_yes_or_no": 2}
    counted |= {"questions_without_passage": 10 - len(expected), "quarantined": 0}
    assert output.summary.items() >= counted.items()

    (tmp_path / "train.jsonl").write_text(json.dumps(rows[10]))
    with pytest.raises(DataError, match=r"train\.jsonl: no passage among ranks 1 to 25 holds an answer"):
        mine(f"{tmp_path}/mined/index", str(tmp_path / "none"), config)
    assert not (tmp_path / "none" / "_job.json").exists()
