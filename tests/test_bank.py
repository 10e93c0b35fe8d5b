"""Language banks against a plain queue for each language, whole and sharded."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.bank import WHOLE, LanguageBanks, Shard
from ccp_ray.pretrain_config import BankConfig

CPU = torch.device("cpu")
LANGUAGES = ("de", "en")

# (languages of a step's groups, keys of each group, steps since the push before)
pushes = st.lists(
    st.tuples(st.lists(st.sampled_from(LANGUAGES), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 3)),
    max_size=12,
)


def config(size: int = 4, max_age: int | None = None, **changes: Any) -> BankConfig:
    return BankConfig(size=size, max_age=max_age, **changes)


def banks(size=4, max_age=None, shard=WHOLE, **changes) -> LanguageBanks:
    return LanguageBanks(config(size, max_age, **changes), LANGUAGES, 2, CPU, shard=shard)


def keys(first: int, groups: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys that tell their number, and hashes that do too."""
    numbers = torch.arange(first, first + groups * count).reshape(groups, count)
    return torch.stack([numbers.float(), -numbers.float()], dim=2), numbers + 1000


def push(bank: LanguageBanks, lang: str, first: int, count: int, step: int) -> None:
    bank.push([lang], *keys(first, 1, count), step)


def contents(parts: Sequence[LanguageBanks], lang: str, step: int) -> list[tuple[float, int, int]]:
    """(number, hash, age) of a language's keys that count, on all shards, sorted: their slots mean nothing."""
    out = []
    for bank in parts:
        keys_KD, hashes_K, ages_K, usable_K = (t[0] for t in bank.slots(torch.tensor([bank.codes[lang]]), step))
        assert torch.equal(keys_KD[:, 0], -keys_KD[:, 1])
        columns = (keys_KD[usable_K, 0].tolist(), hashes_K[usable_K].tolist(), ages_K[usable_K].tolist())
        out += zip(*columns, strict=True)
    return sorted(out)


@given(
    st.integers(1, 6), st.integers(1, 4), pushes, st.sampled_from([None, 1, 2, 5]),
    st.sampled_from(["language", "shared"]),
)  # fmt: skip
def test_each_ring_is_a_queue_of_its_own_however_it_is_split(size, ranks, pushed, max_age, kind):
    parts = [banks(size, max_age, Shard(rank, ranks), kind=kind) for rank in range(ranks)]
    model: dict[str, deque[tuple[int, int]]] = {lang: deque(maxlen=size) for lang in LANGUAGES}
    step = number = 0
    for langs, count, wait in pushed:
        step += wait
        for bank in parts:
            bank.push(langs, *keys(number, len(langs), count), step)
        for lang in langs:
            model[lang if kind == "language" else LANGUAGES[0]].extend((number + i, step) for i in range(count))
            number += count
        for each in LANGUAGES:
            now = step + 1
            held = model[each if kind == "language" else LANGUAGES[0]]
            young = [(n, now - s) for n, s in held if max_age is None or now - s <= max_age]
            assert contents(parts, each, now) == sorted((float(n), n + 1000, age) for n, age in young)
    rings = LANGUAGES if kind == "language" else LANGUAGES[:1]
    filled = sum(len(model[ring]) for ring in rings) / (size * len(rings))
    assert [bank.fill() for bank in parts] == pytest.approx([filled] * ranks)


@given(st.integers(1, 9), pushes, st.integers(1, 4))
def test_a_whole_state_is_shared_out_and_goes_on(size, pushed, ranks):
    """What was held by one is held by `ranks` after `load`, and stays so when both go on."""
    whole, step = banks(size), 0
    parts = [banks(size, shard=Shard(rank, ranks)) for rank in range(ranks)]
    for number, (langs, count, _) in enumerate(pushed):
        whole.push(langs, *keys(10 * number, len(langs), count), step := step + 1)
    for bank in parts:
        bank.load(whole.state())
    for _ in range(2):
        for lang in LANGUAGES:
            assert contents(parts, lang, step) == contents([whole], lang, step)
        for bank in (whole, *parts):
            bank.push(["en", "de", "en"], *keys(700, 3, 2), step)


def test_an_empty_bank_has_no_keys():
    assert contents([banks()], "en", 0) == []


def test_a_zero_key_that_was_pushed_counts_and_an_empty_slot_does_not():
    bank = banks(size=4)
    bank.push(["en"], torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.int64), 0)
    assert len(contents([bank], "en", 0)) == 1


def test_more_keys_than_slots_leave_the_last_ones():
    bank = banks(size=3)
    push(bank, "en", 0, 10, step=5)
    assert [number for number, _, _ in contents([bank], "en", 6)] == [7, 8, 9]
    bank.push(["en", "en"], *keys(10, 2, 2), 6)  # four keys of one step into three slots
    assert [number for number, _, _ in contents([bank], "en", 7)] == [11, 12, 13]


