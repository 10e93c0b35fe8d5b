"""Mr.TyDi and XOR-Retrieve from files as they are distributed to their measures, with a real encoder, by brute force.

All is real but for Ray: embedding and the search of three pieces a collection run in this process.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny_models
import trec_oracle
import xor_oracle
from without_ray import embedding_here, pieces_here

from ccp_ray.artifact import Artifact
from ccp_ray.embeddings import Embeddings
from ccp_ray.encoder import Encoder
from ccp_ray.passages import tsv_line
from eval.evaluate import EvaluateConfig, evaluate

TYDI, XOR = ("fi", "sw"), ("fi", "ja")
DOCS, QUESTIONS, WORDS = 230, 12, 95
EXACT = {"precision": "fp32", "dtype": "float32"}
CONFIG = EvaluateConfig.model_validate({"questions": EXACT, "passages": {**EXACT, "piece_rows": 90}})
SPREAD = 0.1  # of the weights: with the usual 0.02 all texts have one vector, but for its last bits
_LETTERS = list(tiny_models.LETTERS)


class Files(NamedTuple):
    """What was written. passages: text to encode by id, by collection; texts: XOR-Retrieve's, without titles."""

    passages: dict[str, dict[str, str]]
    texts: dict[str, str]
    questions: dict[tuple[str, str], str]
    judged: dict[str, dict[str, dict[str, int]]]
    answers: dict[str, tuple[str, list[str]]]


