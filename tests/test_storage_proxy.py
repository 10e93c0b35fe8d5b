"""The store through a proxy that breaks requests and answers, in front of two real servers.

What passes is survived, what lasts ends in an error that says where and what to do, and no reader sees half an object.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import ccp
from embeddings_factory import one_language, write_embeddings
from fault_proxy import TRANSIENT, FaultProxy, fault_proxy
from s3_servers import Bucket, S3Server

from ccp_ray import s3_client
from ccp_ray.artifact import Request, open_artifact, open_output, verify_artifact
from ccp_ray.errors import DamagedError, DataError, StoreError
from ccp_ray.ledger import Entry, Ledger, verified_copy
from ccp_ray.storage import open_store

MIB = 1 << 20
SMALL, LARGE = b"0123456789" * 50, os.urandom(9 * MIB)  # the large one goes up in two parts


@pytest.fixture(scope="module")
def proxies(rclone_server: S3Server, moto_server: S3Server) -> Iterator[dict[str, FaultProxy]]:
    """One proxy a server for all tests: a client for another endpoint takes half a second to make."""
    with fault_proxy(rclone_server.endpoint) as rclone, fault_proxy(moto_server.endpoint) as moto:
        yield {"rclone": rclone, "moto": moto}


@pytest.fixture(params=["rclone", "moto"])
def proxied(request, proxies, monkeypatch) -> tuple[FaultProxy, Bucket]:
    """A proxy in front of a server, this process's chain pointing to it, and an empty bucket there."""
    return _proxied(proxies, request.getfixturevalue(f"{request.param}_bucket"), monkeypatch)


@pytest.fixture
def proxied_moto(proxies, moto_bucket: Bucket, monkeypatch) -> tuple[FaultProxy, Bucket]:
    return _proxied(proxies, moto_bucket, monkeypatch)


def _proxied(proxies, bucket: Bucket, monkeypatch) -> tuple[FaultProxy, Bucket]:
    proxy = proxies[bucket.server.name]
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    proxy.clear()
    open_store(f"{bucket.uri}/p").conditional_writes()  # the probe is not what is tested here
    proxy.clear()
    return proxy, bucket


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("fault", TRANSIENT)
def test_what_passes_is_survived(proxied, tmp_path, fault, monkeypatch):
    # One more than the fault takes: moto itself may answer 500 to a request that is repeated while it is worked on.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    proxy, bucket = proxied
    store = open_store(f"{bucket.uri}/p")
    (tmp_path / "large").write_bytes(LARGE)
    for method, act in (
        ("PUT", lambda: store.write("small", SMALL)),
        ("GET", lambda: store.read("small")),
        ("GET", lambda: store.read("small", 10, 20)),
        ("HEAD", lambda: store.size("small")),
        ("GET", lambda: [info.key for info in store.list()]),
        ("PUT", lambda: store.write_if_absent("new", SMALL)),
        ("PUT", lambda: store.upload(tmp_path / "large", "large")),
        ("POST", lambda: store.upload(tmp_path / "large", "large")),
        ("GET", lambda: store.download("large", tmp_path / "copy")),
        ("PUT", lambda: store.copy_in(store, "small", "other")),
        ("DELETE", lambda: store.delete("other")),
    ):
        proxy.clear()
        proxy.inject(fault, method)
        found = act()
        assert proxy.met() == [fault], (method, proxy.seen)
        proxy.clear()
        assert found in (None, True, SMALL, SMALL[10:30], len(SMALL), ["small"])
    assert {info.key: info.bytes for info in store.list()} == {"small": 500, "new": 500, "large": 9 * MIB}
    assert store.read("new") == SMALL
    assert store.read("large") == LARGE == (tmp_path / "copy").read_bytes()
    assert files(tmp_path) == ["copy", "large"]


