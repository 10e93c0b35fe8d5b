"""Evaluation of benchmarks that rank a collection: embedded once, searched exactly, cached, written as runs, scored."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from embeddings_factory import write_embeddings
from toy_ranked import LANGUAGES, PASSAGES, QUESTIONS, Toy, load_toy, toy_folder, write_passages

from ccp_ray.artifact import Artifact, InputRef, Output, Request, open_output
from ccp_ray.calibration_fit import fit
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.errors import DataError, UsageError
from ccp_ray.patterns import expand
from ccp_ray.storage import read_uri
from eval import evaluate as module
from eval.evaluate import EvaluateConfig, evaluate, load_benchmarks
from eval.run_reader import read_runs
from eval.run_scores import score_runs
from jobs.evaluate_plan import plan_evaluate

WIDTH = 12
OFFSETS = {"qaa": 0.0, "qab": 3.0, "qac": -2.0}


def vector(lang: str, text: str, encoder: str = "e") -> np.ndarray:
    """Meaning by number, plus what every text of the language shares; another encoder sees noise."""
    line = int(text.split()[1]) + (1000 if encoder == "other" else 0)
    noise = 0.2 * np.random.default_rng([line, sum(lang.encode())]).standard_normal(WIDTH)
    return (np.random.default_rng(line).standard_normal(WIDTH) + noise + OFFSETS[lang]).astype(np.float32)


class FakeEmbed:
    """What an encoder would give, in pieces of 40 rows; counts what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, EmbedConfig]] = []

    def __call__(self, encoder: str, texts: str, output: str, config: EmbedConfig) -> Artifact:
        if Path(output, "artifact.json").exists():
            return open_output(output, Request.model_validate_json(Path(output, "_job.json").read_bytes()))  # type: ignore[return-value]
        self.asked.append((encoder, texts, config))
        files = [read_uri(uri) for uri in expand(texts)]
        plain = [gzip.decompress(file) if file[:2] == b"\x1f\x8b" else file for file in files]
        rows = [json.loads(line) for file in plain for line in file.decode().splitlines()]
        vectors = np.array([vector(row["lang"], row["text"], encoder) for row in rows])
        table = [(row["id"], row["lang"], row["text"]) for row in rows]
        return write_embeddings(output, [(vectors[i : i + 90], table[i : i + 90]) for i in range(0, len(rows), 90)])


@pytest.fixture
def embed(monkeypatch: pytest.MonkeyPatch) -> FakeEmbed:
    made = FakeEmbed()
    monkeypatch.setattr(module, "embed", made)
    monkeypatch.setattr(module, "model_reference", lambda role, uri: InputRef(role=role, uri=uri, fingerprint=uri))
    return made


@pytest.fixture
def folder(tmp_path: Path, embed: FakeEmbed, monkeypatch: pytest.MonkeyPatch) -> Path:
    return toy_folder(tmp_path, monkeypatch)


def results(artifact: Artifact) -> dict:
    return json.loads(artifact.read("results.json"))["benchmarks"]


def calibration(uri: Path, languages: dict[str, float] = OFFSETS, encoder: str | None = "e") -> str:
    rows = {lang: np.array([vector(lang, f"{lang} {2000 + i}") for i in range(300)]) for lang in languages}
    output = open_output(str(uri), Request(kind="calibration", config={}))
    assert isinstance(output, Output)
    fitted = fit(rows)
    output.finish([fitted.save(output.store)], fitted.summary() | {"encoder": encoder})
    return str(uri)


def oracle(similarity: str = "cosine") -> dict[str, float]:
    """Brute force: mean of 1/place within 5, raw."""
    passages = np.array([vector("qac", f"qac {i}") for i in range(PASSAGES)], dtype=np.float64)
    if similarity == "cosine":
        passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    found = {}
    for lang in LANGUAGES:
        asked = np.array([vector(lang, f"{lang} {i}") for i in range(QUESTIONS)], dtype=np.float64)
        order = np.argsort(-(asked @ passages.T), axis=1)[:, :5]
        places = [(row == i).nonzero()[0] for i, row in enumerate(order)]
        found[lang] = float(np.mean([1 / (1 + place[0]) if len(place) else 0.0 for place in places]))
    return found


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_raw_scores_are_those_of_brute_force(folder: Path, similarity: str) -> None:
    config = EvaluateConfig.model_validate({"similarity": similarity})
    artifact = evaluate("e", ["toy"], str(folder), str(folder / "out"), None, config)
    entry = results(artifact)["toy"]
    assert {lang: score["first"] for lang, score in entry["variants"]["raw"]["languages"].items()} == pytest.approx(
        oracle(similarity)
    )
    assert list(entry["variants"]) == ["raw"]
    assert (entry["calibration"], entry["n"]) == ("none", 60)
    assert (entry["passages"], entry["similarity"]) == ({"qac": 90}, similarity)
    assert artifact.summary["calibration"] == {"toy": "none"}


