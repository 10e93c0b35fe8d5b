"""Language banks against a plain queue for each language."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.bank import LanguageBanks

CPU = torch.device("cpu")
LANGUAGES = ("de", "en")

pushes = st.lists(st.tuples(st.sampled_from(LANGUAGES), st.integers(0, 9), st.integers(0, 3)), max_size=25)


def banks(size=4, max_age=None, languages=LANGUAGES) -> LanguageBanks:
    return LanguageBanks(languages, size, 2, max_age, CPU)


def keys(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys that tell their number, and hashes that do too."""
    numbers = torch.arange(first, first + count)
    return torch.stack([numbers.float(), -numbers.float()], dim=1), numbers + 1000


def contents(bank: LanguageBanks, lang: str, step: int) -> list[tuple[float, int, int]]:
    """(number, hash, age) of a language's negatives, sorted: their order in the ring means nothing."""
    found = bank.negatives(lang, step)
    assert torch.equal(found.keys_MD[:, 0], -found.keys_MD[:, 1])
    columns = (found.keys_MD[:, 0].tolist(), found.hashes_M.tolist(), found.ages_M.tolist())
    return sorted(zip(*columns, strict=True))


@given(st.integers(1, 6), pushes, st.sampled_from([None, 1, 2, 5]))
def test_each_language_is_a_queue_of_its_own(size, pushed, max_age):
    """pushed: (language, number of keys, steps since the push before)."""
    bank = banks(size, max_age)
    model: dict[str, deque[tuple[int, int]]] = {lang: deque(maxlen=size) for lang in LANGUAGES}
    step = number = 0
    for lang, count, wait in pushed:
        step += wait
        bank.push(lang, *keys(number, count), step)
        model[lang].extend((number + i, step) for i in range(count))
        number += count
        for each in LANGUAGES:
            now = step + 1
            young = [(n, now - s) for n, s in model[each] if max_age is None or now - s <= max_age]
            assert contents(bank, each, now) == sorted((float(n), n + 1000, age) for n, age in young)
    assert bank.fill() == pytest.approx(sum(map(len, model.values())) / (size * len(LANGUAGES)))


def test_an_empty_bank_has_no_negatives():
    found = banks().negatives("en", 0)
    assert found.keys_MD.shape == (0, 2)
    assert found.hashes_M.shape == found.ages_M.shape == (0,)


def test_a_zero_key_that_was_pushed_counts_and_an_empty_slot_does_not():
    bank = banks(size=4)
    bank.push("en", torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), 0)
    assert len(bank.negatives("en", 0).keys_MD) == 1


def test_more_keys_than_slots_leave_the_last_ones():
    bank = banks(size=3)
    bank.push("en", *keys(0, 10), step=5)
    assert [number for number, _, _ in contents(bank, "en", 6)] == [7, 8, 9]
    bank.push("en", *keys(10, 1), step=6)
    assert [number for number, _, _ in contents(bank, "en", 7)] == [8, 9, 10]


def test_keys_are_copies_without_a_graph():
    bank = banks()
    own = torch.ones(2, 2, requires_grad=True)
    bank.push("en", own * 2, torch.tensor([1, 2]), 0)
    with torch.no_grad():
        own.fill_(7)
    found = bank.negatives("en", 1)
    assert not found.keys_MD.requires_grad
    assert found.keys_MD.tolist() == [[2, 2], [2, 2]]


def test_negatives_already_read_do_not_change_with_the_bank():
    bank = banks(size=1)
    bank.push("en", *keys(0, 1), step=0)
    before = bank.negatives("en", 1)
    bank.push("en", *keys(1, 1), step=1)
    assert before.keys_MD[0, 0] == 0


def test_state_round_trip_and_checksum():
    one, other = banks(), banks()
    for step in range(3):
        one.push("de", *keys(3 * step, 3), step)
    assert one.checksum() != other.checksum()
    other.load({name: tensor.clone() for name, tensor in one.state().items()})
    assert one.checksum() == other.checksum()
    for bank in (one, other):
        bank.push("de", *keys(9, 2), 3)
        bank.push("en", *keys(11, 1), 3)
    assert one.checksum() == other.checksum()
    assert contents(one, "de", 4) == contents(other, "de", 4)


@pytest.mark.parametrize("change", ["keys", "hashes", "steps", "cursors"])
def test_the_checksum_sees_every_part_of_the_state(change):
    one, other = banks(), banks()
    state = {name: tensor.clone() for name, tensor in one.state().items()}
    state[f"bank.{change}"].view(-1)[-1] += 1
    other.load(state)
    assert one.checksum() != other.checksum()


def test_memory_is_what_the_module_says():
    bank = LanguageBanks(["aa", "bb", "cc"], 16, 8, None, CPU)
    held = sum(tensor.numel() * tensor.element_size() for tensor in bank.state().values())
    assert held == 3 * 16 * (4 * 8 + 16) + 3 * 8  # and the cursors
