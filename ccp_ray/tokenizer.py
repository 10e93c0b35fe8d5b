"""The corpus's tokenizer: the given encoder's own, or a Unigram model trained on a sample of the corpus.

The Unigram is trained by Hugging Face tokenizers (the algorithm of SentencePiece): NFKC, blanks as "▁", XLM-R's
special tokens and their order (<s> <pad> </s> <unk> … <mask>), `<s> A </s>`. Two things are added:

* Characters beyond the most frequent that cover 99.95 % of the sample become <unk>, as in XLM-R; else a few
  thousand rare ideographs would fill a small vocabulary. Text too small for the vocabulary asked gets less:
  one piece for each 40 characters, and the alphabet.
* The library sums in the order of a randomly seeded hash map: the vocabulary is the same in each run, but scores
  differ in their last digits, and characters that are no piece get scores in random order. Scores are rounded
  and those characters share one score, so that the same sample gives the same file, byte for byte.

Cost: 4 to 6 s for a megabyte of spaced text on one core, 20 s for Japanese (a whole clause is one "word"); the
sample is bounded (5 million characters by default: half a minute, 5 minutes if all is Japanese).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from ccp_ray.artifact import InputRef
from ccp_ray.config import StrictModel
from ccp_ray.errors import UsageError
from ccp_ray.ledger import Entry, put_folder
from ccp_ray.model_source import local_model, portable_source
from ccp_ray.storage import Store, open_store

FIRST, MASK = ("<s>", "<pad>", "</s>", "<unk>"), "<mask>"
_COVERAGE = 0.9995
_CHARACTERS_PER_PIECE = 40
_PENALTY = 1e-4  # what the library puts between characters that are no piece
_SPECIAL = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": MASK,
}


class TokenizerConfig(StrictModel):
    """Where the tokenizer comes from."""

    source: str | None = Field(default=None, description="encoder whose tokenizer is taken; none: train a Unigram")
    vocabulary: int = Field(default=8000, ge=64, description="pieces of a trained Unigram, special tokens included")
    sample_characters: int = Field(default=5_000_000, ge=1, description="text to train it on, over all languages")


def train_unigram(sentences: Sequence[str], vocabulary: int) -> Tokenizer:
    """A Unigram tokenizer of at most `vocabulary` entries; the same sentences give the same tokenizer."""
    texts = [unicodedata.normalize("NFKC", sentence) for sentence in sentences]
    characters = Counter(character for text in texts for character in text)
    alphabet = _alphabet(characters, vocabulary // 2)
    room = characters.total() // _CHARACTERS_PER_PIECE + len(alphabet) + len(FIRST) + 1
    rare = {ord(character): " " for character in characters.keys() - alphabet}
    raw = Tokenizer(models.Unigram())
    raw.normalizer, raw.pre_tokenizer = _normalizer(), pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=min(vocabulary, room) - 1,
        special_tokens=list(FIRST),
        unk_token=FIRST[3],
        show_progress=False,
    )
    parallel = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads would add the sums up in any order
    try:
        raw.train_from_iterator((text.translate(rare) for text in texts), trainer)
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        os.environ |= {} if parallel is None else {"TOKENIZERS_PARALLELISM": parallel}
    return _finish(_canonical(json.loads(raw.to_str())["model"]["vocab"][len(FIRST) :]))


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """A folder that `transformers.AutoTokenizer` loads, written without importing it (seconds)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **_SPECIAL}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def store_trained(store_uri: str, sentences: Iterable[str], vocabulary: int) -> Entry:
    """Train on the sentences and write `tokenizer/`. `info` is what the corpus's summary says of it."""
    texts = list(sentences)
    tokenizer = train_unigram(texts, vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, Path(folder))
        files = put_folder(open_store(store_uri), Path(folder), "tokenizer/")
    size = tokenizer.get_vocab_size()
    info: dict[str, Any] = {"kind": "trained unigram", "vocabulary": size, "sample_sentences": len(texts)}
    if size < vocabulary:
        info["reduced_from"] = vocabulary
    return Entry(rows=size, files=files, info=info)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Digest of what a fast tokenizer does to texts, not of how its files are written."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    content = backend.to_str() + json.dumps(tokenizer.special_tokens_map, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class GivenTokenizer:
    """The tokenizer of an encoder. Raises UsageError if the source is no model or has no fast tokenizer."""

    def __init__(self, source: str) -> None:
        from transformers import AutoTokenizer  # seconds to import; only a given encoder needs it

        self.source = source
        folder = local_model(source)
        try:
            loaded = AutoTokenizer.from_pretrained(str(folder), use_fast=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{source}: its tokenizer cannot be loaded ({str(error).splitlines()[0]})") from error
        if not getattr(loaded, "is_fast", False):
            raise UsageError(f"{source}: has no fast tokenizer (tokenizer.json); convert it with transformers")
        loaded.backend_tokenizer.no_truncation()
        loaded.backend_tokenizer.no_padding()
        self._loaded = loaded

    def reference(self) -> InputRef:
        """As an input: the digest of the tokenizer alone, so another encoder with the same tokenizer is no drift."""
        return InputRef(
            role="tokenizer", uri=portable_source(self.source), fingerprint=tokenizer_fingerprint(self._loaded)
        )

    def put(self, store: Store) -> Entry:
        """Write `tokenizer/`."""
        with tempfile.TemporaryDirectory() as folder:
            self._loaded.save_pretrained(folder)
            files = put_folder(store, Path(folder), "tokenizer/")
        size = len(self._loaded)
        return Entry(rows=size, files=files, info={"kind": "given", "vocabulary": size})


@functools.lru_cache(maxsize=2)
def load_tokenizer(store_uri: str, sha256: str) -> Tokenizer:
    """`tokenizer/tokenizer.json` of an artifact, kept for the next task of this process."""
    del sha256  # part of the key: another tokenizer under the same URI is another entry
    tokenizer = Tokenizer.from_str(open_store(store_uri).read("tokenizer/tokenizer.json").decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _alphabet(characters: Counter[str], most: int) -> set[str]:
    """The most frequent characters that cover `_COVERAGE` of the text, at most `most`."""
    ordered = sorted(characters.items(), key=lambda item: (-item[1], item[0]))
    covered, out = 0, set[str]()
    for character, count in ordered[:most]:
        if covered >= _COVERAGE * characters.total():
            break
        covered += count
        out.add(character)
    return out


def _canonical(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Scores without what the library leaves to chance, best first."""
    characters = sum(len(piece) == 1 for piece, _ in pieces)
    lowest = min((score for piece, score in pieces if len(piece) > 1), default=min(score for _, score in pieces))
    doubtful = lowest + characters * _PENALTY + _PENALTY
    fixed = ((p, lowest if len(p) == 1 and score <= doubtful else score) for p, score in pieces)
    return sorted(((piece, round(score, 6)) for piece, score in fixed), key=lambda item: (-item[1], item[0]))


def _finish(pieces: Iterable[tuple[str, float]]) -> Tokenizer:
    vocabulary = [*((token, 0.0) for token in FIRST), *pieces, (MASK, 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _normalizer(), pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.add_special_tokens(list(_special_tokens()))
    return tokenizer


def _special_tokens() -> Iterator[AddedToken]:
    for token in FIRST:
        yield AddedToken(token, special=True, normalized=False)
    yield AddedToken(MASK, special=True, normalized=False, lstrip=True)  # takes the blank before it, as XLM-R's


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