def test_calibration_repairs_what_languages_share(folder: Path) -> None:
    artifact = evaluate("e", ["toy"], str(folder), str(folder / "out"), calibration(folder / "c"))
    variants = results(artifact)["toy"]["variants"]
    assert variants.keys() == {"raw", "shift", "scale", "rotate"}
    assert variants["raw"]["macro"]["first"] + 0.05 < variants["shift"]["macro"]["first"]


def test_both_kinds_at_once_and_a_shared_collection_once(folder: Path, embed: FakeEmbed) -> None:
    together = evaluate("e", ["toy", "translations", "wordy"], str(folder), str(folder / "out"))
    assert len(embed.asked) == 3  # sentences, questions, passages
    alone = [
        evaluate("e", [name], str(folder), str(folder / f"alone-{name}")) for name in ("toy", "translations", "wordy")
    ]
    for artifact in alone:
        for name, entry in results(artifact).items():
            assert results(together)[name] == entry
    runs = [record.path for record in together.files if record.path.startswith("runs/")]
    assert runs == [
        *(f"runs/toy/raw/{lang}.trec" for lang in LANGUAGES),
        "runs/wordy/raw/predictions.json",
        *(f"runs/wordy/raw/{lang}.trec" for lang in LANGUAGES),
    ]
    assert not list((folder / "out").glob("_search/*"))


def test_the_runs_that_are_written_score_the_same(folder: Path, embed: FakeEmbed) -> None:
    whole = evaluate("e", ["toy"], str(folder), str(folder / "out"), calibration(folder / "c"))
    embed.asked.clear()
    shutil.move(folder / "passages.jsonl", folder / "gone")
    (folder / "passages.jsonl").touch()  # a run needs no passages
    for variant, score in results(whole)["toy"]["variants"].items():
        runs = folder / "out" / "runs" / "toy" / variant
        by_folder = score_runs([str(runs)], ["toy"], str(folder), str(folder / f"f-{variant}"))
        by_file = score_runs(
            [str(path) for path in sorted(runs.iterdir())], ["toy"], str(folder), str(folder / f"s-{variant}")
        )
        assert results(by_folder)["toy"]["variants"] == {"run": score}
        assert by_folder.fingerprint == by_file.fingerprint
        assert by_folder.summary["benchmarks"]["toy"]["run"] == score["macro"]
    assert not embed.asked


def test_a_cache_embeds_nothing_twice(folder: Path, embed: FakeEmbed) -> None:
    cache = str(folder / "cache")
    first = evaluate("e", ["toy", "translations"], str(folder), str(folder / "a"), cache=cache)
    assert len(embed.asked) == 3
    fitted = calibration(folder / "c")
    second = evaluate("e", ["toy", "translations"], str(folder), str(folder / "b"), fitted, cache=cache)
    third = evaluate("e", ["wordy", "translations"], str(folder), str(folder / "d"), cache=cache)
    assert len(embed.asked) == 4  # the questions of wordy
    raw = [results(artifact)["toy"]["variants"]["raw"] for artifact in (first, second)]
    assert raw[0] == raw[1]
    assert results(third)["translations"] == results(first)["translations"]
    without = evaluate("e", ["toy", "translations"], str(folder), str(folder / "f"))
    assert without.fingerprint == first.fingerprint  # where vectors lie decides nothing
    evaluate("e", ["toy"], str(folder), str(folder / "g"), None, EvaluateConfig(questions=EmbedConfig()), cache=cache)
    assert embed.asked[-1][2].dtype == "float16"
    assert len(embed.asked) == 4 + 3 + 1  # other settings: only the questions again
    evaluate("other", ["toy"], str(folder), str(folder / "h"), cache=cache)
    assert len(embed.asked) == 10


