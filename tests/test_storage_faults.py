"""The store when disk, credentials, connection or process fail: what is said, and that nothing is left half-written."""

from __future__ import annotations

import contextlib
import errno
import http.server
import logging
import os
import resource
import subprocess
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from embeddings_factory import one_language, write_embeddings
from s3_servers import SECRET_KEY, Bucket, free_port

from ccp_ray import storage
from ccp_ray.artifact import Artifact, Output, Request, open_output
from ccp_ray.errors import CcpError, StoreError, UsageError
from ccp_ray.pieces import outstanding
from ccp_ray.storage import LocalStore, open_store, read_uri

MIB = 1 << 20


class CutError(RuntimeError):
    pass


@pytest.mark.parametrize("action", ["write", "write_if_absent", "upload"])
def test_a_failure_before_the_end_leaves_no_local_object(tmp_path, monkeypatch, action):
    store = LocalStore(tmp_path / "store")
    (tmp_path / "data").write_bytes(b"new")
    store.write("x", b"old")

    def cut(*_):
        raise CutError

    monkeypatch.setattr(os, "fsync", cut)
    argument = {"upload": (tmp_path / "data", "y")}.get(action, ("y", b"new"))
    with pytest.raises(CutError):
        getattr(store, action)(*argument)
    assert os.listdir(tmp_path / "store") == ["x"]


def test_a_failed_multipart_upload_leaves_nothing(s3_bucket: Bucket, tmp_path):
    (tmp_path / "big").write_bytes(bytes(20 * MIB))
    store = open_store(f"{s3_bucket.uri}/p")

    def cut(params, **_):
        if params["PartNumber"] == 2:
            raise CutError

    store.client.meta.events.register("before-parameter-build.s3.UploadPart", cut)
    try:
        with pytest.raises(CutError):
            store.upload(tmp_path / "big", "big")
    finally:
        store.client.meta.events.unregister("before-parameter-build.s3.UploadPart", cut)
    assert store.size("big") is None
    assert s3_bucket.keys() == []
    assert not s3_bucket.server.client().list_multipart_uploads(Bucket=s3_bucket.name).get("Uploads")


def test_a_new_object_is_readable_by_others(tmp_path):
    store = LocalStore(tmp_path / "store")
    store.write("x", b"")
    store.write_if_absent("y", b"")
    store.upload(tmp_path / "store" / "x", "z")
    umask = os.umask(0)
    os.umask(umask)
    assert {(tmp_path / "store" / name).stat().st_mode & 0o777 for name in "xyz"} == {0o666 & ~umask}


