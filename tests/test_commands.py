"""Every verb as a person types it: what goes to standard output, what to standard error, and the exit code."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command_line import SmallRun, ccp, flip, settings

from ccp_ray.artifact import open_artifact
from ccp_ray.errors import CcpError, DataError
from ccp_ray.progress import say
from ccp_ray.storage import open_store
from jobs import command
from jobs.cli import VERBS

NAMES = [verb.__name__.replace("_", "-") for verb in VERBS]


def test_help_names_every_verb_and_each_explains_itself():
    listing = ccp("--help")
    assert listing.code == 0
    whole = " ".join(listing.out.split())
    for name, verb in zip(NAMES, VERBS, strict=True):
        first, _, _ = inspect.cleandoc(verb.__doc__).partition("\n\n")
        assert f" {name} {' '.join(first.split())}" in whole
        one = ccp(name, "--help")
        assert one.code == 0
        assert one.out.startswith(f"Usage: ccp-ray {name} ")
        assert one.err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Usage: ccp-ray"),
        (["nonsense"], "No such command 'nonsense'"),
        (["prepare", "--output", "x"], "Missing argument 'documents'"),
        (["verify", "--jsonn", "x"], "No such option: --jsonn"),
        (["search", "index", "text", "-k", "0"], "greater than or equal to 1"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], words: str):
    result = ccp(*arguments)
    assert result.code == 2
    assert words in result.out + result.err


@pytest.mark.parametrize(
    ("verb", "name", "figures"),
    [
        ("generate", "documents", {"documents": 30, "sentences": 240, "translations": 20}),
        ("prepare", "corpus", {"quarantined": 0}),
        ("embed", "embeddings", {"rows": 240, "dimensions": 32, "quarantined": 0}),
        ("calibrate", "calibration", {"rows": 240, "dimensions": 32}),
        ("index", "index", {"rows": 240, "calibrated": True}),
    ],
)
def test_json_is_one_object_with_the_artifact_and_its_figures(small_run, verb, name, figures):
    result = small_run.results[verb]
    assert result.out.count("\n") == 1
    artifact = open_artifact(f"{small_run.folder}/{name}")
    told = {"uri": artifact.uri, "kind": artifact.kind, "fingerprint": artifact.fingerprint}
    assert result.json["artifact"] == told
    assert {key: result.json[key] for key in figures} == figures
    assert "measured" in result.json


def test_run_again_it_is_done_already(small_run: SmallRun):
    again = ccp("prepare", small_run.documents, "--output", small_run.corpus, *settings("prepare"))
    assert again.code == 0
    assert again.err == ""
    fingerprint = small_run.results["prepare"].json["artifact"]["fingerprint"]
    lines = again.out.splitlines()
    assert lines[0] == f"corpus {fingerprint[:12]} at {small_run.corpus}"
    assert lines[1].startswith("  languages qaa: documents 15, sentences 120, ")
    assert "  quarantined: 0" in lines


def test_search_for_people_for_programs_and_for_trec_eval(small_run: SmallRun, tmp_path: Path):
    text = (Path(small_run.documents) / "translations" / "qaa.txt").read_text().splitlines()[0]
    people = ccp("search", small_run.index, text, "--lang", "qaa", "-k", 3)
    assert people.code == 0
    assert people.out.splitlines()[0] == text
    assert len(people.out.splitlines()) == 4
    program = ccp("search", small_run.index, text, "--lang", "qaa", "-k", 3, "--json")
    hits = program.json["queries"][0]["hits"]
    assert [f"[{hit['id']}]" in line for hit, line in zip(hits, people.out.splitlines()[1:], strict=True)] == [True] * 3
    assert hits == sorted(hits, key=lambda hit: (-hit["score"], hit["id"]))
    queries = tmp_path / "queries.jsonl"
    queries.write_text(json.dumps({"id": "q7", "text": text}) + "\n")
    trec = ccp("search", small_run.index, "--queries", queries, "--lang", "qaa", "-k", 3)
    assert trec.out.splitlines() == [
        f"q7 Q0 {hit['id']} {rank} {hit['score']:.6f} ccp-ray" for rank, hit in enumerate(hits, 1)
    ]
    only = ccp("search", small_run.index, text, "--lang", "qaa", "--only", "qab", "--json")
    assert {hit["lang"] for hit in only.json["queries"][0]["hits"]} == {"qab"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["hello"], "--lang: the index is calibrated by language; say the language of the query (qaa, qab)"),
        (["hello", "--lang", "zz"], "--lang zz: the calibration does not know this language; it knows qaa, qab"),
        (["hello", "--lang", "qaa", "--only", "zz"], "--only zz: no text in this language; the index holds qaa, qab"),
        ([], "say what to search: either TEXT arguments or --queries FILE"),
        (["--queries", "nowhere.jsonl", "--lang", "qaa"], "nowhere.jsonl: no such file"),
    ],
)
def test_a_search_that_cannot_be(small_run: SmallRun, options: list[str], words: str):
    result = ccp("search", small_run.index, *options)
    assert (result.code, result.error) == (2, words)


def test_status_of_finished_and_of_half_done_work(small_run: SmallRun, tmp_path: Path):
    whole = ccp("status", small_run.folder)
    assert whole.code == 0
    kinds = ["calibration", "corpus", "documents", "embeddings", "encoder", "index"]
    assert [line.split()[:2] for line in whole.out.splitlines()] == [["finished", kind] for kind in kinds]
    half = tmp_path / "half"
    shutil.copytree(small_run.embeddings, half)
    (half / "artifact.json").unlink()
    pieces = sorted((half / "_ledger" / "pieces").iterdir())
    left = 240 - json.loads(pieces[0].read_text())["rows"]
    pieces[0].unlink()
    lines = ccp("status", half).out.splitlines()
    assert lines[0] == f"unfinished  embeddings   {half}"
    assert lines[1].split()[:8] == ["pieces", "3", "of", str(len(pieces)), "pieces", str(left), "of", "240"]
    assert re.fullmatch(r" +last commit .* ago.*", lines[2])
    (row,) = ccp("status", half, "--json").json["status"]
    told = {"uri": str(half), "kind": "embeddings", "state": "unfinished", "committed": {"pieces": 3}}
    assert row.items() >= (told | {"quarantined": 0}).items()
    figures = {"committed": 3, "planned": 4, "rows": left, "planned_rows": 240}
    assert row["stages"]["pieces"].items() >= figures.items()
    refused = ccp("verify", half)
    assert refused.code == 2
    assert refused.error == f"{half}: is unfinished; run its job again (expected a finished artifact)"


def test_status_where_nothing_or_rubbish_is(tmp_path: Path):
    result = ccp("status", tmp_path / "nowhere")
    assert (result.code, result.error) == (2, f"{tmp_path}/nowhere: no artifact and no job here")
    (tmp_path / "_job.json").write_text("{")
    result = ccp("status", tmp_path)
    assert result.code == 1
    assert result.error == f"{tmp_path}/_job.json: not written by this program, or damaged; remove the folder"


def test_verify_of_one_artifact_and_of_a_folder_of_them(small_run: SmallRun):
    one = ccp("verify", small_run.corpus, "--inputs")
    assert one.code == 0
    assert one.out.startswith("corpus ")
    assert one.out.endswith(" all sound\n")
    result = ccp("verify", small_run.folder, "--json")
    kinds = [place["kind"] for place in result.json["artifacts"]]
    assert kinds == ["calibration", "corpus", "documents", "embeddings", "encoder", "index"]
    assert result.json["problems"] == []


def test_verify_finds_one_flipped_bit_and_a_missing_file(small_run: SmallRun, tmp_path: Path):
    copy = tmp_path / "embeddings"
    shutil.copytree(small_run.embeddings, copy)
    vectors = sorted((copy / "vectors").iterdir())
    flip(vectors[0])
    vectors[1].unlink()
    result = ccp("verify", copy)
    assert result.code == 1
    assert f"{vectors[0]}: checksum does not match" in result.error
    assert f"{vectors[1]}: missing" in result.error
    told = ccp("verify", tmp_path, "--json")
    assert told.code == 1
    assert len(told.json["problems"]) == 2


def test_verify_sees_that_an_input_is_another_one(small_run: SmallRun, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(small_run.folder, copy)
    manifest = copy / "calibration" / "artifact.json"
    manifest.write_text(manifest.read_text().replace(small_run.embeddings, str(copy / "embeddings")))
    other = copy / "embeddings" / "artifact.json"
    fields = json.loads(other.read_text())
    other.write_text(json.dumps(fields | {"fingerprint": "0" * 64}))
    assert ccp("verify", copy / "calibration").code == 0
    result = ccp("verify", copy / "calibration", "--inputs")
    assert result.code == 1
    assert result.error == f"{copy}/embeddings: the embeddings changed since (fingerprint 000000000000…)"


def test_each_verb_is_a_module_that_runs_from_any_folder(small_run: SmallRun, tmp_path: Path):
    command_ = [sys.executable, "-m", "jobs.verify", os.path.relpath(small_run.corpus, tmp_path), "--json"]
    done = subprocess.run(command_, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(json.loads(done.stdout)["artifact"]["uri"]).resolve() == Path(small_run.corpus).resolve()
    program = Path(sys.executable).with_name("ccp-ray")
    done = subprocess.run(
        [program, "verify", "nowhere"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ccp-ray: error: nowhere: holds no artifact (expected a finished artifact)\n"


def test_status_and_verify_on_s3(small_run: SmallRun, rclone_bucket):
    store = open_store(f"{rclone_bucket.uri}/corpus")
    for path in Path(small_run.corpus).rglob("*"):
        if path.is_file():
            store.upload(path, path.relative_to(small_run.corpus).as_posix())
    assert ccp("status", rclone_bucket.uri).out.startswith(f"finished    corpus       {rclone_bucket.uri}/corpus ")
    assert ccp("verify", f"{rclone_bucket.uri}/corpus").code == 0
    store.write("parts.json", b"[]")
    result = ccp("verify", rclone_bucket.uri)
    assert result.code == 1
    assert f"{rclone_bucket.uri}/corpus/parts.json: 2 bytes, expected " in result.error


def test_interrupted_it_says_how_to_go_on(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(typer.Exit) as end, command.reported():
        raise KeyboardInterrupt
    assert end.value.exit_code == 130
    assert capsys.readouterr().err == "ccp-ray: interrupted; run the same command again to continue\n"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_what_ray_prints_stays_off_the_screen(scratch: Path, capfd: pytest.CaptureFixture[str]):
    with command.native_noise_aside():
        os.write(2, b"raylet: noise\n")
        os.write(1, b"raylet: noise\n")
        print("(raylet) noise")
        say("progress")
    print("result")
    assert capfd.readouterr() == ("result\n", "progress\n")
    assert os.listdir(scratch) == []


@pytest.mark.parametrize(
    ("error", "noise", "kept"),
    [
        (DataError("bad row"), b"x", False),
        (CcpError("training stopped"), b"x", True),
        (CcpError("training stopped"), b"", False),
        (RuntimeError("a bug"), b"x", True),
    ],
)
def test_noise_is_kept_only_where_it_may_tell_something(scratch, capfd, error, noise, kept):
    def fail() -> None:
        os.write(2, noise)
        raise error

    with pytest.raises(type(error)), command.native_noise_aside():
        fail()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert len(os.listdir(scratch)) == kept
    assert captured.err.startswith("ccp-ray: what Ray's core wrote is in ") == kept
