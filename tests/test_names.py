"""Names for Ray's dashboard."""

from __future__ import annotations

import pytest

from ccp_ray.names import shown_name


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://bucket/deep/run/encoder", "pretrain-run-encoder"),
        ("s3://bucket", "pretrain-bucket"),
        ("/data/my runs/encoder", "pretrain-my-runs-encoder"),
        ("encoder", "pretrain-encoder"),
        ("file:///a/b/c/", "pretrain-b-c"),
    ],
)
def test_what_it_is_and_what_it_works_on(uri: str, name: str) -> None:
    assert shown_name("pretrain", uri) == name