@pytest.fixture
def full_disk(tmp_path, monkeypatch) -> Iterator[Path]:
    """A file system with 256 KiB, or, where this user may not mount one, a disk that says that it is full."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
    try:
        yield folder
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", folder], check=True)


def test_a_full_disk(full_disk, tmp_path):
    store = LocalStore(full_disk)
    (tmp_path / "data").write_bytes(bytes(MIB))
    for action in (
        lambda: store.write("x/y", bytes(MIB)),
        lambda: store.write_if_absent("x/y", bytes(MIB)),
        lambda: store.upload(tmp_path / "data", "x/y"),
    ):
        with pytest.raises(StoreError, match=r"cannot write .*x/y: the disk is full; free space"):
            action()
        assert [path for path in full_disk.rglob("*") if path.is_file()] == []


def test_a_file_size_limit(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match="size limit"):
            LocalStore(tmp_path / "s").write("x", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path / "s") == []


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write anywhere
    try:
        yield
    finally:
        os.seteuid(user)


def test_missing_permissions():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sub").mkdir(mode=0o700)
        (folder / "sub" / "secret").write_text("x")
        (folder / "sub").chmod(0o000)
        folder.chmod(0o555)
        store = LocalStore(folder)
        try:
            with as_nobody():
                for action in (
                    lambda: store.write("x", b""),
                    lambda: store.read("sub/secret"),
                    lambda: store.size("sub/secret"),
                    lambda: list(store.list()),
                    lambda: store.delete("sub/secret"),
                ):
                    with pytest.raises(StoreError, match="permission denied; check the owner"):
                        action()
        finally:
            folder.chmod(0o700)
            (folder / "sub").chmod(0o700)


def test_a_folder_that_forbids_writing_is_refused_at_once():
    """Before any work, whether the output is new or half done; what is finished there is still found."""
    request = Request(kind="embeddings", config={})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        finished = write_embeddings(f"{name}/done", [one_language(np.eye(4, dtype=np.float16), "de")])
        open_output(f"{name}/half", request)
        before = sorted(folder.rglob("*"))
        for path in (folder, folder / "half"):
            path.chmod(0o555)
        try:
            with as_nobody():
                with pytest.raises(StoreError, match=r"/new/_job\.json: permission denied; check the owner") as caught:
                    open_output(f"{name}/new", request)
                assert caught.value.exit_code == 1
                half = open_output(f"{name}/half", request)
                assert isinstance(half, Output)
                with pytest.raises(StoreError, match=r"/half/_plan/pieces\.json: permission denied"):
                    outstanding(half, "pieces", {"a": 1})
                again = open_output(f"{name}/done", Request(kind="embeddings", config=finished.config))
                assert isinstance(again, Artifact)
        finally:
            for path in (folder, folder / "half"):
                path.chmod(0o755)
        assert sorted(folder.rglob("*")) == before


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("x")
    store = LocalStore(tmp_path / "file")
    with pytest.raises(StoreError, match="a part of the path is a file"):
        store.write("x", b"")
    with pytest.raises(FileNotFoundError):
        store.read("x")
    with pytest.raises(UsageError, match="is a folder"):
        read_uri(str(tmp_path))
    with pytest.raises(StoreError, match="it is a folder"):
        LocalStore(tmp_path.parent).write(tmp_path.name, b"")


def every_action(store, tmp_path):
    (tmp_path / "data").write_bytes(b"x")
    yield lambda: store.write("x", b"1")
    yield lambda: store.write_if_absent("x", b"1")
    yield lambda: store.upload(tmp_path / "data", "x")
    yield lambda: list(store.list())
    yield lambda: store.read("x")


def test_a_missing_bucket(s3_bucket: Bucket, tmp_path):
    store = open_store("s3://no-such-bucket-here/p")
    for action in every_action(store, tmp_path):
        with pytest.raises(StoreError, match="the bucket does not exist; create it or correct the URI"):
            action()


def test_wrong_credentials_are_said_and_never_shown(rclone_bucket: Bucket, tmp_path, monkeypatch, caplog):
    planted = "planted+wrong/secret-9876543210zyxwvut"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", planted)
    caplog.set_level(logging.INFO)
    store = open_store(f"{rclone_bucket.uri}/p")
    shown = []
    for action in [*every_action(store, tmp_path), lambda: store.size("x")]:
        with pytest.raises(StoreError, match="credentials") as caught:
            action()
        shown += traceback.format_exception(caught.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "CCPRAYUNKNOWNKEY0001")
    with pytest.raises(StoreError, match=r"credentials|access key") as caught:
        store.write("x", b"1")
    shown += traceback.format_exception(caught.value)
    text = "".join(shown) + caplog.text
    assert planted not in text
    assert SECRET_KEY not in text
    assert rclone_bucket.keys() == []


def test_no_credentials(rclone_bucket: Bucket, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="no credentials found"):
        open_store(rclone_bucket.uri).read("x")


def test_an_endpoint_that_is_down(monkeypatch, moto_bucket):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match="check AWS_ENDPOINT_URL"):
        open_store(moto_bucket.uri).write("x", b"")


class _Cutting(http.server.BaseHTTPRequestHandler):
    """Cuts the connection in the middle of a body, `cuts` times."""

    cuts = 0
    body = b"0123456789" * 100

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        cut = type(self).cuts > 0
        type(self).cuts -= cut
        self.wfile.write(self.body[:300] if cut else self.body)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("cuts", "succeeds"), [(0, True), (3, True), (4, False)])
def test_a_connection_cut_within_the_body(moto_bucket, monkeypatch, cuts, succeeds):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Cutting) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        _Cutting.cuts = cuts
        store = open_store("s3://bucket")
        if succeeds:
            assert store.read("x") == _Cutting.body
        else:
            with pytest.raises(StoreError, match="cannot read s3://bucket/x"):
                store.read("x")
        server.shutdown()


def test_every_message_is_one_line(tmp_path):
    with pytest.raises(CcpError) as caught:
        LocalStore(tmp_path).read("../x")
    assert "\n" not in str(caught.value)
    assert storage.TEMPORARY.startswith(".")
