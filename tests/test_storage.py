"""The store on a local folder and on two real S3 servers: one behaviour, and the differences that must be noticed."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig
from hypothesis import given
from hypothesis import strategies as st
from s3_servers import Bucket

from ccp_ray import s3_client
from ccp_ray.errors import StoreError, UsageError
from ccp_ray.storage import TEMPORARY, LocalStore, absolute_uri, open_store, read_uri, split_uri

MIB = 1 << 20


def keys(store, prefix=""):
    return [info.key for info in store.list(prefix)]


def test_round_trip(root_uri):
    store = open_store(root_uri)
    store.write("a/b c/ü.bin", b"one")
    store.write("a/b c/ü.bin", b"three")
    assert store.read("a/b c/ü.bin") == b"three"
    assert store.size("a/b c/ü.bin") == 5
    assert read_uri(store.uri("a/b c/ü.bin")) == b"three"
    store.write("empty", b"")
    assert store.read("empty") == b""
    assert store.size("empty") == 0
    store.delete("empty")
    store.delete("empty")
    assert store.size("empty") is None
    with pytest.raises(FileNotFoundError):
        store.read("empty")
    with pytest.raises(UsageError, match="no such file"):
        read_uri(store.uri("empty"))


@pytest.mark.parametrize(
    ("start", "length"), [(0, 4), (3, 4), (7, None), (9, 5), (10, None), (10, 1), (25, 3), (4, 0), (0, None)]
)
def test_ranges_are_slices(root_uri, start, length):
    store, data = open_store(root_uri), b"0123456789"
    store.write("x", data)
    assert store.read("x", start, length) == data[start : None if length is None else start + length]


def test_listing_is_in_key_order(root_uri):
    store = open_store(root_uri)
    names = ["b", "a/z", "a.txt", "a/b/c", "a-b/x", "a0", "Z", "a/é", "_hidden/x"]
    for name in names:
        store.write(name, name.encode())
    assert keys(store) == sorted(names)
    assert keys(store, "a/") == sorted(name for name in names if name.startswith("a/"))
    assert keys(store, "a") == sorted(name for name in names if name.startswith("a"))
    assert keys(store, "a/b/none") == []
    assert {info.key: info.bytes for info in store.list()} == {name: len(name.encode()) for name in names}


def test_listing_of_nothing_is_empty(root_uri):
    assert keys(open_store(root_uri)) == []


def test_files_go_up_and_down_in_parts(root_uri, tmp_path):
    data = os.urandom(20 * MIB + 17)  # above the 8 MiB from which S3 uploads are split
    (tmp_path / "big").write_bytes(data)
    store = open_store(root_uri)
    store.upload(tmp_path / "big", "deep/big")
    assert store.size("deep/big") == len(data)
    assert store.read("deep/big", 9 * MIB, 100) == data[9 * MIB : 9 * MIB + 100]
    store.download("deep/big", tmp_path / "new folder" / "copy")
    assert (tmp_path / "new folder" / "copy").read_bytes() == data
    assert os.listdir(tmp_path / "new folder") == ["copy"]
    local = store.local_path("deep/big", tmp_path / "cache", "ab12")
    assert local.read_bytes() == data
    assert store.local_path("deep/big", tmp_path / "cache", "ab12") == local
    with pytest.raises(FileNotFoundError):
        store.download("none", tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_write_if_absent_keeps_the_first(root_uri):
    store = open_store(root_uri)
    assert store.write_if_absent("x/y", b"first")
    assert not store.write_if_absent("x/y", b"second")
    assert store.read("x/y") == b"first"
    assert keys(store) == ["x/y"]  # no probe and no temporary file is left or listed


@pytest.mark.parametrize("root_uri", ["local", "moto"], indirect=True)
def test_of_many_writers_one_wins_where_the_store_settles_races(root_uri):
    store = open_store(root_uri)
    assert store.conditional_writes()
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.write_if_absent("one", str(i).encode()), range(16)))
    assert sum(won) == 1
    assert store.read("one") == str(won.index(True)).encode()


def test_conditional_writes_are_probed_once_a_bucket(s3_bucket: Bucket, monkeypatch):
    probes = []
    probe = s3_client._probe_if_none_match
    monkeypatch.setattr(s3_client, "_probe_if_none_match", lambda *args: probes.append(args) or probe(*args))
    for prefix in ("a", "b", "a"):
        assert open_store(f"{s3_bucket.uri}/{prefix}").conditional_writes() is (s3_bucket.server.name == "moto")
    assert len(probes) == 1
    assert s3_bucket.keys() == []


def test_several_servers_in_one_process(rclone_server, moto_server, monkeypatch):
    for server in (rclone_server, moto_server, rclone_server):
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        client = server.client()
        if "shared-name" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket="shared-name")
        store = open_store("s3://shared-name")
        store.write("who", server.name.encode())
        assert client.get_object(Bucket="shared-name", Key="who")["Body"].read() == server.name.encode()


def test_endpoint_and_keys_from_a_profile(rclone_bucket: Bucket, monkeypatch, tmp_path):
    environment = rclone_bucket.server.environment()
    for name in environment:
        monkeypatch.delenv(name)
    endpoint = environment["AWS_ENDPOINT_URL"].replace("127.0.0.1", "localhost")  # a host name: no virtual buckets
    (tmp_path / "config").write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = {endpoint}\n")
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {environment['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {environment['AWS_SECRET_ACCESS_KEY']}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    open_store(f"{rclone_bucket.uri}/p").write("x", b"1")
    assert rclone_bucket.keys() == ["p/x"]


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/x", "..", "a/.."])
def test_keys_stay_below_the_root(root_uri, key, tmp_path):
    store = open_store(root_uri)
    for action in (store.read, store.size, store.delete, lambda k: store.write(k, b"")):
        with pytest.raises(StoreError, match="must stay below"):
            action(key)
    with pytest.raises(StoreError, match="must stay below"):
        list(store.list("../"))


@pytest.mark.parametrize("uri", ["s3://", "s3:///x", "gs://bucket/x", "s3://b/../c", "", "http://h/x"])
def test_wrong_uris_are_usage_errors(uri):
    with pytest.raises(UsageError):
        open_store(uri)


def test_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("runs/x") == str(tmp_path / "runs" / "x")
    assert absolute_uri("s3://b/x/") == "s3://b/x"
    assert absolute_uri("file:///a%20b") == "/a b"
    assert open_store("s3://b/run#1?").prefix == "run#1?"
    assert [(store.root, key) for store, key in map(split_uri, ["/x", "x", "s3://b/k", "file:///x", "a/b/"])] == [
        ("/", "x"),
        (str(tmp_path), "x"),
        ("s3://b", "k"),
        ("/", "x"),
        (str(tmp_path / "a"), "b"),
    ]
    with pytest.raises(UsageError, match="expected s3://bucket/key"):
        split_uri("s3://bucket")


def test_a_root_that_was_there_before_stays(tmp_path):
    for root in (tmp_path, tmp_path / "new"):
        store = LocalStore(root)
        store.write("a/b", b"")
        store.delete("a/b")
    assert os.listdir(tmp_path) == []


names = st.lists(st.text("ab._-0", min_size=1, max_size=3).filter(lambda s: s.strip(".")), min_size=1, max_size=3)


@given(st.sets(names.map("/".join), max_size=8))
def test_local_listing_equals_sorted_keys(paths):
    with tempfile.TemporaryDirectory() as folder:
        store, written = LocalStore(Path(folder) / "root"), set()
        for path in sorted(paths, key=len):
            if not any(path.startswith(other + "/") or other.startswith(path + "/") for other in written):
                store.write(path, b"")
                written.add(path)
        assert keys(store) == sorted(written)
        for path in list(written):
            store.delete(path)
        assert os.listdir(folder) == []  # empty folders go with their last object


def test_links_are_followed_and_bad_ones_named(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_text("1")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")
    store = LocalStore(tmp_path / "root")
    assert keys(store) == ["link/x"]
    (tmp_path / "real" / "up").symlink_to(tmp_path / "root")
    with pytest.raises(StoreError, match="leads back"):
        keys(store)
    (tmp_path / "real" / "up").unlink()
    (tmp_path / "root" / "zz").symlink_to(tmp_path / "nothing")
    with pytest.raises(StoreError, match="zz: a symbolic link to nothing"):
        keys(store)


def test_an_object_is_as_old_as_its_last_write(root_uri):
    store = open_store(root_uri)
    before = time.time()
    store.write("x", b"1")
    (info,) = store.list()
    assert before - 2 < info.modified < time.time() + 2  # S3 tells whole seconds


@pytest.mark.parametrize("other", ["same", "local"])
def test_copies_from_another_store(root_uri, tmp_path, other):
    source, store = (
        open_store(str(tmp_path / "other") if other == "local" else f"{root_uri}/other"),
        open_store(root_uri),
    )
    data = os.urandom(9 * MIB)
    source.write("a b/ü", data)
    store.write("to/x", b"overwritten")
    store.copy_in(source, "a b/ü", "to/x")
    assert store.read("to/x") == data
    source.write("a b/ü", b"written anew: the copy stays what it was")
    assert store.read("to/x") == data
    with pytest.raises(FileNotFoundError, match="other/none"):
        store.copy_in(source, "none", "y")
    assert keys(store, "to/") == ["to/x"]
    assert store.size("y") is None


def test_copies_from_s3_to_disk(s3_bucket: Bucket, tmp_path):
    source, store = open_store(f"{s3_bucket.uri}/p"), LocalStore(tmp_path / "store")
    source.write("x", b"123")
    store.copy_in(source, "x", "to/x")
    assert store.read("to/x") == b"123"
    assert os.listdir(tmp_path / "store" / "to") == ["x"]
    with pytest.raises(FileNotFoundError, match=f"{s3_bucket.uri}/p/none"):
        store.copy_in(source, "none", "y")


def test_large_copies_on_the_server_are_in_parts(moto_bucket: Bucket, monkeypatch):
    store, data = open_store(moto_bucket.uri), os.urandom(11 * MIB)
    store.write("x", data)
    small_parts = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=5 * MIB)
    monkeypatch.setattr("ccp_ray.storage_s3._COPIES", small_parts)
    store.copy_in(store, "x", "y")
    assert store.read("y") == data
    assert moto_bucket.server.client().head_object(Bucket=moto_bucket.name, Key="y")["ETag"].endswith('-3"')


def test_local_copies_share_the_bytes_and_count_as_new(tmp_path, monkeypatch):
    source, store = LocalStore(tmp_path / "a"), LocalStore(tmp_path / "b")
    source.write("x", b"123")
    os.utime(tmp_path / "a" / "x", (1000, 1000))
    for _ in range(2):  # again: a link to what is there already is no error, and leaves nothing
        store.copy_in(source, "x", "y")
        assert (tmp_path / "b" / "y").samefile(tmp_path / "a" / "x")
        assert next(store.list()).modified > time.time() - 60
        assert os.listdir(tmp_path / "b") == ["y"]

    def another_file_system(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", another_file_system)
    store.copy_in(source, "x", "z")
    assert store.read("z") == b"123"
    assert not (tmp_path / "b" / "z").samefile(tmp_path / "a" / "x")
    assert sorted(os.listdir(tmp_path / "b")) == ["y", "z"]


def test_a_linked_source_is_followed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "real").write_text("123")
    (tmp_path / "a" / "x").symlink_to(tmp_path / "real")
    store = LocalStore(tmp_path / "b")
    store.copy_in(LocalStore(tmp_path / "a"), "x", "y")
    assert not (tmp_path / "b" / "y").is_symlink()
    assert store.read("y") == b"123"


def test_leftovers_of_killed_writers(root_uri):
    store = open_store(root_uri)
    store.write("a/x", b"1")
    store.write(f"a/{TEMPORARY}77", b"four")
    assert keys(store) == ["a/x"]
    (left,) = store.leftovers()
    assert (left.key, left.bytes, left.upload) == (f"a/{TEMPORARY}77", 4, "")
    assert abs(left.modified - time.time()) < 60
    store.discard(left)
    store.discard(left)
    assert list(store.leftovers()) == []
    assert store.read("a/x") == b"1"


def test_unfinished_multipart_uploads_are_leftovers(s3_bucket: Bucket):
    store, client = open_store(f"{s3_bucket.uri}/p"), s3_bucket.server.client()
    uploads = {}
    for key in ("p/big", "other/big"):
        begun = client.create_multipart_upload(Bucket=s3_bucket.name, Key=key)["UploadId"]
        client.upload_part(Bucket=s3_bucket.name, Key=key, UploadId=begun, PartNumber=1, Body=bytes(1000))
        uploads[key] = begun
    (left,) = store.leftovers()
    assert (left.key, left.bytes, left.upload) == ("big", 1000, uploads["p/big"])
    if s3_bucket.server.name == "rclone":  # moto says 2010 of every upload
        assert abs(left.modified - time.time()) < 60
    store.discard(left)
    store.discard(left)
    assert list(store.leftovers()) == []
    (other,) = open_store(f"{s3_bucket.uri}/other").leftovers()
    open_store(f"{s3_bucket.uri}/other").discard(other)
