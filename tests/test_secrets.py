"""Secrets stay in the environment: what is said of a wrong one, and addresses that hold some.

A whole pipeline with planted secrets is `tests/chaos/test_planted_secrets.py`'s.
"""

from __future__ import annotations

import base64
import gzip
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import ccp
from hypothesis import given
from hypothesis import strategies as st
from planted import PLANTED, found, own_places
from s3_servers import Bucket
from small_recipe import start

from ccp_ray.errors import CcpError


@pytest.fixture
def places() -> Iterator[dict[str, str]]:
    with own_places() as folders:
        yield folders


@given(
    before=st.binary(max_size=9),
    after=st.binary(max_size=9),
    name=st.sampled_from(["SECRET_ACCESS_KEY", "SESSION_TOKEN"]),
)
def test_the_search_finds_a_planted_secret_however_it_is_packed(before: bytes, after: bytes, name: str):
    there, absent = before + PLANTED[f"AWS_{name}"].encode() + after, before + bytes(40) + after
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/config.gz", gzip.compress(base64.b64encode(there)))
    for data in (there, there.hex().encode(), base64.urlsafe_b64encode(there), gzip.compress(there), packed.getvalue()):
        assert found("x", data) == [f"AWS_{name} in x"]
    assert found("x", absent) == found("x", base64.b64encode(absent)) == []


def test_a_wrong_secret_is_not_in_the_error(rclone_bucket: Bucket, places: dict[str, str], tmp_path: Path):
    environment = dict(os.environ) | {"AWS_SECRET_ACCESS_KEY": PLANTED["AWS_SECRET_ACCESS_KEY"]} | places
    log = tmp_path / "log"
    process = start("generate", "--output", f"{rclone_bucket.uri}/x", environment=environment, log=log)
    assert process.wait(120) == 1
    assert "wrong credentials: the secret key does not match the access key" in log.read_text()
    assert found("what it said", log.read_bytes()) == []


@pytest.mark.parametrize(
    "uri",
    [
        "s3://user:planted@bucket/documents",
        "https://user:planted@host/documents.jsonl",
        "https://host/d.jsonl?X-Amz-Credential=planted&X-Amz-Signature=planted&X-Amz-Security-Token=planted",
    ],
)
def test_an_address_with_secrets_is_refused_without_them(uri: str, tmp_path: Path):
    for arguments in (("prepare", uri, "--output", tmp_path / "x"), ("generate", "--output", uri)):
        result = ccp(*arguments)
        assert result.code == 2
        assert "expected s3://bucket/prefix" in result.error or "unknown scheme 'https'" in result.error
        assert "planted" not in result.err + result.out
    assert os.listdir(tmp_path) == []


def test_an_endpoint_with_a_password_is_refused_without_it(moto_bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_bucket.server.endpoint.replace("//", "//user:planted@"))
    result = ccp("generate", "--output", f"{moto_bucket.uri}/x")
    assert result.code == 2
    assert "holds a user, a password or a query" in result.error
    assert "planted" not in result.err
    assert moto_bucket.keys() == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://a:b@host:9/x and s3://k@bucket", "at http://***@host:9/x and s3://***@bucket"),
        ("http://user:p@ss@host:9/x", "http://***@host:9/x"),
        ("GET https://h/k?x=1&X-Amz-Signature=abc&y=2", "GET https://h/k?x=1&X-Amz-Signature=***&y=2"),
        ("mail someone@host, s3://bucket/a@b/c?d=e", "mail someone@host, s3://bucket/a@b/c?d=e"),
    ],
)
def test_what_addresses_hide_is_in_no_message(text: str, shown: str):
    assert str(CcpError(text)) == shown
