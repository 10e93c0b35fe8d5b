"""The zero-shot claim in small: trained on the questions of one language, retrieval rises in the others.

The languages are generated, with a lexicon, function words and a word order each; a share of their words is common. A
passage is a few neighbouring sentences, its question says one of them anew, with other function words. The encoder
starts untrained, and no question or passage of the tested languages is ever trained on. Measured: mean reciprocal rank
among 300 passages 0.31 to 0.49 and 0.22 to 0.39 in the two languages that were not trained on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_recipe import RECIPE, configured
from without_ray import forked_training

from ccp_ray.artifact import Artifact
from ccp_ray.config import build_config
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.finetune_job import finetune
from ccp_ray.languages import LanguageFamily, LanguagesConfig
from ccp_ray.pretrain_job import initial_encoder

pytestmark = pytest.mark.timeout(300)


def write_questions(path: Path, code: str, count: int) -> str:
    """Questions and passages of a language, in DPR's form."""
    family, rng = LanguageFamily(LanguagesConfig(**RECIPE["languages"])), np.random.default_rng(len(path.name))
    language, found = family.languages[code], []
    for number in range(count):
        meanings = family.meanings(rng, 3)
        passage = " ".join(language.render(row, rng) for row in meanings)
        question = language.render(meanings[number % 3], rng)
        row: dict[str, Any] = {"id": str(number), "lang": code, "question": question}
        found.append(row | {"positive_ctxs": [{"title": "", "text": passage}], "hard_negative_ctxs": []})
    path.write_text("\n".join(map(json.dumps, found)))
    return str(path)


def test_training_in_one_language_lifts_retrieval_in_the_others(small_corpus: Artifact, tmp_path: Path) -> None:
    start = initial_encoder(small_corpus.uri, str(tmp_path / "start"), configured())
    settings = {
        "encoder": {"source": start.uri},
        "train": [{"file": write_questions(tmp_path / "train.jsonl", "qaa", 600)}],
        "dev_data": [{"file": write_questions(tmp_path / f"{code}.jsonl", code, 150)} for code in ("qab", "qac")],
        "similarity": "cosine",
        "temperature": 0.05,
        "hard_negatives": 0,
        "question_tokens": 40,
        "passage_tokens": 40,
        "groups_per_step": 2,
        "questions_per_group": 16,
        "max_steps": 150,
        "optimizer": {"lr": 2e-3, "warmup_steps": 10},
        "dev": {"every": 1000, "best": "last"},
        "resources": {"checkpoint_every": 1000, "workers": 1},
    }
    with forked_training():
        tuned = finetune(str(tmp_path / "tuned"), build_config(FinetuneConfig, settings))
    rows = [json.loads(line) for line in tuned.store.read("metrics.jsonl").splitlines()]
    before, after = (row["probe"] for row in rows if "probe" in row)
    print(
        {code: (before[code]["mrr"], after[code]["mrr"]) for code in before}, [r["loss"] for r in rows if "loss" in r]
    )
    for code in ("qab", "qac"):
        assert after[code]["mrr"] > before[code]["mrr"] + 0.1
