"""What a training run in a store was asked, by `pretrain` or `finetune`, and the encoders that it trains.

Whoever exports a checkpoint or follows a run reads it here, from the store alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ccp_ray.artifact import JOB, Request
from ccp_ray.config import build_config
from ccp_ray.corpus import Corpus
from ccp_ray.errors import DataError, UsageError
from ccp_ray.finetune_config import FinetuneSettings
from ccp_ray.finetune_worker import TRAIN, as_trained, folder_of, load_encoders
from ccp_ray.ledger import Ledger
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.storage import Store

if TYPE_CHECKING:
    from ccp_ray.encoder import Encoder


class Trainee(NamedTuple):
    """An encoder that a run trains, with the weights it started from.

    model: what is trained, a masked language model around the encoder where there is one. prefix: of its parameters'
    names in checkpoints. folder: where its files are in the run's output.
    """

    encoder: Encoder
    model: Any
    prefix: str
    folder: str


class TrainingRun(NamedTuple):
    """`config`: of what was asked; where it changes nothing (resources, places of data) it says nothing."""

    store: Store
    request: Request
    config: PretrainConfig | FinetuneSettings

    @classmethod
    def open(cls, store: Store) -> TrainingRun:
        """Raises UsageError where there is none, DataError."""
        try:
            request = Request.model_validate_json(store.read(JOB))
        except FileNotFoundError:
            raise UsageError(f"{store.root}: holds no training run") from None
        except ValueError:
            raise DataError(f"{store.uri(JOB)}: not written by this program, or damaged") from None
        config = request.config
        if request.kind == "encoder" and "steps" in config:
            return cls(store, request, build_config(PretrainConfig, config))
        if request.kind == "encoder" and "train" in config:
            return cls(store, request, _finetune_settings(request))
        raise UsageError(f"{store.root}: holds {request.kind} work, expected a run of `pretrain` or `finetune`")

    @property
    def steps(self) -> int:
        """Of the whole run. Raises UsageError for a fine-tuning that has not read its questions yet."""
        if isinstance(self.config, PretrainConfig):
            return self.config.steps
        ledger = Ledger(self.store)
        if TRAIN not in ledger.committed():
            raise UsageError(f"{self.store.root}: its questions are not read yet; run again once it trains")
        return self.config.planned_steps(ledger.read(TRAIN).info["questions"])

    @property
    def two_encoders(self) -> bool:
        """Whether questions and passages have encoders of their own."""
        return isinstance(self.config, FinetuneSettings) and not self.config.tied

    def trainees(self, scratch: Path) -> list[Trainee]:
        """As they were before the first step. scratch: for files that are needed meanwhile."""
        if isinstance(self.config, PretrainConfig):
            return [_pretrained(self.config, _places(self.request), scratch)]
        return _finetuned(self.config)


def _places(request: Request) -> dict[str, str]:
    return {ref.role: ref.uri for ref in request.inputs}


def _finetune_settings(request: Request) -> FinetuneSettings:
    """A request names encoders among its inputs, and its data there alone."""
    places = _places(request)
    settings = {name: value for name, value in request.config.items() if name not in ("train", "dev_data")}
    for role in ("encoder", "passage_encoder"):
        if settings[role] is not None:
            settings[role] = settings[role] | {"source": places[role]}
    return build_config(FinetuneSettings, settings)


def _pretrained(config: PretrainConfig, places: Mapping[str, str], scratch: Path) -> Trainee:
    from ccp_ray.encoder import load_trainable

    tokenizer = Corpus.open(places["corpus"]).tokenizer_folder(scratch)
    encoder = load_trainable(places.get("encoder"), config.encoder, tokenizer, config.mlm.weight > 0, config.seed)
    model = encoder.model
    encoder.model = model.base_model  # shares its weights; heads are thrown away
    return Trainee(encoder, model, "model.", "")


def _finetuned(config: FinetuneSettings) -> list[Trainee]:
    found = []
    for role, encoder in load_encoders(config).items():
        as_trained(role, encoder, config)
        found.append(Trainee(encoder, encoder.model, f"models.{role}.", folder_of(role, config)))
    return found