def test_a_killed_run_continues(folder: Path, embed: FakeEmbed, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate("e", ["toy"], str(folder), str(folder / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "score", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate("e", ["toy"], str(folder), str(folder / "cut"))
    asked = len(embed.asked)
    assert evaluate("e", ["toy"], str(folder), str(folder / "cut")).fingerprint == whole.fingerprint
    assert len(embed.asked) == asked
    done = evaluate("e", ["toy"], str(folder), str(folder / "whole"))
    assert done.provenance == whole.provenance


def test_questions_have_their_own_encoder_and_settings(folder: Path, embed: FakeEmbed) -> None:
    config = EvaluateConfig(
        questions=EmbedConfig(dtype="float32", prompt="query: ", max_tokens=32),
        passages=EmbedConfig(prompt="passage: ", max_tokens=256),
    )
    artifact = evaluate("e", ["toy"], str(folder), str(folder / "out"), None, config, query_encoder="other")
    by_encoder = {encoder: config for encoder, _, config in embed.asked}
    assert by_encoder == {"other": config.questions, "e": config.passages}
    assert artifact.input("query_encoder").uri == "other"
    assert results(artifact)["toy"]["variants"]["raw"]["macro"]["first"] < 0.3  # noise
    with pytest.raises(UsageError, match="--query-encoder is another; leave one of them out"):
        evaluate("e", ["toy"], str(folder), str(folder / "x"), calibration(folder / "c"), query_encoder="other")


@pytest.mark.parametrize("names", [["translations"], ["toy", "translations"]])
def test_sentences_are_refused_beside_what_only_collections_have(
    names: list[str], folder: Path, embed: FakeEmbed
) -> None:
    """Silence would give numbers of another encoder, or another similarity, than was asked for."""
    dot = EvaluateConfig(similarity="dot")
    second = r"--query-encoder.*: only benchmarks with a collection .*; evaluate translations apart, with one encoder"
    other = "similarity=dot: only of benchmarks with a collection; evaluate translations apart, with similarity=cosine"
    with pytest.raises(UsageError, match=second):
        evaluate("e", names, str(folder), str(folder / "x"), query_encoder="other")
    with pytest.raises(UsageError, match=other):
        evaluate("e", names, str(folder), str(folder / "x"), None, dot)
    with pytest.raises(UsageError, match=second):
        plan_evaluate("e", names, str(folder), EvaluateConfig(), False, True)
    with pytest.raises(UsageError, match=other):
        plan_evaluate("e", names, str(folder), dot, False)
    with pytest.raises(UsageError, match=other):
        load_benchmarks(["translations"], str(folder), dot)
    assert not embed.asked
    assert not (folder / "x").exists()


def test_a_calibration_must_know_every_language_and_the_encoder(folder: Path) -> None:
    lacking = calibration(folder / "a", {"qaa": 0.0, "qac": 0.0})
    with pytest.raises(DataError, match=r"lacks qab of benchmark toy; set toy\.languages .* for raw scores"):
        evaluate("e", ["toy"], str(folder), str(folder / "x"), lacking)
    assert not (folder / "x").exists()
    questions = calibration(folder / "b", {"qaa": 0.0, "qab": 0.0})
    with pytest.raises(DataError, match=r"passages in qac, which the calibration .* lacks; it knows qaa, qab"):
        evaluate("e", ["toy"], str(folder), str(folder / "y"), questions)
    assert not (folder / "y").exists()  # the first row tells
    write_passages(folder, ("qaa", "qac"))
    with pytest.raises(DataError, match=r"passages in qac, which the calibration .* lacks; it knows qaa, qab"):
        evaluate("e", ["toy"], str(folder), str(folder / "y"), questions)
    assert (folder / "y" / "passages").exists()  # what was embedded stays
    with pytest.raises(DataError, match="another encoder's embeddings"):
        evaluate("other", ["toy"], str(folder), str(folder / "z"), calibration(folder / "c"))


def test_passages_that_name_no_language_are_of_the_collections(folder: Path) -> None:
    rows = [{"id": f"p{i}", "text": f"qac {i}"} for i in range(PASSAGES)]
    (folder / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = calibration(folder / "b", {"qaa": 0.0, "qab": 0.0})
    with pytest.raises(DataError, match=r"passages\.jsonl: passages in qac, which the calibration"):
        evaluate("e", ["toy"], str(folder), str(folder / "out"), questions)
    assert not (folder / "out").exists()


def test_a_benchmark_without_data_is_named_and_the_others_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "passages.jsonl").unlink()
    artifact = evaluate("e", ["toy", "translations"], str(folder), str(folder / "out"))
    assert list(results(artifact)) == ["translations"]
    assert json.loads(artifact.read("results.json"))["missing"] == artifact.summary["missing"] == ["toy"]
    assert "toy left out" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no passages"):
        evaluate("e", ["toy"], str(folder), str(folder / "x"))
    places = dict.fromkeys(("toy", "translations"), str(folder))
    with pytest.raises(UsageError, match="no passages"):  # where a caller says each place, each must be there
        evaluate("e", list(places), places, str(folder / "x"))


def test_a_changed_collection_is_another_input(folder: Path) -> None:
    evaluate("e", ["toy"], str(folder), str(folder / "out"))
    with open(folder / "passages.jsonl", "a") as file:
        file.write(json.dumps({"id": "p90", "lang": "qac", "text": "qac 90"}) + "\n")
    with pytest.raises(UsageError, match=r"inputs\.data\.toy"):
        evaluate("e", ["toy"], str(folder), str(folder / "out"))


def test_predictions_that_are_written_hold_every_question_and_its_texts(folder: Path) -> None:
    made = evaluate("e", ["wordy"], str(folder), str(folder / "out"))
    predicted = json.loads(made.read("runs/wordy/raw/predictions.json"))
    listed = read_runs(made.store.uri("runs/wordy/raw"), LANGUAGES)
    for lang in LANGUAGES:
        texts = {row["id"]: row["ctxs"] for row in predicted if row["lang"] == lang}
        assert texts == {name: [f"qac {hit.id[1:]}" for hit in hits] for name, hits in listed[lang].items()}
        assert len(texts) == QUESTIONS


class JudgedToy(Toy):
    """Wants to know what the collection has."""

    def check_documents(self, lang: str, ids: Iterable[str]) -> int:
        self.seen = (lang, list(ids))
        return 0


def test_what_is_judged_is_looked_for_in_the_collection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = JudgedToy(str(folder))
    monkeypatch.setattr(module, "_LOADERS", module._LOADERS | {"toy": lambda *_: judged})
    evaluate("e", ["toy"], str(folder), str(folder / "out"))
    assert judged.seen == ("qac", [f"p{i}" for i in range(PASSAGES)])


def test_only_the_job_runs_ranked_benchmarks(folder: Path) -> None:
    with pytest.raises(UsageError, match="benchmark toy ranks a collection"):
        load_benchmarks(["toy"], str(folder), EvaluateConfig())


def test_with_a_real_encoder_over_ray(tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole path: embed, search in tasks over three pieces, runs; the second run embeds nothing."""
    from tiny_models import encoder as tiny

    tiny().save(tmp_path / "encoder")
    write_passages(tmp_path, ("qaa", "qac"))
    monkeypatch.setattr(module, "_LOADERS", {"toy": lambda data, _: load_toy(data, needs_text=True)})
    monkeypatch.setattr(module, "BENCHMARKS", ("toy",))
    config = EvaluateConfig(passages=EmbedConfig(piece_rows=40))
    places = str(tmp_path / "encoder"), ["toy"], str(tmp_path)
    artifact = evaluate(*places, str(tmp_path / "out"), None, config, cache=str(tmp_path / "cache"))
    assert results(artifact)["toy"]["passages"] == {"qac": 90}
    hits = (tmp_path / "out/runs/toy/raw/qab.trec").read_text().splitlines()
    assert len(hits) == QUESTIONS * 5
    monkeypatch.setattr("ccp_ray.embed._stream", lambda *_: pytest.fail("embedded again"))
    again = evaluate(*places, str(tmp_path / "out2"), None, config, cache=str(tmp_path / "cache"))
    assert again.fingerprint == artifact.fingerprint
