"""Combinations of pretraining keys that cannot work are refused with both keys named."""

from __future__ import annotations

import pytest

from ccp_ray.config import build_config, semantic
from ccp_ray.errors import UsageError
from ccp_ray.pretrain_config import PretrainConfig


def build(**values: object) -> PretrainConfig:
    return build_config(PretrainConfig, {"chunks": 1} | values)


@pytest.mark.parametrize("norm", ["asymmetric", "symmetric"])
def test_a_batch_smaller_than_batch_norm_can_take(norm):
    with pytest.raises(UsageError, match=rf"norm={norm} .*pairs_per_group=1 .*norm=layer"):
        build(norm=norm, pairs_per_group=1)
    assert build(norm=norm, pairs_per_group=2).pairs_per_group == 2


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_one_pair_a_group_needs_a_bank(norm):
    assert build(norm=norm, pairs_per_group=1).norm == norm
    with pytest.raises(UsageError, match=r"pairs_per_group=1 with bank\.size=0"):
        build(norm=norm, pairs_per_group=1, bank={"size": 0})


def test_mixed_groups_have_no_bank_of_a_language():
    with pytest.raises(
        UsageError, match=r"mixed_groups=true with bank\.kind=language.*bank\.kind=shared or bank\.size=0"
    ):
        build(mixed_groups=True)
    for bank in ({"kind": "shared"}, {"size": 0}):
        assert build(mixed_groups=True, bank=bank).mixed_groups


def test_what_only_warns_or_stops_does_not_change_what_is_asked_for():
    warn, stop = (build(monitor={"action": action}) for action in ("warn", "stop"))
    assert semantic(warn) == semantic(stop)
    assert semantic(build(log_every=3)) != semantic(build())  # a metrics row stands for other steps: another artifact
    assert semantic(build(monitor={"leak": 0.3})) != semantic(build())  # other problems stand in them
