"""A corpus of random letters as training reads it, written without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ccp_ray.contexts import ContextReader
from ccp_ray.corpus import Part, TokenShard
from ccp_ray.ledger import put_bytes
from ccp_ray.sentences import array_bytes
from ccp_ray.storage import open_store


def token_corpus(folder: Path, languages: Sequence[str] = ("aa", "bb"), documents: int = 40, seed: int = 0) -> Any:
    """Token shards of random letters (`tiny_models.tokenizer`), two a language, as `ContextReader` reads them."""
    store, rng = open_store(str(folder)), np.random.default_rng(seed)
    records, shards = [], {}
    for lang in languages:
        shards[lang] = []
        for number in range(2):
            sentences_D = rng.integers(2, 9, size=documents)
            lengths_S = rng.integers(1, 19, size=int(sentences_D.sum()))
            arrays = {
                "tokens": rng.integers(4, 30, size=int(lengths_S.sum())).astype(np.uint16),
                "sentences": np.concatenate([[0], np.cumsum(lengths_S)]).astype(np.int64),
                "documents": np.concatenate([[0], np.cumsum(sentences_D)]).astype(np.int64),
                "hashes": rng.integers(1 << 62, size=len(lengths_S)).astype(np.uint64),
            }
            prefix = f"tokens/{lang}/{number}"
            records += [put_bytes(store, f"{prefix}/{name}.npy", array_bytes(array)) for name, array in arrays.items()]
            part = Part(
                name=f"{lang}-{number}", lang=lang, split="train", rows=len(lengths_S), sentences="", tokens=prefix,
                documents=documents, token_count=len(arrays["tokens"]),
            )  # fmt: skip
            shards[lang].append(TokenShard(part, *(f"{prefix}/{name}.npy" for name in arrays)))
    return SimpleNamespace(
        store=store, artifact=SimpleNamespace(files=records), token_shards=shards.__getitem__, languages=list(languages)
    )


def reader(folder: Path, max_tokens: int = 20) -> ContextReader:
    """The corpus of `token_corpus` with the tiny tokenizer's special tokens."""
    corpus = token_corpus(folder)
    return ContextReader(corpus, corpus.languages, ([0], [2]), max_tokens)
