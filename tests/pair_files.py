"""Training files of questions and passages in random letters, in the forms that `pair_sources` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models

from ccp_ray.ledger import Ledger
from ccp_ray.pair_data import PairData, Readers, write_pairs
from ccp_ray.pair_sources import SourceConfig
from ccp_ray.storage import open_store
from ccp_ray.text_reader import TextReader

LANGUAGES = ("de", "en", "fr")


def text(rng: np.random.Generator, longest: int) -> str:
    return "".join(rng.choice(list(tiny_models.LETTERS), size=int(rng.integers(2, longest))))


def rows(count: int, negatives: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """DPR's rows. Every third question shares its passage with the one before; hard negatives are others' passages."""
    rng = np.random.default_rng(seed)
    passages = [{"title": text(rng, 5), "text": text(rng, 14)} for _ in range(count)]
    found = []
    for i in range(count):
        own = i - (i % 3 == 2)
        others = [j for j in rng.permutation(count).tolist() if j != own][:negatives]
        found.append(
            {
                "id": f"q{i}",
                "lang": LANGUAGES[i % len(LANGUAGES)],
                "question": text(rng, 9),
                "answers": [],
                "positive_ctxs": [passages[own]] + [passages[(own + 7) % count]] * (i % 4 == 0),
                "negative_ctxs": [],
                "hard_negative_ctxs": [passages[j] for j in others],
            }
        )
    return found


def write_dpr(path: Path, found: list[dict[str, Any]]) -> str:
    """One array, as DPR distributes it."""
    path.write_text(json.dumps(found, indent=1))
    return str(path)


def tiny_readers(longest: int = 16) -> Readers:
    reader = TextReader(tiny_models.tokenizer(), longest)
    return Readers(reader, reader)


def tiny_pairs(store: str, found: list[dict[str, Any]], negatives: int = 8) -> PairData:
    """The rows as training data below a store."""
    file = write_dpr(Path(store).parent / f"{Path(store).name}.json", found)
    entry = write_pairs(store, "train", [SourceConfig(file=file)], tiny_readers(), negatives, 0.0)
    Ledger(open_store(store)).commit("train", entry)
    return open_tiny_pairs(store)


def open_tiny_pairs(store: str) -> PairData:
    opened = open_store(store)
    return PairData(opened, Ledger(opened).read("train"), tiny_readers())
