"""The sampler: permutations, quotas, and draws that are functions of (seed, step, group) alone."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ccp_ray import sampling
from ccp_ray.errors import DataError
from ccp_ray.sampling import Sampler, language_shares, permute, random_generator

SIZES = {"de": 1000, "en": 20_000, "sw": 37}


def sampler(seed=0, sizes=None, exponent=0.3, groups=4, stream="pairs") -> Sampler:
    return Sampler(seed, sizes or SIZES, exponent, groups, stream)


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection(size, key):
    image = permute(np.arange(size, dtype=np.uint64), size, key)
    assert np.array_equal(np.sort(image), np.arange(size))


@given(st.integers(1, 2**40), st.integers(0, 2**64 - 1), st.data())
def test_permute_of_a_huge_set_stays_inside_and_is_one_to_one(size, key, data):
    values = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=50))), dtype=np.uint64)
    image = permute(values, size, key)
    assert ((image >= 0) & (image < size)).all()
    assert len(set(image.tolist())) == len(values)
    one_by_one = [int(permute(values[i : i + 1], size, key)[0]) for i in range(len(values))]
    assert image.tolist() == one_by_one


@pytest.mark.parametrize("size", [8, 20, 64, 100, 257])
def test_any_sentence_may_stand_anywhere(size):
    """First and last place of 4,000 keyed permutations, against the uniform law."""
    keys = [sampling._key("uniform", size, n) for n in range(4000)]
    places = np.array([permute(np.array([0, size - 1], dtype=np.uint64), size, key) for key in keys])
    for column in places.T:
        assert stats.chisquare(np.bincount(column, minlength=size)).pvalue > 1e-4


def test_neighbours_are_torn_apart():
    image = permute(np.arange(10_000, dtype=np.uint64), 10_000, sampling._key("tear"))
    steps = np.abs(np.diff(image))
    assert abs(steps.mean() - 10_000 / 3) < 150  # of two uniform places
    assert np.abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.05


@pytest.mark.parametrize(("groups", "count"), [(1, 1), (4, 8), (3, 37), (5, 50)])
def test_every_sentence_is_a_centre_exactly_once_an_epoch(groups, count):
    sizes = {"aa": 37, "bb": 120}
    drawn: dict[str, list[int]] = {lang: [] for lang in sizes}
    one = sampler(sizes=sizes, groups=groups)
    step = 0
    while min(len(drawn[lang]) / size for lang, size in sizes.items()) < 3:
        for group in range(groups):
            lang, indices = one.draw(step, group, count)
            assert lang == one.language(step, group)
            assert indices.shape == (count,)
            drawn[lang].extend(indices.tolist())
        step += 1
    for lang, size in sizes.items():
        epochs = [drawn[lang][start : start + size] for start in range(0, 3 * size, size)]
        for epoch in epochs:
            assert sorted(epoch) == list(range(size))
        assert epochs[0] != epochs[1] != epochs[2]


@given(st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 10**9), min_size=1), st.floats(0, 1))
def test_shares_follow_the_exponent(sizes, exponent):
    shares = language_shares(sizes, exponent)
    assert list(shares) == sorted(sizes)
    assert sum(shares.values()) == pytest.approx(1)
    for lang in sizes:
        for other in sizes:
            ratio = (sizes[lang] / sizes[other]) ** exponent
            assert shares[lang] / shares[other] == pytest.approx(ratio, rel=1e-9)


@given(
    st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 10**9), min_size=1),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.integers(1, 8),
)
@settings(max_examples=40)
def test_quotas_of_a_block_are_the_shares_within_rounding(sizes, exponent, groups):
    one = sampler(sizes=sizes, exponent=exponent, groups=groups)
    shares = language_shares(sizes, exponent)
    counts = Counter({lang: int(quota) for lang, quota in zip(one.languages, one.quotas, strict=True)})
    for lang in sizes:
        # One by rounding, and one for each language that was raised to its least quota of one.
        assert abs(counts[lang] - shares[lang] * one.block) <= 1 + len(sizes)
        assert counts[lang] >= 1
    order = [one.languages[code] for code in one._order(0)]
    assert Counter(order) == counts


def test_languages_come_in_their_quota_in_every_block():
    one = sampler(groups=4)
    assert one.block % 4 == 0  # so that whole steps make a block
    for block in (0, 1, 10**6):
        first = block * one.block // 4
        langs = Counter(one.language(step, g) for step in range(first, first + one.block // 4) for g in range(4))
        assert [langs[lang] for lang in one.languages] == one.quotas.tolist()
    weights = np.array([1000, 20_000, 37]) ** 0.3
    assert np.abs(one.quotas / one.block - weights / weights.sum()).max() < 1 / one.block


@pytest.mark.parametrize(
    ("groups", "count"), [(1, 5), (4, 32), (2, 200)]
)  # within a block, whole blocks, more than one
def test_pairs_of_mixed_groups_come_in_their_languages_quota_and_every_sentence_once_an_epoch(groups, count):
    one = sampler(groups=groups)
    taken: dict[str, list[int]] = {lang: [] for lang in SIZES}
    steps = one.block  # groups * count whole blocks
    for step in range(steps):
        for group in range(groups):
            draws = one.draw_mixed(step, group, count)
            assert sum(len(indices) for _, indices in draws) == count
            assert [lang for lang, _ in draws] == sorted({lang for lang, _ in draws})
            for lang, indices in draws:
                taken[lang].extend(indices.tolist())
    assert [len(taken[lang]) for lang in one.languages] == (one.quotas * groups * count).tolist()
    for lang, size in SIZES.items():
        epochs = [taken[lang][start : start + size] for start in range(0, len(taken[lang]), size)]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
        assert taken[lang] == one._positions(lang, 0, len(taken[lang])).tolist()


def test_a_mixed_group_depends_on_seed_step_and_group_alone():
    places = [(step, group) for step in (0, 3, 10**9) for group in range(4)]
    forward = [sampler().draw_mixed(*place, 16) for place in places]
    backward = [sampler().draw_mixed(*place, 16) for place in reversed(places)][::-1]
    flat = [[(lang, indices.tolist()) for lang, indices in draws] for draws in forward]
    assert flat == [[(lang, indices.tolist()) for lang, indices in draws] for draws in backward]
    assert len({str(draws) for draws in flat}) == len(places)
    assert flat[0] != [(lang, indices.tolist()) for lang, indices in sampler(seed=1).draw_mixed(0, 0, 16)]


def test_ordinals_are_consecutive():
    """A language's groups take the sentences of its epochs in order: none left out, none twice, over block borders."""
    one = sampler(sizes={"aa": 10**6, "bb": 10**4}, groups=3)
    taken: dict[str, list[int]] = {"aa": [], "bb": []}
    for step in range(2 * one.block):
        for group in range(3):
            lang, indices = one.draw(step, group, 5)
            taken[lang].extend(indices.tolist())
    for lang, size in one.sizes.items():
        key = sampling._key(0, "pairs", lang, 0)
        expected = permute(np.arange(len(taken[lang]), dtype=np.uint64), size, key)
        assert taken[lang] == expected.tolist()


