"""Embedding: every row once and in its place, poison rows too; what is committed is not computed again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from command_line import ccp
from without_ray import embedding_here

from ccp_ray import embed_stream, hardware
from ccp_ray.artifact import Artifact, Output, Request, open_output
from ccp_ray.embed import _check_gpu, _stream, embed
from ccp_ray.embed_config import EmbedConfig, EmbedResources
from ccp_ray.embed_plan import Piece
from ccp_ray.embed_stream import LEDGER, Commit, Encode, Tokenise
from ccp_ray.embeddings import Embeddings
from ccp_ray.encoder import Encoder
from ccp_ray.errors import CcpError, DamagedError, DataError, StoreError, UsageError, raise_carried
from ccp_ray.ledger import Entry, Ledger, check_file
from ccp_ray.storage import LocalStore
from jobs.pipeline_report import Finished, stage_figures

CONFIG = EmbedConfig(precision="fp32", dtype="float32", piece_rows=7, max_bad_share=0.5)
POISON: list[tuple[str, str, bool]] = [
    ("empty", json.dumps({"id": "empty", "text": ""}), False),
    ("blank", json.dumps({"id": "blank", "text": " \n\t "}), False),
    ("surrogate", '{"id": "surrogate", "text": "a \\ud800 b"}', False),
    ("number", json.dumps({"id": "number", "text": 7}), False),
    ("long", json.dumps({"id": "long", "text": "ab " * 3_500_000}), True),  # 10.5 MB
    ("control", json.dumps({"id": "control", "text": "a\x00b\x07\x1b[31mc\x7f"}), True),
    ("emoji", json.dumps({"id": "emoji", "text": "😀😀👩‍👩‍👧‍👦🏳️‍🌈"}, ensure_ascii=False), True),
    ("pair", json.dumps({"id": "pair", "text": "😀"}), True),  # escaped as two surrogates: one character
]


def line(number: int, words: str = "some words") -> str:
    lang = "en" if number % 2 else "de"
    return json.dumps({"id": f"d{number:03d}", "lang": lang, "text": f"{words} {number % 5} " * 3})


def write(folder: Path, name: str, lines: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return str(tiny_models.plain_folder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    write(folder, "a.jsonl", [line(n) for n in range(20)])
    write(folder, "b.jsonl", [row for _, row, _ in POISON])
    return folder


@pytest.fixture(scope="module")
def whole(ray_local, encoder, texts, tmp_path_factory) -> Artifact:
    return embed(encoder, str(texts), str(tmp_path_factory.mktemp("whole") / "embeddings"), CONFIG)


def with_resources(**resources: Any) -> EmbedConfig:
    return CONFIG.model_copy(update={"resources": EmbedResources(**resources)})


def rows_of(artifact: Artifact) -> tuple[np.ndarray, list[dict[str, str]]]:
    pieces = list(Embeddings.open(artifact.uri))
    return np.concatenate([vectors for vectors, _ in pieces]), [row for _, table in pieces for row in table.to_pylist()]


def test_each_row_has_its_own_vector_and_poison_is_embedded_or_put_aside_never_lost(whole, encoder):
    vectors_ND, rows = rows_of(whole)
    kept = [name for name, _, good in POISON if good]
    assert [row["id"] for row in rows] == [f"d{n:03d}" for n in range(20)] + kept
    expected_ND = Encoder.load(encoder).encode([row["text"] for row in rows])
    np.testing.assert_allclose(vectors_ND, expected_ND, rtol=1e-5, atol=1e-6)
    assert whole.summary["quarantined"] == len(POISON) - len(kept)
    assert whole.summary["rows"] + whole.summary["quarantined"] == 20 + len(POISON)
    put_aside = b"".join(whole.read(f.path) for f in whole.files if f.path.startswith("quarantine/"))
    reasons = [json.loads(row)["reason"] for row in put_aside.splitlines()]
    assert len(reasons) == whole.summary["quarantined"]
    for words in ('"text" is empty', "lone surrogate", '"text" is int'):
        assert any(words in reason for reason in reasons), (words, reasons)
    assert whole.summary["truncated"] >= 1


def test_a_grown_corpus_embeds_only_what_is_new(whole, encoder, texts, tmp_path):
    shutil.copytree(texts, tmp_path / "texts")
    write(tmp_path / "texts", "0-before.jsonl", [line(n, "new words") for n in range(100, 110)])
    grown = embed(encoder, str(tmp_path / "texts"), str(tmp_path / "grown"), CONFIG, reuse=[whole.uri])
    before, now = Ledger(whole.store, LEDGER).committed(), Ledger(grown.store, LEDGER).committed()
    assert Ledger(grown.store, "_ledger/reuse").committed() == before
    assert before < now
    new = [Ledger(grown.store, LEDGER).read(name) for name in now - before]
    assert sum(entry.rows for entry in new) == 10
    vectors_ND, rows = rows_of(grown)
    assert [row["id"] for row in rows[:10]] == [f"d{n}" for n in range(100, 110)]
    old_ND, old = rows_of(whole)
    assert rows[10:] == old
    np.testing.assert_array_equal(vectors_ND[10:], old_ND)
    np.testing.assert_allclose(
        vectors_ND[:10], Encoder.load(encoder).encode([row["text"] for row in rows[:10]]), rtol=1e-5, atol=1e-6
    )
    assert all(check_file(grown.store, record) is None for record in grown.files)


def test_a_gpu_that_the_cluster_lacks_is_refused_and_nothing_is_left(ray_local, encoder, texts, tmp_path, monkeypatch):
    monkeypatch.setattr("ccp_ray.embed.cluster_gpus", lambda: 0)
    wanted = with_resources(gpu=True)
    with pytest.raises(UsageError, match=r"resources.gpu=true, but the Ray cluster has no GPU; add a node with one"):
        embed(encoder, str(texts), str(tmp_path / "out"), wanted)
    assert not (tmp_path / "out").exists()


def cramped(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Encoders have room for `room` padded tokens."""
    forward = Encoder.forward

    def run(self: Encoder, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        if ids_BT.numel() > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, ids_BT, mask_BT)

    monkeypatch.setattr(Encoder, "forward", run)


