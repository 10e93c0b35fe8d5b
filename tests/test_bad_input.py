"""Bad input: one clear line that names the file, the key or the row; the right exit code; the store as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import SmallRun, ccp, flip, settings
from s3_servers import free_port

from ccp_ray.artifact import find_artifact

GOOD = [
    {"id": f"d{i}", "lang": lang, "text": f"The {i}th rain fell on {lang}. Nobody saw it come. It left at {i}."}
    for lang in ("de", "en")
    for i in range(30)
]


def write(path: Path, rows: list[dict[str, Any] | bytes]) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def last(err: str) -> str:
    """The error after lines of progress."""
    lines = [line for line in err.splitlines() if " pieces" not in line]
    assert len(lines) == 1, err
    return lines[0].removeprefix("ccp-ray: error: ")


def prepare(documents: object, output: Path, *more: object) -> tuple[int, str, str]:
    result = ccp("prepare", documents, "--output", output, *settings("prepare"), *more)
    return result.code, result.out, result.err


# Configuration


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("min_document=3", "min_document: unknown configuration key; did you mean 'min_documents'?"),
        ("tokenizer.vocabulry=3", "tokenizer.vocabulry: unknown configuration key; did you mean 'vocabulary'?"),
        ("min_documents=many", "min_documents: input should be a valid integer, found 'many'"),
        ("min_documents", "--set 'min_documents': expected key=value, for example --set pretrain.steps=100"),
        ("languages=[de", "--set languages: '[de' is not a YAML value"),
    ],
)
def test_an_override_that_is_wrong(override: str, words: str, tmp_path: Path):
    result = ccp("prepare", tmp_path / "x.jsonl", "--output", tmp_path / "out", "--set", override)
    assert (result.code, result.error) == (2, words)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"tokenizer:\n  vocab: 3\n", "tokenizer.vocab: unknown configuration key; did you mean 'vocabulary'?"),
        (b"languages: [de\n", "{file}, line 2: not valid YAML (expected ',' or ']', but got '<stream end>')"),
        (b"languages: [d\xe9]\n", "{file}: not valid YAML ("),
        (b"[1, 2]\n", "{file}: expected keys and values at the top level, found list"),
        (None, "{file}: no such file"),
    ],
)
def test_a_configuration_file_that_is_wrong(content: bytes | None, words: str, tmp_path: Path):
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_bytes(content)
    result = ccp("prepare", "x.jsonl", "--output", tmp_path / "out", "--config", file)
    assert result.code == 2
    assert result.error.startswith(words.format(file=file))


def test_a_recipe_that_contradicts_itself_does_not_print_itself(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("documents: [a.jsonl]\nlanguages: {count: 3}\n")
    result = ccp("pipeline", "--config", recipe, "--output", tmp_path / "out")
    words = "say where the text comes from: either documents or languages (generated)"
    assert (result.code, result.error) == (2, words)


# Documents


def test_input_that_is_missing_empty_or_unknown(tmp_path: Path):
    out = tmp_path / "out"
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "folder").mkdir()
    for name, code, words in [
        ("nowhere", 2, "no such file, or a folder or pattern without files"),
        ("folder", 2, "no such file, or a folder or pattern without files"),
        ("*.zst", 2, "no such file, or a folder or pattern without files"),
        ("empty.jsonl", 1, "empty (1 files of 0 bytes)"),
        ("picture.png", 2, "unknown format; expected .jsonl or .json"),
    ]:
        result = ccp("prepare", tmp_path / name, "--output", out)
        assert result.code == code
        assert result.error.startswith(f"{tmp_path / name}: {words}")
    assert not out.exists()


def test_a_folder_with_a_file_that_cannot_be_read(tmp_path: Path):
    folder = tmp_path / "documents"
    folder.mkdir()
    write(folder / "a.jsonl", GOOD)
    (folder / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")  # a forbidden file would not stop root
    result = ccp("prepare", folder, "--output", tmp_path / "out")
    assert (result.code, result.error) == (1, f"{folder}/b.jsonl: a symbolic link to nothing; remove it")
    assert os.listdir(tmp_path) == ["documents"]


@pytest.mark.usefixtures("ray_local")
def test_bad_rows_are_put_aside_and_counted(tmp_path: Path):
    bad = [b"{broken", b'{"id": "x", "lang": "en", "text": "caf\xe9"}', {"id": "y", "text": "No language. None."}]
    file = write(tmp_path / "some.jsonl", [*GOOD, *bad])
    code, out, _ = prepare(file, tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(out)["quarantined"] == 3
    (quarantine,) = (tmp_path / "out" / "quarantine").iterdir()
    rows = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert [(row["source"], row["row"]) for row in rows] == [("some.jsonl", f"line {n}") for n in (61, 62, 63)]
    for row, reason in zip(rows, ("not JSON", "not UTF-8", 'no "lang"'), strict=True):
        assert row["reason"].startswith(reason)


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize(
    ("rows", "more", "words"),
    [
        (
            [*GOOD, *[b"{broken"] * 20],
            [],
            "20 of 80 rows cannot be used, more than max_bad_share (1.00%); the first is",
        ),
        ([{"id": "a", "lang": "en", "text": " "}], [], "no sentence in 1 rows (1 cannot be used, 0 are of other"),
        ([*GOOD, *GOOD[:30]][:31], ["--set", "min_documents=5"], "too few training documents: en has "),
    ],
)
def test_documents_that_cannot_make_a_corpus(rows, more, words, tmp_path: Path):
    file = write(tmp_path / "bad.jsonl", rows)
    code, out, err = prepare(file, tmp_path / "out", *more)
    assert (code, out) == (1, "")
    assert last(err).startswith(words)
    assert os.listdir(tmp_path) == ["bad.jsonl"]


@pytest.mark.usefixtures("ray_local")
def test_rows_to_embed_that_cannot_be_used(small_run: SmallRun, tmp_path: Path):
    file = write(tmp_path / "rows.jsonl", [*GOOD, *[b"{broken"] * 20])
    result = ccp("embed", small_run.encoder, file, "--output", tmp_path / "out")
    assert (result.code, result.out) == (1, "")
    assert last(result.err).startswith("20 of 80 rows cannot be used, more than max_bad_share (1.00%); the first is")
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_language_with_too_few_sentences_for_a_group(small_run: SmallRun, tmp_path: Path):
    settings = ("--set", "pairs_per_group=4096", "--set", "bank.size=0")
    result = ccp("pretrain", small_run.corpus, "--output", tmp_path / "out", *settings)
    assert result.code == 1
    assert result.error.startswith("language 'qaa' has ")
    assert "a group needs 4096" in result.error
    assert os.listdir(tmp_path) == []


# Models


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _cut_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_no_config, "not a Hugging Face model folder (config.json is missing)"),
        (_broken_config, "config.json is damaged, or of no model that transformers knows"),
        (_cut_weights, "transformers cannot load this model: Error while deserializing header"),
        (_no_tokenizer, "the tokenizer is missing (tokenizer.json)"),
    ],
)
def test_a_model_folder_that_is_not_one(damage, words: str, small_run: SmallRun, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(small_run.encoder, folder)
    (folder / "artifact.json").unlink()
    damage(folder)
    result = ccp("embed", folder, small_run.corpus, "--output", tmp_path / "out")
    assert result.code == 2
    assert last(result.err).startswith(f"{folder}: {words}")
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("name", ["corpus", "embeddings", "documents"])
def test_an_artifact_that_is_no_encoder(small_run: SmallRun, name: str, tmp_path: Path):
    folder = small_run.folder / name
    result = ccp("embed", folder, small_run.corpus, "--output", tmp_path / "out")
    assert result.code == 2
    assert result.error == f"{folder}: holds a {name} artifact, expected an encoder"


# Stores


def test_an_output_that_holds_another_artifact_or_other_files(small_run: SmallRun, tmp_path: Path):
    result = ccp("generate", "--output", small_run.corpus, *settings("generate"))
    assert result.code == 2
    assert result.error.startswith(f"{small_run.corpus}: the output holds another artifact; changed: ")
    result = ccp("generate", "--output", small_run.documents, *settings("generate"), "--set", "seed=9")
    assert result.code == 2
    assert "changed: config.seed: 0 -> 9. Choose another --output" in result.error
    (tmp_path / "mine.txt").write_text("precious")
    result = ccp("generate", "--output", tmp_path)
    assert result.code == 2
    assert result.error == f"{tmp_path}: the output folder holds other files (mine.txt); choose an empty --output"
    result = ccp("generate", "--output", tmp_path / "mine.txt")
    assert (result.code, "a part of the path is a file, not a folder" in result.error) == (1, True)
    result = ccp("generate", "--output", "gs://bucket/x")
    assert (result.code, result.error.startswith("gs://bucket/x: unknown scheme 'gs'")) == (2, True)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_a_bucket_that_does_not_exist_and_credentials_that_are_wrong(rclone_bucket, monkeypatch):
    output = "s3://no-such-bucket-anywhere/x"
    result = ccp("generate", "--output", output)
    assert result.code == 1
    assert result.error.endswith("the bucket does not exist; create it or correct the URI")
    assert "no-such-bucket-anywhere" in result.error
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-wrong-secret-0123456789abcdefghij")
    result = ccp("generate", "--output", f"{rclone_bucket.uri}/x")
    assert result.code == 1
    assert "wrong credentials" in result.error
    assert "planted" not in result.err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    result = ccp("status", rclone_bucket.uri)
    assert (result.code, "no credentials found in the standard AWS chain" in result.error) == (1, True)
    assert rclone_bucket.keys() == []


def test_an_endpoint_where_nobody_answers(rclone_bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    result = ccp("status", rclone_bucket.uri)
    assert (result.code, "check AWS_ENDPOINT_URL and that the endpoint is up" in result.error) == (1, True)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 96 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here; tests of the store limit the file size instead")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("ray_local")
def test_a_full_disk(tiny_disk: Path):
    output = tiny_disk / "documents"
    bigger = ["--set", "documents=900"]
    result = ccp("generate", "--output", output, *settings("generate"), *bigger)
    assert (result.code, result.out) == (1, "")
    assert last(result.err).startswith(f"cannot write {output}/")
    assert last(result.err).endswith(": the disk is full; free space and run again, finished work is kept")
    subprocess.run(["mount", "-o", "remount,size=32m", tiny_disk], check=True)
    assert ccp("generate", "--output", output, *settings("generate"), *bigger).code == 0
    assert ccp("verify", output).code == 0


# Checksums


@pytest.fixture
def copy(small_run: SmallRun, tmp_path: Path) -> Path:
    """The small run, to be damaged."""
    for name in ("corpus", "encoder", "embeddings", "index"):
        shutil.copytree(small_run.folder / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("suffix", ["faiss", "parquet"])
def test_search_refuses_an_altered_shard(copy: Path, suffix: str):
    shard = next((copy / "index" / "shards").glob(f"*.{suffix}"))
    flip(shard)
    result = ccp("search", copy / "index", "hello", "--lang", "qaa")
    assert result.code == 1
    assert result.error.startswith(f"{shard}: altered or damaged (")


def test_no_stage_reads_altered_input(copy: Path, small_run: SmallRun):
    out = copy / "out"
    weights, sentences, vectors = (
        next(copy.glob(pattern))
        for pattern in ("encoder/*.safetensors", "corpus/sentences/*/*", "embeddings/vectors/*")
    )
    for file in (weights, sentences, vectors):
        flip(file)
    for verb, arguments, file in [
        ("embed", (copy / "encoder", small_run.corpus), weights),
        ("embed", (small_run.encoder, copy / "corpus"), sentences),
        ("index", (copy / "embeddings",), vectors),
        ("calibrate", (copy / "embeddings",), vectors),
    ]:
        result = ccp(verb, *arguments, "--output", out)
        assert (result.code, result.out) == (1, "")
        assert last(result.err).startswith(f"{file}: checksum does not match")
        assert find_artifact(str(out)) is None
        assert not out.exists() or file == sentences  # pieces of the other parts stay: hours of work may lie in them
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_a_cluster_that_does_not_answer(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    where = address.format(port=free_port())
    result = ccp("generate", "--output", tmp_path / "out", "--address", where)
    assert result.code == 1
    assert result.error.startswith(f"cannot reach Ray at {where}: nobody answers there")
    assert os.listdir(tmp_path) == []