def words(rng: np.random.Generator, count: int) -> str:
    return " ".join("".join(rng.choice(_LETTERS, size=5)) for _ in range(count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def files(folder: Path) -> Files:
    made = Files({}, {}, {}, {}, {})
    for seed, lang in enumerate(TYDI):
        write_mrtydi(folder, lang, made, np.random.default_rng(seed))
    write_xor(folder / "xor_retrieve", made, np.random.default_rng(9))
    return made


def write_mrtydi(folder: Path, lang: str, made: Files, rng: np.random.Generator) -> None:
    """One language's names are codes and its files lie flat, the other's are those of the archives."""
    passages = {f"{n // 3}#{n % 3}": f"{words(rng, 1)}\n\n{words(rng, 6)}" for n in range(DOCS)}
    lines = "".join(json.dumps({"id": id, "contents": text}) + "\n" for id, text in passages.items())
    topics, qrels = "", ""
    for number in range(QUESTIONS):
        good = rng.choice(list(passages), size=1 + number % 3, replace=False)
        made.questions[lang, str(number)] = question = passages[str(good[0])][7 : 13 + number] + "?"
        topics += f"{number}\t{question}\n"
        qrels += "".join(f"{number}\tQ0\t{id}\t1\n" for id in good)
        made.judged.setdefault(lang, {})[str(number)] = {str(id): 1 for id in good}
    made.passages[lang] = passages
    archive = folder / f"mrtydi-v1.1-{lang}" if lang != "sw" else folder / "mrtydi-v1.1-swahili"
    (archive / "collection").mkdir(parents=True)
    (archive / "collection" / "docs.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    if lang == "sw":
        (archive / "topic.test.tsv").write_text(topics)
        (archive / "qrels.test.txt").write_text(qrels)
    else:
        (folder / f"topics.mrtydi-v1.1-{lang}.test.txt.gz").write_bytes(gzip.compress(topics.encode()))
        (folder / f"qrels.mrtydi-v1.1-{lang}.test.txt").write_text(qrels)


def write_xor(folder: Path, made: Files, rng: np.random.Generator) -> None:
    """Passages of a hundred tokens, of which each question's answer is in one; one in four is answered yes or no."""
    folder.mkdir(parents=True)
    passages, table = {}, "id\ttext\ttitle\n"
    for number in range(1, DOCS + 1):
        id, title = str(number), words(rng, 1)
        made.texts[id] = f'{words(rng, WORDS)} "Answer{number} so" (19{number:03d}).'
        passages[id] = f"{title}\n\n{made.texts[id]}"
        table += tsv_line(id, made.texts[id], title)
    made.passages["en"] = passages
    (folder / "psgs_w100.tsv").write_text(table)
    rows = []
    for number in range(2 * QUESTIONS):
        lang, good = XOR[number % 2], str(int(rng.integers(1, DOCS + 1)))
        answers = ["yes"] if number % 4 == 3 else ["no", f"Answer{good} so"]
        question = passages[good].replace("\n\n", " ")[: 8 + number % 3]
        made.questions[lang, f"x{number}"] = question
        made.answers[f"x{number}"] = (lang, answers)
        rows.append({"id": f"x{number}", "question": question, "answers": answers, "lang": lang, "split": "dev"})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "xor_dev_retrieve_eng_span_v1_1.jsonl").write_text(lines)


@pytest.fixture(scope="module")
def made(folder: Path, files: Files) -> Artifact:
    encoder = str(folder / "encoder")
    tiny_models.encoder("mean", initializer_range=SPREAD).save(folder / "encoder")
    output = str(folder / "out")
    with embedding_here(), pieces_here("ccp_ray.embed", "eval.exact_job"):
        return evaluate(encoder, ["mrtydi", "xor_retrieve"], str(folder), output, None, CONFIG)


def embedded(made: Artifact, name: str, encoder: Encoder) -> tuple[list[str], list[str], np.ndarray]:
    """Ids, texts and vectors that the evaluation had, which are the encoder's own of these texts; at unit length."""
    vectors_ND, texts, ids = [], [], []
    for part_ND, table in Embeddings.open(made.store.uri(name)):
        vectors_ND.append(part_ND)
        texts += table.column("text").to_pylist()
        ids += table.column("id").to_pylist()
    all_ND = np.concatenate(vectors_ND)
    np.testing.assert_allclose(all_ND, encoder.encode(texts), rtol=1e-5, atol=1e-5)
    wide_ND = all_ND.astype(np.float64)
    return ids, texts, wide_ND / np.linalg.norm(wide_ND, axis=1, keepdims=True)


Scores = Mapping[tuple[str, str], Mapping[str, float]]


@pytest.fixture(scope="module")
def scores(made: Artifact, files: Files, folder: Path) -> dict[str, Scores]:
    """Every question's cosine with every passage, by collection; six decimals, as a run has them."""
    encoder = Encoder.load(str(folder / "encoder"), precision="fp32")
    _, asked, asked_QD = embedded(made, "question_embeddings", encoder)
    rows = {text: row for row, text in enumerate(asked)}
    found: dict[str, Scores] = {}
    for number, (name, passages) in enumerate(files.passages.items()):
        ids, texts, passages_ND = embedded(made, f"passages/{number:02d}-{name}", encoder)
        assert len(Embeddings.open(made.store.uri(f"passages/{number:02d}-{name}")).pieces) == 3
        assert dict(zip(ids, texts, strict=True)) == passages
        cosines_QN = np.round(asked_QD @ passages_ND.T, 6)
        found[name] = {
            key: dict(zip(ids, cosines_QN[rows[text]].tolist(), strict=True)) for key, text in files.questions.items()
        }
    return found


def variants(made: Artifact, name: str) -> dict[str, Any]:
    entry = json.loads(made.read("results.json"))["benchmarks"][name]
    assert list(entry["variants"]) == ["raw"]
    score: dict[str, Any] = entry["variants"]["raw"]
    return score


def mean_of(languages: Mapping[str, Mapping[str, float]], name: str) -> float:
    return float(np.mean([values[name] for values in languages.values()]))


def test_mrtydi_is_scored_as_by_brute_force(made: Artifact, files: Files, scores: dict[str, Scores]) -> None:
    score = variants(made, "mrtydi")
    for lang in TYDI:
        run = {number: scores[lang][lang, number] for number in files.judged[lang]}
        expected = trec_oracle.measures(files.judged[lang], run, 100)
        assert score["languages"][lang] == pytest.approx(expected, abs=1e-6)
        assert 0 < expected["mrr@100"] < expected["recall@100"] < 1  # else the cut, or the order, is not seen
    assert score["languages"].keys() == set(TYDI)
    for name in ("mrr@100", "recall@100"):
        assert score["macro"][name] == pytest.approx(mean_of(score["languages"], name))
    assert not score["complete"]


def best(found: Mapping[str, float], texts: Mapping[str, str], depth: int = 100) -> Sequence[str]:
    return [texts[id] for id, _ in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:depth]]


def test_xor_retrieve_is_scored_as_by_brute_force(made: Artifact, files: Files, scores: dict[str, Scores]) -> None:
    score = variants(made, "xor_retrieve")
    answers = {name: own for name, (_, own) in files.answers.items()}
    predictions = [
        {"id": name, "lang": lang, "ctxs": best(scores["en"][lang, name], files.texts)}
        for name, (lang, _) in files.answers.items()
    ]
    for name, limit in (("r@2kt", 2000), ("r@5kt", 5000)):
        macro, shares = xor_oracle.recall(predictions, answers, limit)
        assert score["macro"][name] == pytest.approx(macro)
        assert {lang: values[name] for lang, values in score["languages"].items()} == pytest.approx(shares)
    assert 0 < score["macro"]["r@2kt"] < score["macro"]["r@5kt"] < 1
    assert score["counts"] == {"fi": 12, "ja": 6}  # without yes and no
    assert score["complete"]
