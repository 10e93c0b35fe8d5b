"""An embedding whose store is out for good: it ends in words, what is committed stays, and the same call goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from fault_proxy import FaultProxy, fault_proxy
from s3_servers import Bucket
from without_ray import embedding_here, pieces_here

from ccp_ray import embed_stream, patience, s3_client
from ccp_ray.artifact import MANIFEST
from ccp_ray.embed import embed
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.embed_stream import LEDGER
from ccp_ray.errors import StoreError

CONFIG = EmbedConfig(precision="fp32", dtype="float32", piece_rows=4)
PIECES, BEFORE, PATIENCE_S = 5, 2, 2


@pytest.fixture
def proxy(moto_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """In front of the store. Waits between tries are short, patience is not."""
    with fault_proxy(moto_bucket.server.endpoint) as started:
        monkeypatch.setenv("AWS_ENDPOINT_URL", started.endpoint)
        monkeypatch.setenv(patience.VARIABLE, str(PATIENCE_S))
        monkeypatch.setattr(s3_client, "_clients", {})
        monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
        monkeypatch.setattr(patience, "_LONGEST_WAIT_S", 0.05)
        yield started


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pieces that the model ran on."""
    names: list[str] = []
    work = embed_stream.Encode._encode

    def noted(self: embed_stream.Encode, row: dict[str, Any]) -> dict[str, Any]:
        names.append(row["name"])
        return work(self, row)

    monkeypatch.setattr(embed_stream.Encode, "_encode", noted)
    return names


def out_after(commits: int, proxy: FaultProxy) -> Callable[..., dict[str, Any]]:
    """`commit`, with which the store goes out for good once so many pieces are committed."""
    done: list[str] = []
    commit = embed_stream.commit

    def committed(ledger: Any, name: str, *rest: Any) -> dict[str, Any]:
        told = commit(ledger, name, *rest)
        done.append(name)
        if len(done) == commits:
            for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
                proxy.inject("503", method, times=None)
        return told

    return committed


def objects(bucket: Bucket) -> dict[str, tuple[Any, str]]:
    """When each object was written, and its sum: asked of the store itself, not through the proxy."""
    pages = bucket.server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
    return {item["Key"]: (item["LastModified"], item["ETag"]) for page in pages for item in page.get("Contents", [])}


def body(bucket: Bucket, key: str) -> bytes:
    data: bytes = bucket.server.client().get_object(Bucket=bucket.name, Key=key)["Body"].read()
    return data


def committed(bucket: Bucket, output: str) -> dict[str, list[str]]:
    """The objects of each piece: its entry, and what that lists."""
    found, folder = {}, f"{output}/{LEDGER}/"
    for key in objects(bucket):
        if key.startswith(folder):
            files = [f"{output}/{record['path']}" for record in json.loads(body(bucket, key))["files"]]
            found[key.removeprefix(folder).removesuffix(".json")] = [key, *files]
    return found


def test_an_outage_for_good_keeps_what_is_committed_and_the_same_call_makes_the_rest(
    proxy: FaultProxy, moto_bucket: Bucket, encoded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = str(tiny_models.plain_folder(tmp_path / "encoder"))
    rows = [{"id": f"d{n}", "text": "some words " * (1 + n % 3)} for n in range(CONFIG.piece_rows * PIECES)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def made(output: str) -> None:
        with embedding_here(), pieces_here("ccp_ray.embed"):
            embed(encoder, str(tmp_path / "texts.jsonl"), f"{moto_bucket.uri}/{output}", CONFIG)

    made("whole")
    everything = committed(moto_bucket, "whole").keys()
    assert (len(everything), len(encoded)) == (PIECES, PIECES)
    encoded.clear()
    with monkeypatch.context() as patch:
        patch.setattr(embed_stream, "commit", out_after(BEFORE, proxy))
        began = time.monotonic()
        with pytest.raises(
            StoreError, match=r"s3://.*/cut/.*: the store asks to slow down, again and again; run again"
        ):
            made("cut")
    assert PATIENCE_S <= time.monotonic() - began < 10 * PATIENCE_S
    kept, then = committed(moto_bucket, "cut"), objects(moto_bucket)
    assert kept.keys() == set(encoded)
    assert len(kept) == BEFORE
    encoded.clear()
    proxy.clear()
    made("cut")
    assert sorted(encoded) == sorted(everything - kept.keys())
    now = objects(moto_bucket)
    assert all(now[key] == then[key] for keys in kept.values() for key in keys)
    assert not [seen for seen in proxy.seen if seen.method == "PUT" and any(name in seen.target for name in kept)]
    assert body(moto_bucket, f"cut/{MANIFEST}") == body(moto_bucket, f"whole/{MANIFEST}")
