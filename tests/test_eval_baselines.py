"""BM25 against its formula by hand, words of many scripts, chance, and the artifact."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest

from ccp_ray.errors import DataError, UsageError
from eval.baseline import evaluate_baseline
from eval.baselines import BaselineConfig, bm25_ranker, random_ranker
from eval.collection_texts import Passages, read_collection, texts_of
from eval.run_reader import read_predictions, read_runs
from eval.search_words import search_words

TEXTS = ["the cat sat on the mat", "A dog and a cat", "dogs", "cat cat cat, cat!", "nothing here", "a DOG and a cat"]


def by_hand(texts, question, k1, b):
    documents = [Counter(text.lower().replace(",", "").replace("!", "").split()) for text in texts]
    mean = sum(sum(d.values()) for d in documents) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in question.lower().split():
            df = sum(word in d for d in documents)
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            tf = document[word]
            score += idf * tf / (tf + k1 * (1 - b + b * sum(document.values()) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize("question", ["cat", "dog cat", "the the mat", "unseen dog"])
@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75)])
def test_bm25_equals_the_formula(question, k1, b):
    ids = [f"d{9 - i}" for i in range(len(TEXTS))]
    rows, scores = bm25_ranker(Passages(ids, TEXTS, TEXTS), 100, BaselineConfig(k1=k1, b=b))(question)
    expected = by_hand(TEXTS, question, k1, b)
    assert scores == pytest.approx([expected[row] for row in rows], rel=1e-5)
    assert set(rows) == {i for i, score in enumerate(expected) if score > 0}
    # Rows 1 and 5 have the same words: the smaller id first.
    order = sorted((i for i in rows), key=lambda i: (-round(expected[i], 9), ids[i]))
    assert list(rows) == order


def test_a_question_without_known_words_has_no_hits_and_the_depth_is_kept():
    ranker = bm25_ranker(Passages(list("abcdef"), TEXTS, TEXTS), 2, BaselineConfig())
    assert ranker("unseen words") == ([], [])
    assert len(ranker("cat dog")[0]) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't STOP, 3.5!", ["don", "t", "stop", "3", "5"]),
        ("\uff21\uff22\uff23 Straße", ["abc", "strasse"]),
        ("東京タワー is", ["東京", "京タ", "タワ", "ワー", "is"]),
        ("本 a", ["本", "a"]),
        ("ক্রিকেট খেলা", ["ক্রিকেট", "খেলা"]),
        ("తెలుగు భాష", ["తెలుగు", "భాష"]),
        ("2019년까지", ["2019년까지".casefold()]),
        ("", []),
    ],
)
def test_words_of_many_scripts(text, words):
    assert search_words(text) == words


def test_chance_is_the_same_each_time():
    passages = Passages([str(i) for i in range(50)], [""] * 50, [""] * 50)
    first, second = (random_ranker(passages, 10, BaselineConfig())("q") for _ in range(2))
    assert first == second
    assert len(set(first[0])) == 10
    assert random_ranker(passages, 10, BaselineConfig(seed=1))("q") != first


def benchmark_folder(folder):
    docs = folder / "mrtydi-v1.1-en" / "collection"
    docs.mkdir(parents=True)
    rows = [{"id": f"{i}#0", "contents": f"T{i}\n\n{text}"} for i, text in enumerate(TEXTS)]
    (docs / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "topics.mrtydi-v1.1-en.test.txt").write_text("1\tthe mat\n2\tdogs\n")
    (folder / "qrels.mrtydi-v1.1-en.test.txt").write_text("1 Q0 0#0 1\n2 Q0 2#0 1\n")
    (folder / "psgs.tsv").write_text("id\ttext\ttitle\n" + "".join(f"{i}\t{t}\tT{i}\n" for i, t in enumerate(TEXTS)))
    question = {"id": "q", "question": "T3 mikä", "answers": ["cat,"], "lang": "fi", "split": "dev"}
    (folder / "xor_dev_retrieve_eng_span.jsonl").write_text(json.dumps(question) + "\n")
    return str(folder)


def test_the_artifact_has_runs_that_score_the_same(tmp_path):
    data = benchmark_folder(tmp_path)
    artifact = evaluate_baseline("bm25", ["mrtydi", "xor_retrieve"], data, str(tmp_path / "out"))
    assert artifact.kind == "evaluation"
    assert artifact.summary["benchmarks"]["mrtydi"]["raw"] == {"mrr@100": 1.0, "recall@100": 1.0}
    runs = read_runs(f"{artifact.uri}/runs/mrtydi/raw", ["en"])
    assert [hit.id for hit in runs["en"]["2"]] == ["2#0"]
    assert read_predictions(f"{artifact.uri}/runs/xor_retrieve/raw/predictions.json")["fi"]["q"][0].text == TEXTS[3]
    results = json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]
    assert results["xor_retrieve"]["calibration"] == "none"
    # word_tokenize parts "cat" from the comma.
    assert results["xor_retrieve"]["variants"]["raw"]["macro"] == {"r@2kt": 0.0, "r@5kt": 0.0}
    assert results["mrtydi"]["data"]["languages"]["en"]["unknown"] == 0
    assert (
        evaluate_baseline("bm25", ["xor_retrieve", "mrtydi"], data, str(tmp_path / "out")).fingerprint
        == artifact.fingerprint
    )


def test_bad_requests_are_named(tmp_path):
    data = benchmark_folder(tmp_path)
    with pytest.raises(UsageError, match="unknown baseline 'tfidf'; known: bm25, random"):
        evaluate_baseline("tfidf", ["mrtydi"], data, str(tmp_path / "out"))
    for lang in ("xx", "yy"):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{lang}.txt").write_text("one\n")
    with pytest.raises(UsageError, match="benchmark 'translations' has no collection to rank"):
        evaluate_baseline("bm25", ["translations"], str(tmp_path / "texts"), str(tmp_path / "out"))


def test_collections_are_read_and_ids_are_unique(tmp_path):
    (tmp_path / "p.tsv").write_text("id\ttext\ttitle\n1\tone\tT\n2\ttwo\tU\n")
    assert read_collection(str(tmp_path / "p.tsv")) == Passages(["1", "2"], ["one", "two"], ["T\n\none", "U\n\ntwo"])
    assert texts_of(str(tmp_path / "p.tsv"), ["2"]) == {"2": "two"}
    with pytest.raises(DataError, match="no passage '3', which a run names"):
        texts_of(str(tmp_path / "p.tsv"), ["2", "3"])
    (tmp_path / "p.tsv").write_text("1\tone\tT\n1\ttwo\tU\n")
    with pytest.raises(DataError, match="passage id '1' comes twice"):
        read_collection(str(tmp_path / "p.tsv"))