def forget(artifact: Artifact, pieces: int) -> dict[str, float]:
    """Leave the output as if its job had been killed before its last pieces. When the others were committed."""
    ledger = Ledger(artifact.store, LEDGER)
    artifact.store.delete("artifact.json")
    for name in sorted(ledger.committed())[-pieces:]:
        ledger.retract(name)
    return ledger.times()


def test_memory_that_ran_out_is_told_and_a_smaller_budget_continues(
    ray_local, encoder, texts, tmp_path, monkeypatch, capsys
):
    where, room = str(tmp_path / "out"), 40
    with monkeypatch.context() as patch, embedding_here():
        cramped(patch, room)
        made = embed(encoder, str(texts), where, CONFIG)
    limit = made.measured["token_limit"]
    assert room / 2 <= limit <= room
    words = f"embed: out of memory in some batches; they ran with a token budget of {limit} (token_budget)"
    assert words in capsys.readouterr().err.splitlines()
    kept = forget(made, 2)
    with embedding_here():
        again = embed(encoder, str(texts), where, CONFIG.model_copy(update={"token_budget": 64}))
    assert kept.items() < Ledger(again.store, LEDGER).times().items()
    assert (again.config, again.summary) == (made.config, made.summary)
    entries = Ledger(again.store, LEDGER).entries().values()
    real, padded = (sum(entry.info[name] for entry in entries) for name in ("tokens", "padded"))
    assert again.measured["padding_efficiency"] == real / padded < 1
    assert stage_figures(Finished("embed", again, 1.0, None))["padding_efficiency"] == real / padded


def test_pieces_of_two_precisions_are_counted_and_told(ray_local, encoder, texts, tmp_path, monkeypatch, capsys):
    where, auto = str(tmp_path / "out"), CONFIG.model_copy(update={"precision": "auto"})
    for native in (False, True):
        monkeypatch.setattr(hardware, "native_bf16", lambda where, native=native: native)
        with embedding_here():
            made = embed(encoder, str(texts), where, auto)
        if not native:
            assert "precision" not in capsys.readouterr().err
            kept = forget(made, 1)
    rows = {name: entry.rows for name, entry in Ledger(made.store, LEDGER).entries().items()}
    before = sum(rows[name] for name in kept)
    told = f"1 piece ({made.summary['rows'] - before} rows) in bf16 and {len(kept)} pieces ({before} rows) in fp32"
    assert f"embed: {told}, as precision=auto takes what" in capsys.readouterr().err
    assert made.summary["precision"] == ["bf16", "fp32"]
    assert "of mixed precision (bf16 and fp32)" in ccp("status", where).out


# Without Ray: the three operators of the stream, called one after the other.


