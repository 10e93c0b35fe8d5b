"""What `gc` finds and deletes, against outputs with known leftovers; and that everything works on afterwards."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import ccp
from embeddings_factory import one_language, write_embeddings

from ccp_ray.artifact import JOB, Request, open_output, verify_artifact
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DamagedError, StoreError
from ccp_ray.kept_checkpoints import checkpoint_ledger, checkpoint_name
from ccp_ray.ledger import Entry, Ledger, put_bytes
from ccp_ray.orphans import delete_orphans, find_orphans
from ccp_ray.storage import TEMPORARY, LocalStore, open_store

DAY = 86_400.0


def age(store: LocalStore, days: float, prefix: str = "") -> None:
    """Make every file, hidden ones too, so old."""
    when = time.time() - days * DAY
    for path in store.path.rglob("*"):
        if path.is_file() and path.relative_to(store.path).as_posix().startswith(prefix):
            os.utime(path, (when, when))


def names(orphans) -> set[str]:
    return {orphan.found.key for orphan in orphans}


def half_done(root: Path, kind: str = "embeddings") -> LocalStore:
    """One committed piece, and the files of one whose writer was killed before its entry."""
    output = open_output(str(root), Request(kind=kind, config={}))
    store = output.store
    output.ledger.commit("pieces/0", Entry(files=[put_bytes(store, "vectors/0.npy", b"0")]))
    for key in ("vectors/1.npy", "rows/1.parquet"):
        store.write(key, b"lost")
    for key in ("_rows/00000-0000.parquet", "_plan/pieces.json", f"vectors/{TEMPORARY}9"):
        store.write(key, b"{}")
    return store


LOST = {"vectors/1.npy", "rows/1.parquet", f"vectors/{TEMPORARY}9"}


def test_of_a_half_done_output_what_no_entry_names(tmp_path):
    store = half_done(tmp_path / "out")
    age(store, 3)
    kept = {info.key for info in store.list()} - LOST
    assert names(find_orphans(str(store.path)).orphans) == LOST
    result = ccp("gc", store.path)
    assert result.out.splitlines()[0] == f"{store.path}: 3 orphans of 0 kB, unfinished"
    assert result.out.splitlines()[-1].startswith("3 orphans of 0 kB; 3 of them may go")
    assert names(find_orphans(str(store.path)).orphans) == LOST  # it only lists
    assert ccp("gc", store.path, "--delete").out.splitlines()[-1] == "3 orphans of 0 kB deleted, 0 left"
    assert {info.key for info in store.list()} == kept
    assert ccp("gc", store.path).out == "no orphans\n"
    assert list(store.leftovers()) == []


@pytest.mark.parametrize("young", ["vectors/1.npy", "vectors/0.npy", "_rows/"])
def test_an_output_that_is_written_to_is_left_alone(tmp_path, young):
    """Also what is old there: an evaluation writes its texts first, and names them when it ends."""
    store = half_done(tmp_path / "out")
    age(store, 3)
    age(store, 0.5, young)
    result = ccp("gc", store.path, "--delete", "--json")
    assert result.json["deleted"]
    assert {row["key"] for row in result.json["outputs"][0]["orphans"]} == LOST
    assert not any(row["deletable"] for row in result.json["outputs"][0]["orphans"])
    assert names(find_orphans(str(store.path)).orphans) == LOST
    assert ccp("gc", store.path).out.splitlines()[-1] == "3 orphans of 0 kB; none may go yet (--older-than 24)"
    ccp("gc", store.path, "--delete", "--older-than", 6)
    assert names(find_orphans(str(store.path)).orphans) == set()


def test_work_in_an_output_below_keeps_the_one_above(tmp_path):
    above = half_done(tmp_path / "evaluation", "evaluation")
    below = half_done(tmp_path / "evaluation" / "embeddings")
    age(above, 3)
    os.utime(below.path / "vectors" / "0.npy")
    ccp("gc", above.path, "--delete")
    listed = ccp("gc", above.path, "--json").json["outputs"]
    assert [(row["uri"], {orphan["key"] for orphan in row["orphans"]}) for row in listed] == [
        (str(above.path), LOST),
        (str(below.path), LOST),
    ]


def test_a_job_that_begins_meanwhile_is_noticed(tmp_path):
    store = half_done(tmp_path / "out")
    age(store, 3)
    found = find_orphans(str(store.path))
    store.write("vectors/1.npy", b"new")
    with pytest.raises(StoreError, match="a job writes to it now; nothing was deleted"):
        delete_orphans(found, time.time() - DAY)
    assert store.read("vectors/1.npy") == b"new"


def test_of_a_finished_artifact_all_but_manifest_and_bookkeeping(root_uri):
    """It can be read, verified, asked for again and reused after; the same on disk and on S3."""
    pieces = [one_language(np.eye(4, dtype=np.float16), "de"), one_language(np.eye(4, dtype=np.float16), "fr", 4)]
    artifact = write_embeddings(root_uri, pieces)
    store = open_store(root_uri)
    Ledger(store).commit("pieces/0", Entry(files=[put_bytes(store, "vectors/of-the-other-writer.npy", b"1")]))
    for key in ("_plan/pieces.json", "_telemetry/x/rows-00000.jsonl"):
        store.write(key, b"{}")
    kept = {info.key for info in store.list()}
    extra = {"vectors/9.npy", "_rows/00000-0000.parquet", "_stop", f"rows/{TEMPORARY}1"}
    for key in extra:
        store.write(key, b"x")
    found = find_orphans(root_uri)
    assert found.finished
    assert names(found.orphans) == extra
    assert found.older(time.time() - 3600) == []
    assert {orphan.why for orphan in found.orphans} == {
        *("named by no entry and no manifest", "working file of a finished job", "unfinished write"),
    }
    assert len(delete_orphans(found, time.time() + 3600)) == 4
    assert {info.key for info in store.list()} == kept
    assert list(store.leftovers()) == []
    assert verify_artifact(artifact) == []
    assert open_output(root_uri, Request(kind="embeddings", config=artifact.config)).fingerprint == artifact.fingerprint
    assert Embeddings.open(root_uri).rows == 8


def test_multipart_uploads_that_were_cut_off(s3_bucket):
    uri, client = f"{s3_bucket.uri}/out", s3_bucket.server.client()
    write_embeddings(uri, [one_language(np.eye(4, dtype=np.float16), "de")])
    where = {"Bucket": s3_bucket.name, "Key": "out/vectors/1.npy"}
    upload = client.create_multipart_upload(**where)["UploadId"]
    client.upload_part(**where, UploadId=upload, PartNumber=1, Body=bytes(5000))
    found = find_orphans(uri)
    assert [(orphan.found.key, orphan.found.bytes, orphan.why) for orphan in found.orphans] == [
        ("vectors/1.npy", 5000, "unfinished upload")
    ]
    delete_orphans(found, time.time() + 3600)
    assert find_orphans(uri).orphans == []
    assert verify_artifact(open_output(uri, Request(kind="embeddings", config=found_config(uri)))) == []


def found_config(uri: str) -> dict[str, str]:
    return Embeddings.open(uri).artifact.config


@pytest.mark.parametrize("finished", [False, True])
def test_checkpoints_of_pretraining(tmp_path, finished):
    output = open_output(str(tmp_path / "encoder"), Request(kind="encoder", config={"steps": 9}))
    store = output.store
    name = checkpoint_name(5)
    record = put_bytes(store, f"_checkpoints/{name}/zero1-2-rank-0.safetensors", b"weights")
    checkpoint_ledger(store).commit(name, Entry(files=[record]))
    cut_off = f"_checkpoints/{checkpoint_name(7)}/zero1-2-rank-0.safetensors"
    store.write(cut_off, b"half a save")  # training's own restart deletes it; of a finished run nobody else would
    if finished:
        output.finish([put_bytes(store, "model.safetensors", b"1")], {})
    age(store, 3)
    result = ccp("gc", store.path, "--delete", "--json")
    assert {row["key"] for row in result.json["outputs"][0]["orphans"]} == ({cut_off} if finished else set())
    assert store.read(record.path) == b"weights"
    assert (store.size(cut_off) is None) == finished


def test_an_unknown_folder_is_not_judged(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    result = ccp("gc", tmp_path, "--delete", "--older-than", 0)
    assert result.code == 2
    assert result.error.startswith(f"{tmp_path}: no artifact and no job here")
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_files_beside_outputs_are_not_judged(tmp_path):
    store = half_done(tmp_path / "run" / "embeddings")
    (tmp_path / "run" / "notes.txt").write_text("x")
    age(LocalStore(tmp_path), 3)
    ccp("gc", tmp_path / "run", "--delete")
    assert sorted(os.listdir(tmp_path / "run")) == ["embeddings", "notes.txt"]
    assert store.size("vectors/1.npy") is None
    assert store.size(JOB) is not None


def test_where_an_entry_is_damaged_nothing_is_deleted(tmp_path):
    store = half_done(tmp_path / "out")
    store.write("_ledger/pieces/0.json", b"{")
    age(store, 3)
    with pytest.raises(DamagedError, match="damaged ledger entry"):
        find_orphans(str(store.path))
    assert ccp("gc", store.path, "--delete").code == 1
    assert store.size("vectors/1.npy") == 4


def test_of_a_finished_index_the_parts_that_were_merged_and_what_was_sampled(tmp_path):
    output = open_output(str(tmp_path / "index"), Request(kind="index", config={}))
    store = output.store
    merged, part, sample = (
        put_bytes(store, key, b"x") for key in ("shards/m.faiss", "shards/p.faiss", "_sample/s.npy")
    )
    for stage, record in (("merge", merged), ("index", part), ("sample", sample)):
        Ledger(store, f"_ledger/{stage}").commit("0", Entry(files=[record]))
    assert names(find_orphans(str(store.path)).orphans) == set()  # before the manifest all of it may be needed
    output.finish([merged], {})
    assert names(find_orphans(str(store.path)).orphans) == {part.path, sample.path}
