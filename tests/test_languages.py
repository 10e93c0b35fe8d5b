"""The laws of the generated languages: what every claim about the method rests on."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccp_ray.errors import UsageError
from ccp_ray.languages import LanguageFamily, LanguagesConfig
from ccp_ray.sentences import split_sentences

SMALL = LanguagesConfig(count=3, concepts=60, documents=4, dev_documents=2, sentences=6, test_sentences=20)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), number=st.integers(0, 10**9), split=st.sampled_from(["train", "dev"]))
def test_a_document_is_a_function_of_seed_language_and_number(seed, number, split):
    config = SMALL.model_copy(update={"seed": seed})
    larger = config.model_copy(update={"documents": 99, "test_sentences": 0})
    first = LanguageFamily(config).document("qab", split, number)
    assert first == LanguageFamily(larger).document("qab", split, number)
    assert first["text"] != LanguageFamily(config).document("qab", split, number + 1)["text"]
    other = config.model_copy(update={"seed": seed + 1})
    assert first["text"] != LanguageFamily(other).document("qab", split, number)["text"]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_share_of_cognates_is_exact(share):
    family = LanguageFamily(LanguagesConfig(count=4, concepts=300, cognates=share))
    for left, right in combinations(family.languages.values(), 2):
        same = np.mean([a == b for a, b in zip(left.lexicon, right.lexicon, strict=True)])
        assert same == pytest.approx(share, abs=0.011)  # a handful of short forms meet by chance


def test_a_lexicon_has_no_homonyms():
    for language in LanguageFamily(LanguagesConfig(count=6)).languages.values():
        words = language.lexicon + language.particles
        assert len(set(words)) == len(words)


def test_languages_differ_in_particles_and_word_order():
    languages = list(LanguageFamily(LanguagesConfig(count=12)).languages.values())
    assert len({language.order for language in languages}) > 1
    assert {language.function_first for language in languages} == {True, False}
    shared = [len(set(left.particles) & set(right.particles)) for left, right in combinations(languages, 2)]
    assert np.mean(shared) < 1.5  # of 12: short words meet by chance


def test_translations_say_the_same_concepts_line_by_line():
    family = LanguageFamily(SMALL)
    meanings = {}
    for code, lines in family.translations().items():
        number = {word: i for i, word in enumerate(family.languages[code].lexicon)}
        said = [{number[word] for word in line.lower().rstrip(".").split() if word in number} for line in lines]
        meanings[code] = said
        assert all(len(concepts) == SMALL.words for concepts in said)
    assert meanings["qaa"] == meanings["qab"] == meanings["qac"]


def test_no_document_has_a_translation():
    family = LanguageFamily(SMALL)
    said = {}
    for code in family.codes:
        number = {word: i for i, word in enumerate(family.languages[code].lexicon)}
        for document in family.documents(code):
            words = document["text"].lower().replace(".", "").split()
            said[document["id"]] = frozenset(number[word] for word in words if word in number)
    assert len(set(said.values())) == len(said) == 3 * 6


def test_neighbouring_sentences_share_meaning_and_distant_ones_less():
    family = LanguageFamily(LanguagesConfig(sentences=60))
    means_SD = []
    for seed in range(30):
        concepts_SW = family.meanings(np.random.default_rng(seed), 60)
        means_SD.append(family.concepts_CD[concepts_SW].mean(axis=1))
    near, far = ([np.mean(np.sum(m[:-gap] * m[gap:], axis=1)) for m in means_SD] for gap in (1, 30))
    assert np.mean(near) > 0.3
    assert np.mean(near) > 2 * abs(np.mean(far))


def test_a_sentence_says_no_concept_twice():
    rows = LanguageFamily(SMALL).meanings(np.random.default_rng(0), 200)
    assert all(len(set(row)) == SMALL.words for row in rows.tolist())


def test_all_documents_in_order():
    family = LanguageFamily(SMALL)
    documents = list(family.documents("qaa"))
    assert [d["split"] for d in documents] == ["train"] * 4 + ["dev"] * 2
    assert documents == [family.numbered("qaa", i) for i in range(6)]
    assert len({d["id"] for d in documents}) == 6


def test_the_splitter_finds_the_sentences_that_were_written():
    family = LanguageFamily(LanguagesConfig(count=12))
    for code in family.codes:
        for number in range(5):
            assert len(split_sentences(code, family.document(code, "train", number)["text"])) == 20


def test_dev_sentences_change_nothing_else_and_share_no_meaning_with_the_test_sentences():
    # Few concepts, so that two draws of three meet often: the dev stream has to draw again.
    plain = LanguagesConfig(count=2, concepts=16, words=3, documents=3, dev_documents=1, test_sentences=150)
    with_dev = plain.model_copy(update={"dev_sentences": 60})
    family, larger = LanguageFamily(plain), LanguageFamily(with_dev)
    assert larger.translations() == family.translations()
    assert list(larger.documents("qaa")) == list(family.documents("qaa"))
    assert family.translations("dev") == {"qaa": [], "qab": []}

    def said(lines: list[str], code: str) -> list[frozenset[int]]:
        number = {word: i for i, word in enumerate(larger.languages[code].lexicon)}
        return [frozenset(number[w] for w in line.lower().rstrip(".").split() if w in number) for line in lines]

    dev, test = larger.translations("dev"), larger.translations("test")
    assert [len(dev[code]) for code in larger.codes] == [60, 60]
    assert said(dev["qaa"], "qaa") == said(dev["qab"], "qab")
    assert not set(said(dev["qaa"], "qaa")) & set(said(test["qaa"], "qaa"))


def test_more_dev_sentences_than_there_are_meanings_are_refused():
    config = LanguagesConfig(count=1, concepts=16, words=15, test_sentences=3000, dev_sentences=1)  # 16 meanings in all
    with pytest.raises(UsageError, match="dev_sentences"):
        LanguageFamily(config).translations("dev")