def test_an_answer_that_does_not_come(proxied_moto, monkeypatch):
    proxy, bucket = proxied_moto
    monkeypatch.setattr(s3_client, "_READ_S", 0.3)
    monkeypatch.setattr(s3_client, "_clients", {})
    store = open_store(f"{bucket.uri}/p")
    for method, act in (("PUT", lambda: store.write("x", SMALL)), ("GET", lambda: store.read("x"))):
        proxy.inject("late_answer", method)
        act()
    assert proxy.met() == ["late_answer"] * 2
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.inject("late_answer", "GET", times=None)
    with pytest.raises(StoreError, match=rf"cannot read {bucket.uri}/p/x: .*check the network .*finished work is kept"):
        store.read("x")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "the store fails, again and again; run again later, finished work is kept"),
        ("503", "the store asks to slow down, again and again; run again later, finished work is kept"),
        ("cut_request", "check the network and that the endpoint is up"),
        ("torn_request", "check the network and that the endpoint is up"),
        ("cut_answer", "run again later, finished work is kept"),  # of a listing botocore says that it is no XML
    ],
)
def test_what_lasts_is_said_and_nothing_is_half_there(proxied, tmp_path, monkeypatch, fault, words):
    proxy, bucket = proxied
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store = open_store(f"{bucket.uri}/p")
    (tmp_path / "large").write_bytes(LARGE)
    store.write("old", SMALL)
    writes = [
        ("x", lambda: store.write("x", SMALL)),
        ("x", lambda: store.write_if_absent("x", SMALL)),
        ("old", lambda: store.write("old", SMALL * 2)),
        ("large", lambda: store.upload(tmp_path / "large", "large")),
    ]
    reads = [
        ("old", lambda: store.read("old")),
        ("", lambda: list(store.list())),
        ("old", lambda: store.download("old", tmp_path / "copy")),
    ]
    for key, act in reads if fault == "cut_answer" else writes + reads:  # the answer of a PUT has no body
        for method in ("PUT", "POST", "GET"):
            proxy.inject(fault, method, times=None)
        with pytest.raises(StoreError) as caught:
            act()
        assert f"{bucket.uri}/p/{key}: " in str(caught.value)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        proxy.clear()
        assert {info.key: info.bytes for info in store.list()} == {"old": len(SMALL)}
        assert store.read("old") == SMALL
    assert files(tmp_path) == ["large"]


def test_a_conditional_write_knows_its_own_object(proxied_moto):
    """The PUT gets through, its answer is lost, and the try after it meets the object: it is this writer's."""
    proxy, bucket = proxied_moto
    ledger = Ledger(open_store(f"{bucket.uri}/p"))
    proxy.inject("lost_answer", "PUT", "_ledger/mine.json")
    assert ledger.commit("mine", Entry(rows=1))
    assert ledger.read("mine").rows == 1
    assert not ledger.commit("mine", Entry(rows=1))  # the same bytes, but a second commit
    proxy.inject("lost_answer", "PUT", "_ledger/mine.json")
    assert not ledger.commit("mine", Entry(rows=2))
    assert ledger.read("mine").rows == 1
    assert proxy.met() == ["lost_answer"] * 2


def test_a_conflict_of_two_writers_is_settled(proxied_moto, monkeypatch):
    """409: another conditional PUT of the key is under way; whether it stands is known only afterwards."""
    proxy, bucket = proxied_moto
    monkeypatch.setattr("ccp_ray.storage_s3._RACE_WAIT_S", 0.01)
    store = open_store(f"{bucket.uri}/p")
    proxy.inject("409", "PUT", "p/x", times=3)
    assert store.write_if_absent("x", b"1")
    assert not store.write_if_absent("x", b"2")
    proxy.inject("409", "PUT", "p/x", times=None)
    with pytest.raises(StoreError, match="p/x: other writers are at this key all the time"):
        store.write_if_absent("x", b"2")


@pytest.fixture
def artifact(proxied_moto):
    proxy, bucket = proxied_moto
    vectors_ND = np.arange(40_000, dtype=np.float32).reshape(1000, 40)
    write_embeddings(f"{bucket.uri}/e", [one_language(vectors_ND, "de")])
    proxy.clear()
    return proxy, open_artifact(f"{bucket.uri}/e", "embeddings")