def test_keys_are_copies_without_a_graph():
    bank = banks()
    own = torch.ones(1, 2, 2, requires_grad=True)
    bank.push(["en"], own * 2, torch.tensor([[1, 2]]), 0)
    with torch.no_grad():
        own.fill_(7)
    assert not bank.keys_LKD.requires_grad
    assert bank.keys_LKD[1, :2].tolist() == [[2, 2], [2, 2]]


def test_slots_and_states_already_read_do_not_change_with_the_bank():
    bank = banks(size=1)
    push(bank, "en", 3, 1, step=0)
    before, state = bank.slots(torch.tensor([1]), 1), bank.state()
    push(bank, "en", 5, 1, step=1)
    assert before.keys_BKD[0, 0, 0] == state["bank.keys"][1, 0, 0] == 3
    assert state["bank.pushed"].tolist() == [0, 1]


def test_keys_in_bf16_are_the_nearest_bf16():
    bank = banks(size=2, dtype="bf16")
    exact = torch.tensor([[[0.1234567, 0.9], [1 / 3, -0.6]]])
    bank.push(["en"], exact, torch.tensor([[1, 2]]), 0)
    assert bank.keys_LKD.dtype == bank.state()["bank.keys"].dtype == torch.bfloat16
    assert torch.equal(bank.keys_LKD[1], exact[0].bfloat16())
    torch.testing.assert_close(bank.keys_LKD[1].float(), exact[0], rtol=2**-8, atol=0)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_random_fill_is_unit_vectors_of_step_0_from_the_seed_alone(ranks):
    made = [LanguageBanks(config(50, fill="random"), LANGUAGES, 8, CPU, 7, Shard(rank, ranks)) for rank in range(ranks)]
    found = [bank.slots(torch.tensor([0, 1]), step=5) for bank in made]
    rows = [slots.keys_BKD[slots.usable_BK] for slots in found]
    assert sum(map(len, rows)) == 100
    assert all((slots.ages_BK[slots.usable_BK] == 5).all() for slots in found)
    torch.testing.assert_close(torch.cat(rows).norm(dim=1), torch.ones(100))
    assert torch.cat(rows).mean(0).abs().max() < 0.2  # no direction is preferred
    assert [bank.fill() for bank in made] == [1] * ranks
    whole = LanguageBanks(config(50, fill="random"), LANGUAGES, 8, CPU, 7)
    for rank, bank in enumerate(made):
        part_LKD = whole.keys_LKD[:, rank::ranks]
        assert torch.equal(bank.keys_LKD[:, : part_LKD.shape[1]], part_LKD)
    other = LanguageBanks(config(50, fill="random"), LANGUAGES, 8, CPU, 8)
    assert not torch.equal(whole.keys_LKD, other.keys_LKD)
    assert not torch.equal(whole.keys_LKD[0], whole.keys_LKD[1])


def test_a_random_fill_is_overwritten_from_its_first_slot():
    bank = banks(size=3, fill="random")
    bank.push(["en"], *keys(1, 1, 2), step=4)
    ages_K = bank.slots(torch.tensor([1]), 5).ages_BK[0]
    assert ages_K.tolist() == [1, 1, 5]


def test_state_round_trip_and_checksum():
    one, other = banks(), banks()
    for step in range(3):
        push(one, "de", 3 * step, 3, step)
    assert one.checksum() != other.checksum()
    other.load(one.state())
    assert one.checksum() == other.checksum()
    for bank in (one, other):
        push(bank, "de", 9, 2, 3)
        push(bank, "en", 11, 1, 3)
    assert one.checksum() == other.checksum()
    assert contents([one], "de", 4) == contents([other], "de", 4)


@pytest.mark.parametrize("change", ["keys", "hashes", "steps", "pushed"])
def test_the_checksum_sees_every_part_of_the_state(change):
    one, other = banks(), banks()
    state = one.state()
    state[f"bank.{change}"].view(-1)[-1] += 1
    other.load(state)
    assert one.checksum() != other.checksum()


@pytest.mark.parametrize(("dtype", "width"), [("fp32", 4), ("bf16", 2)])
@pytest.mark.parametrize(("kind", "rings"), [("language", 3), ("shared", 1)])
@pytest.mark.parametrize("ranks", [1, 2, 4, 5])
def test_memory_is_what_the_configuration_says(ranks, kind, rings, dtype, width):
    settings = config(16, kind=kind, dtype=dtype, placement="sharded")
    bank = LanguageBanks(settings, ["aa", "bb", "cc"], 8, CPU, shard=Shard(ranks - 1, ranks))
    held = sum(t.numel() * t.element_size() for t in (bank.keys_LKD, bank.hashes_LK, bank.steps_LK))
    assert held == settings.memory(3, 8, ranks) == rings * int(np.ceil(16 / ranks)) * (width * 8 + 16)


def test_replicated_memory_does_not_fall_with_the_workers():
    assert config(16).memory(3, 8, 1) == config(16).memory(3, 8, 4) == 3 * 16 * (4 * 8 + 16)