@pytest.fixture
def output(tmp_path) -> Output:
    opened = open_output(str(tmp_path / "out"), Request(kind="embeddings", config={"dtype": "float32"}))
    assert isinstance(opened, Output)
    return opened


@pytest.fixture
def piece(tmp_path, texts) -> dict[str, Any]:
    """Rows in a parquet object, as the plan names them."""
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [json.loads(line(n)) for n in range(9)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    sha256 = hashlib.sha256((tmp_path / "rows.parquet").read_bytes()).hexdigest()
    return {"name": "p", "uri": str(tmp_path), "key": "rows.parquet", "rows": 6, "sha256": sha256}


def through(piece: dict[str, Any], encoder: str, output: Output, config: EmbedConfig = CONFIG) -> dict[str, Any]:
    settings = config.model_dump_json()
    row = Tokenise(encoder, settings, output.uri)(dict(piece))
    return Commit(output.uri)(Encode(encoder, settings, output.uri)(row))


def test_a_piece_is_its_first_rows_and_its_files_are_named_by_their_content(piece, encoder, output):
    done = through(piece, encoder, output)
    entry = Entry.model_validate_json(done["entry"])
    assert entry == Ledger(output.store, LEDGER).read("p")
    assert entry.rows == 6
    vectors_ND = np.load(Path(output.uri, entry.info["vectors"]))
    expected_ND = Encoder.load(encoder).encode([json.loads(line(n))["text"] for n in range(6)])
    np.testing.assert_allclose(vectors_ND, expected_ND, rtol=1e-5, atol=1e-6)
    for record in entry.files:
        assert record.sha256[:12] in record.path


def test_what_another_run_committed_meanwhile_is_neither_read_nor_encoded(piece, encoder, output, monkeypatch):
    standing = Entry(rows=6, info={"by": "another run"})
    settings = CONFIG.model_dump_json()
    tokenise, encode = Tokenise(encoder, settings, output.uri), Encode(encoder, settings, output.uri)
    tokenised = tokenise(dict(piece))
    encoded = encode(dict(tokenised))
    Ledger(output.store, LEDGER).commit("p", standing)
    monkeypatch.setattr(embed_stream, "read_rows", lambda piece: pytest.fail("read again"))
    monkeypatch.setattr(encode.encoder, "encode_tokens", lambda *a: pytest.fail("encoded again"))
    assert Entry.model_validate_json(tokenise(dict(piece))["entry"]) == standing
    assert Entry.model_validate_json(encode(dict(tokenised))["entry"]) == standing
    late = Commit(output.uri)(encoded)  # both had it under way: the first entry stands
    assert Entry.model_validate_json(late["entry"]) == standing


def test_a_writer_whose_bits_differ_leaves_the_files_of_a_committed_piece_alone(piece, encoder, output):
    settings = CONFIG.model_dump_json()
    row = Encode(encoder, settings, output.uri)(Tokenise(encoder, settings, output.uri)(dict(piece)))
    other = dict(row)
    vectors = np.frombuffer(row["vectors"], dtype=np.float32).copy()
    vectors[0] = np.nextafter(vectors[0], 2)
    other["vectors"] = vectors.tobytes()
    first = Entry.model_validate_json(Commit(output.uri)(row)["entry"])
    assert Entry.model_validate_json(Commit(output.uri)(other)["entry"]) == first
    assert [check_file(output.store, record) for record in first.files] == [None, None]


@pytest.mark.parametrize(("change", "words"), [("flip", "checksum does not match"), ("remove", "missing")])
def test_altered_texts_are_refused_by_name(piece, encoder, output, change, words):
    path = Path(piece["uri"], piece["key"])
    if change == "flip":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    done = through(piece, encoder, output)
    with pytest.raises(DamagedError, match=rf"rows\.parquet: {words}"):
        raise_carried(done["error"])
    assert Ledger(output.store, LEDGER).committed() == set()


def test_a_vector_that_is_not_finite_names_its_row_and_is_not_committed(piece, encoder, output):
    settings = CONFIG.model_dump_json()
    encode = Encode(encoder, settings, output.uri)
    with torch.no_grad():
        encode.encoder.model.embeddings.word_embeddings.weight.fill_(float("nan"))
    done = Commit(output.uri)(encode(Tokenise(encoder, settings, output.uri)(dict(piece))))
    with pytest.raises(CcpError, match="no finite vector for d000; check its weights") as caught:
        raise_carried(done["error"])
    assert not isinstance(caught.value, DataError)  # which would undo what is committed
    assert list(output.store.list("vectors/")) == []


@pytest.mark.parametrize("without", ["tokenizer", "weights"])
def test_an_encoder_without_a_part_travels_as_an_error_not_as_a_crash(piece, encoder, output, tmp_path, without):
    broken = tmp_path / "broken"
    pattern = "tokenizer*" if without == "tokenizer" else "*.safetensors"
    shutil.copytree(encoder, broken, ignore=shutil.ignore_patterns(pattern))
    with pytest.raises(UsageError, match=without):
        raise_carried(through(piece, str(broken), output)["error"])


def test_a_store_that_forbids_writing_is_an_error_in_words(piece, encoder, output, monkeypatch):
    def refuse(self: LocalStore, key: str, data: bytes) -> None:
        raise StoreError(f"cannot write {self.uri(key)}: permission denied")

    settings = CONFIG.model_dump_json()
    row = Encode(encoder, settings, output.uri)(Tokenise(encoder, settings, output.uri)(dict(piece)))
    monkeypatch.setattr(LocalStore, "write", refuse)
    with pytest.raises(StoreError, match="permission denied"):
        raise_carried(Commit(output.uri)(row)["error"])


def test_without_a_gpu_an_encoder_runs_on_the_cpu_whatever_its_node_has(piece, encoder, output, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    settings = with_resources(gpu=False).model_dump_json()
    assert Encode(encoder, settings, output.uri).encoder.model.device.type == "cpu"
    assert Entry.model_validate_json(through(piece, encoder, output, with_resources(gpu=False))["entry"]).rows == 6


class Recorder:
    """A Ray Data set that keeps what is mapped over it."""

    def __init__(self) -> None:
        self.maps: dict[Any, dict[str, Any]] = {}

    def map(self, work: Any, **options: Any) -> Recorder:
        self.maps[work] = options
        return self

    def set_name(self, name: str) -> None: ...

    def iter_rows(self) -> Any:
        return iter(())


@pytest.mark.parametrize(("asked", "gpus", "reserved"), [(None, 0, None), (None, 2, 1), (False, 2, None), (True, 2, 1)])
def test_workers_reserve_the_gpus_that_they_use(ray_local, monkeypatch, asked, gpus, reserved):
    recorder = Recorder()
    monkeypatch.setattr("ray.data.from_items", lambda *_, **__: recorder)
    monkeypatch.setattr("ccp_ray.embed.cluster_gpus", lambda: gpus)
    _stream([Piece("p", "/", "rows.parquet", 6, "ab" * 32)], "encoder", "/out", with_resources(gpu=asked))
    assert recorder.maps[Encode].get("num_gpus") == reserved


def test_who_says_how_many_workers_shall_wait_for_gpus_waits_in_words(monkeypatch, capsys):
    monkeypatch.setattr("ccp_ray.embed.cluster_gpus", lambda: 0)
    _check_gpu(with_resources(gpu=True, workers=(1, 8)))
    assert "embed: waiting for a GPU, the cluster has 0 (resources.gpu=true" in capsys.readouterr().err
    for fine in (with_resources(gpu=False), with_resources()):
        _check_gpu(fine)
    monkeypatch.setattr("ccp_ray.embed.cluster_gpus", lambda: 1)
    _check_gpu(with_resources(gpu=True))
    assert capsys.readouterr().err == ""


def test_reuse_of_what_is_no_embedding_or_was_altered_is_refused(whole, encoder, texts, tmp_path, small_run):
    with pytest.raises(UsageError, match=r"--reuse .*nothing.*no embeddings there"):
        embed(encoder, str(texts), str(tmp_path / "a"), CONFIG, reuse=[str(tmp_path / "nothing")])
    with pytest.raises(UsageError, match="holds corpus, expected embeddings"):
        embed(encoder, str(texts), str(tmp_path / "b"), CONFIG, reuse=[small_run.corpus])
    altered = tmp_path / "altered"
    shutil.copytree(whole.uri, altered)
    victim = next((altered / "vectors").iterdir())
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    with pytest.raises(DamagedError, match=rf"{victim.name}: checksum.*leave .* out of --reuse"):
        embed(encoder, str(texts), str(tmp_path / "c"), CONFIG, reuse=[str(altered)])


def test_workers_least_and_most_are_in_order():
    assert EmbedResources.model_validate({"workers": [1, 4]}).workers == (1, 4)
    with pytest.raises(ValueError, match="1 <= min <= max"):
        EmbedResources.model_validate({"workers": [4, 1]})
