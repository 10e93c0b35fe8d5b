"""Gloo's interface is the one that Ray's address lies on."""

from __future__ import annotations

import os

import pytest
import ray.util

from ccp_ray.worker_group import choose_interface


@pytest.mark.parametrize(
    ("address", "before", "after"),
    [
        ("127.0.0.1", None, "lo"),
        ("127.0.0.1", "eth7", "eth7"),  # what an administrator says stands
        ("203.0.113.9", None, None),  # nowhere here: gloo looks for itself
    ],
)
def test_gloo_listens_where_ray_does(monkeypatch, address, before, after):
    monkeypatch.setattr(os, "environ", {} if before is None else {"GLOO_SOCKET_IFNAME": before})
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    choose_interface()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == after
