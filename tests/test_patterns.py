"""Files, folders and globs on a local folder and on two real S3 servers."""

from __future__ import annotations

import pytest
from s3_servers import Bucket

from ccp_ray.patterns import expand
from ccp_ray.storage import open_store

TREE = ["a.txt", "b.gz", "en/1.txt", "en/2.txt", "en/deep/3.txt", "de/1.txt", ".git/x.txt", "_job.json", "en/_x.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["a.txt", "b.gz", "de/1.txt", "en/1.txt", "en/2.txt", "en/deep/3.txt"]),
        ("/a.txt", ["a.txt"]),
        ("/en/", ["en/1.txt", "en/2.txt", "en/deep/3.txt"]),
        ("/*.txt", ["a.txt"]),
        ("/*/*.txt", ["de/1.txt", "en/1.txt", "en/2.txt"]),
        ("/**/*.txt", ["a.txt", "de/1.txt", "en/1.txt", "en/2.txt", "en/deep/3.txt"]),
        ("/e*", ["en/1.txt", "en/2.txt", "en/deep/3.txt"]),
        ("/en/?.txt", ["en/1.txt", "en/2.txt"]),
        ("/[ab]*", ["a.txt", "b.gz"]),
        ("/_*", ["_job.json"]),
        ("/_job.json", ["_job.json"]),
        ("/none*", []),
        ("/none", []),
    ],
)
def test_expand(root_uri, pattern, expected):
    store = open_store(root_uri)
    for name in TREE:
        store.write(name, b".")
    assert expand(root_uri + pattern) == [store.uri(name) for name in expected]


def test_expand_takes_a_whole_bucket_and_literal_marks(s3_bucket: Bucket, tmp_path):
    open_store(s3_bucket.uri).write("x/1", b"")
    assert expand(s3_bucket.uri) == expand(s3_bucket.uri + "/") == [f"{s3_bucket.uri}/x/1"]
    (tmp_path / "odd[1].txt").write_text("")
    assert expand(str(tmp_path / "odd[1].txt")) == [str(tmp_path / "odd[1].txt")]


def test_expand_of_nothing_is_empty(root_uri):
    assert expand(root_uri) == []