def test_a_draw_depends_on_seed_step_and_group_alone():
    one, other = sampler(), sampler()
    places = [(step, group) for step in (0, 1, 5, 77, 10**6) for group in range(4)]
    forward = [one.draw(*place, 16) for place in places]
    sampling._shuffled.cache_clear()
    backward = [other.draw(*place, 16) for place in reversed(places)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a.lang == b.lang
        assert np.array_equal(a.indices, b.indices)


def test_the_order_in_which_languages_were_named_does_not_matter():
    one, other = sampler(), sampler(sizes=dict(reversed(SIZES.items())))
    for step in range(20):
        a, b = one.draw(step, 0, 4), other.draw(step, 0, 4)
        assert (a.lang, a.indices.tolist()) == (b.lang, b.indices.tolist())


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "mlm"}])
def test_seeds_and_streams_differ(other):
    sizes = {"aa": 1000, "bb": 1000}
    one, two = sampler(sizes=sizes), sampler(sizes=sizes, **other)
    langs = [[s.language(step, 0) for step in range(64)] for s in (one, two)]
    assert langs[0] != langs[1]
    firsts = [{lang: s._positions(lang, 0, 500).tolist() for lang in sizes} for s in (one, two)]
    for lang in sizes:
        assert firsts[0][lang] != firsts[1][lang]
        # As many in common as chance gives two halves of 1,000: 250, standard deviation about 8.
        assert abs(len(set(firsts[0][lang]) & set(firsts[1][lang])) - 250) < 50


def test_step_a_thousand_million_costs_what_step_zero_does(monkeypatch):
    calls: Counter[str] = Counter()
    real = sampling._feistel

    def counted(values, half, key):
        calls["values"] += len(values)
        calls["calls"] += 1
        return real(values, half, key)

    monkeypatch.setattr(sampling, "_feistel", counted)
    one = sampler(sizes={"aa": 1 << 20}, groups=8)  # a power of four: no value walks, so costs are equal exactly
    costs = []
    for step in (0, 10**9):
        calls.clear()
        sampling._shuffled.cache_clear()
        draw = one.draw(step, 7, 64)
        assert ((draw.indices >= 0) & (draw.indices < 1 << 20)).all()
        costs.append(dict(calls) | {"blocks": sampling._shuffled.cache_info().misses})
    assert costs[0] == costs[1] == {"values": 64, "calls": 1, "blocks": 1}


def test_a_draw_that_wraps_takes_the_end_of_one_epoch_and_the_start_of_the_next():
    one = sampler(sizes={"aa": 10}, groups=1)
    drawn = one.draw(0, 0, 25).indices.tolist()
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == list(range(10))
    assert len(set(drawn[20:])) == 5


@pytest.mark.parametrize("sizes", [{}, {"aa": 0}, {"aa": 5, "bb": 0}])
def test_a_language_without_sentences_is_refused(sizes):
    with pytest.raises(DataError, match="at least one sentence in every language"):
        Sampler(0, sizes, 0.3, 4, "pairs")


def test_generators_are_functions_of_their_names():
    assert random_generator(1, "a", 2).random() == random_generator(1, "a", 2).random()
    draws = {random_generator(*names).random() for names in [(1, "a", 2), (1, "a", 3), (2, "a", 2), (1, "b", 2)]}
    assert len(draws) == 4


def test_many_languages_of_very_unequal_size_all_get_a_group():
    sizes = {f"l{i:03d}": 10 ** (i % 9) for i in range(120)}
    one = sampler(sizes=sizes, exponent=1.0)
    assert one.quotas.min() == 1
    assert one.block <= 65_536 + 120


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("step", [0, 1, 29, 400])
def test_epochs_count_the_sentences_drawn_before_a_step(mixed, step):
    sizes = {"aa": 40, "bb": 11, "cc": 300}
    sampler, drawn = Sampler(5, sizes, 0.3, 3, "pairs"), dict.fromkeys(sizes, 0)
    for earlier, group in itertools.product(range(step), range(3)):
        for one in sampler.draw_mixed(earlier, group, 7) if mixed else [sampler.draw(earlier, group, 7)]:
            drawn[one.lang] += len(one.indices)
    assert sampler.epochs(step, 7, mixed=mixed) == {lang: drawn[lang] / size for lang, size in sizes.items()}
