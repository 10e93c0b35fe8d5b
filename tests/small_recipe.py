"""A pipeline small enough for tests: three generated languages, a one-layer encoder, a few steps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ccp_ray.artifact import Artifact
from ccp_ray.config import build_config
from ccp_ray.generate import generate
from ccp_ray.languages import LanguagesConfig
from ccp_ray.prepare import PrepareConfig, prepare
from ccp_ray.pretrain_config import PretrainConfig

RECIPE: dict[str, Any] = {
    "title": "test",
    "languages": {
        "count": 3,
        "concepts": 60,
        "documents": 30,
        "dev_documents": 4,
        "sentences": 10,
        "test_sentences": 60,
    },
    "benchmarks": {"translations": None, "context": None},
    "baseline": False,
    "prepare": {"tokenizer": {"vocabulary": 600}},
    "pretrain": {
        "encoder": {
            "pooling": "mean",
            "architecture": {"layers": 1, "hidden": 32, "heads": 2, "intermediate": 64, "positions": 40},
        },
        "steps": 30,
        "groups_per_step": 2,
        "pairs_per_group": 16,
        "projection": 16,
        "bank": {"size": 64, "warmup_steps": 10},
        "mlm": {"sentences": 4},
        "optimizer": {"lr": 1e-3, "warmup_steps": 5},
        "monitor": {"every": 10, "pairs": 8, "action": "warn"},
        "log_every": 5,
        "resources": {"checkpoint_every": 5},
    },
    "embed": {"resources": {"workers": 1}},
    "evaluate": {"context": {"sentences": 40}, "embed": {"resources": {"workers": 1}}},
}


def corpus(folder: Path) -> Artifact:
    """Its documents, prepared. Needs a Ray session."""
    documents = generate(str(folder / "documents"), LanguagesConfig(**RECIPE["languages"]))
    return prepare([documents.uri], str(folder / "corpus"), build_config(PrepareConfig, RECIPE["prepare"]))


def configured(**changes: object) -> PretrainConfig:
    """Its pretraining, but for some keys."""
    return build_config(PretrainConfig, RECIPE["pretrain"] | changes)


def loop(corpus: str, output: str, settings: PretrainConfig, **more: Any) -> Any:
    """A rank's `Pretraining`, as a Ray Train worker would make it. more: its other arguments."""
    from ccp_ray.corpus import Corpus
    from ccp_ray.encoder import load_trainable
    from ccp_ray.pretrain import Pretraining

    opened = Corpus.open(corpus)
    tokenizer, with_mlm = opened.tokenizer_folder(Path(output)), settings.mlm.weight > 0
    encoder = load_trainable(None, settings.encoder, tokenizer, with_mlm, settings.seed)
    return Pretraining(settings, opened, encoder, output, **more)


def write_recipe(folder: Path, **changes: Any) -> Path:
    """The recipe as a file."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | changes))
    return path


def start(verb: str, *arguments: str, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A verb in a process of its own; its output goes to `log`."""
    with open(log, "ab") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", f"jobs.{verb}", *arguments],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=dict(environment),
        )