def test_wrong_bytes_are_caught_where_a_sum_is_known(artifact, tmp_path):
    proxy, embeddings = artifact
    proxy.inject("flipped_bit", "GET", "pieces.json")
    with pytest.raises(DataError, match=r"e/pieces\.json: checksum does not match"):
        embeddings.read("pieces.json")
    assert embeddings.read("pieces.json").startswith(b"[")
    proxy.inject("flipped_bit", "GET", "vectors/00000.npy")
    (problem,) = verify_artifact(embeddings)
    assert "vectors/00000.npy: checksum does not match" in problem
    assert verify_artifact(embeddings) == []


def test_a_damaged_download_does_not_stay_in_the_cache(artifact, tmp_path):
    proxy, embeddings = artifact
    record = next(record for record in embeddings.files if record.path.startswith("vectors/"))
    proxy.inject("flipped_bit", "GET", record.path, times=None)
    with pytest.raises(DamagedError, match=r"vectors/00000\.npy: altered or damaged"):
        verified_copy(embeddings.store, record, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    proxy.clear()
    proxy.inject("flipped_bit", "GET", record.path)
    assert verified_copy(embeddings.store, record, tmp_path).stat().st_size == record.bytes  # fetched once more


def test_a_bucket_that_forbids_writing_is_refused_at_once(artifact, monkeypatch):
    """Before any work, whether the output is new or half done; what is finished there is still found."""
    proxy, embeddings = artifact
    bucket, request = embeddings.uri.removesuffix("/e"), Request(kind="embeddings", config={})
    half = open_output(f"{bucket}/half", request)
    monkeypatch.setattr(s3_client, "_conditional", {})  # as a process that has not written there yet
    proxy.clear()
    for method in ("PUT", "POST", "DELETE"):
        proxy.inject("403", method, times=None)
    for uri in (f"{bucket}/new", half.uri):
        with pytest.raises(StoreError, match=rf"cannot (write|delete) {uri}/.*: access denied; check the credential"):
            open_output(uri, request)
    assert len(proxy.met()) == 2  # refused by the first request that writes
    result = ccp("index", embeddings.uri, "--output", f"{bucket}/new")
    assert result.code == 1
    assert result.error.startswith(f"cannot write {bucket}/new/_job.json: access denied")
    finished = Request(kind="embeddings", config=embeddings.config)
    assert open_output(embeddings.uri, finished).fingerprint == embeddings.fingerprint
    proxy.clear()
    assert [info.key for info in open_store(f"{bucket}/new").list()] == []
    assert [info.key for info in open_store(half.uri).list()] == ["_job.json"]


@pytest.mark.parametrize(
    ("fault", "method", "times", "errors", "retries"),
    [
        ("503", "PUT", 1, [("PutObject", "SlowDown")], [("PutObject", "SlowDown")]),
        ("503", "PUT", 2, 2 * [("PutObject", "SlowDown")], [("PutObject", "SlowDown")]),  # two tries, both failed
        ("403", "PUT", 1, [("PutObject", "AccessDenied")], []),
        ("cut_request", "PUT", 1, [("PutObject", "ConnectionClosedError")], [("PutObject", "ConnectionClosedError")]),
        ("cut_answer", "GET", 1, [("GetObject", "ResponseStreamingError")], [("GetObject", "ResponseStreamingError")]),
        ("", "PUT", 0, [], []),
    ],
)
def test_errors_and_retries_are_counted_by_operation_and_code(
    proxied_moto, monkeypatch, fault, method, times, errors, retries
):
    proxy, bucket = proxied_moto
    store = open_store(f"{bucket.uri}/p")
    store.write("there", SMALL)
    counted = []
    monkeypatch.setattr("ccp_ray.store_events.count", lambda name, tags: counted.append((name, *tags.values())))
    if fault:
        proxy.inject(fault, method, "/p/", times=times)
    with contextlib.suppress(StoreError):
        store.write("new", SMALL)
        store.read("there")
        store.write_if_absent("there", SMALL)  # answers that are no errors: the condition is not met,
        store.size("nowhere")  # and there is nothing
    assert [entry[1:] for entry in counted if entry[0] == "ccp_ray_store_errors"] == errors
    assert [entry[1:] for entry in counted if entry[0] == "ccp_ray_store_retries"] == retries
