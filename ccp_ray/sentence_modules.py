"""What follows the transformer in a sentence-transformers folder: pooling, then Dense, LayerNorm and Normalize.

`modules.json` lists them in their order. They are read into a few small torch modules and written back as files that
sentence-transformers loads. Weights only from safetensors, activations only from a fixed table: nothing that a folder
names is imported. What would change vectors and is not known here is refused by name, never left out.
File formats: https://sbert.net/docs/package_reference/sentence_transformer/modules.html
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ccp_ray.encoder_config import POOLINGS, Pooling
from ccp_ray.errors import UsageError
from ccp_ray.storage_base import stays_below
from ccp_ray.text_reader import read_json

_PACKAGE = "sentence_transformers"
# In this order sentence-transformers concatenates what the older files switch on.
_SWITCHES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_NAMES = ("ELU", "GELU", "Hardtanh", "Identity", "LeakyReLU", "Mish", "ReLU", "ReLU6", "SELU", "Sigmoid", "SiLU")
ACTIVATIONS: dict[str, type[nn.Module]] = {name: getattr(nn, name) for name in (*_NAMES, "Softplus", "Tanh")}


class SentenceModules(NamedTuple):
    """How token vectors become a text's vector. Several poolings stand side by side.

    pools_prompt: False for a folder that leaves the tokens of a prompt out, which is not supported.
    """

    pooling: Pooling | tuple[Pooling, ...] = "cls"
    steps: tuple[nn.Module, ...] = ()
    pools_prompt: bool = True

    def width(self, hidden: int) -> int:
        """Dimensions of the vectors, of a model with `hidden`. Raises UsageError where a step does not fit."""
        size = hidden * (1 if isinstance(self.pooling, str) else len(self.pooling))
        for step in self.steps:
            wanted = {Dense: "in_features", LayerNorm: "dimension"}.get(type(step))
            if wanted and getattr(step, wanted) != size:
                raise UsageError(f"{type(step).__name__} takes {getattr(step, wanted)} dimensions, but gets {size}")
            size = step.out_features if isinstance(step, Dense) else size
        return size


class Dense(nn.Module):
    """activation(linear(x)), plus x itself (or a projection of it) where `use_residual`."""

    def __init__(self, in_features: int, out_features: int, bias: bool, activation: str, use_residual: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.use_residual = in_features, out_features, use_residual
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation = ACTIVATIONS[activation]()
        if use_residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)

    def forward(self, vectors_BD: torch.Tensor) -> torch.Tensor:
        out_BE: torch.Tensor = self.activation(self.linear(vectors_BD))
        if not self.use_residual:
            return out_BE
        return out_BE + (vectors_BD if self.in_features == self.out_features else self.residual(vectors_BD))

    def config(self) -> dict[str, Any]:
        """As in its config.json."""
        kind = type(self.activation)
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{kind.__module__}.{kind.__qualname__}",
        } | ({"use_residual": True} if self.use_residual else {})


class LayerNorm(nn.Module):
    """Layer normalisation of the pooled vector."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.norm = nn.LayerNorm(dimension)

    def forward(self, vectors_BD: torch.Tensor) -> torch.Tensor:
        out_BD: torch.Tensor = self.norm(vectors_BD)
        return out_BD

    def config(self) -> dict[str, Any]:
        """As in its config.json."""
        return {"dimension": self.dimension}


class Normalize(nn.Module):
    """Unit length."""

    def forward(self, vectors_BD: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(vectors_BD, dim=1)


def read_modules(folder: Path) -> SentenceModules:
    """The folder's modules, in fp32; a plain Hugging Face folder pools the first token, as CCP does.

    Raises UsageError, naming what is not understood.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return SentenceModules()
    listed = [_kind(path, step) for step in read_json(path)]
    kinds = [kind for kind, _ in listed]
    if kinds[:2] != ["Transformer", "Pooling"] or listed[0][1]:
        raise UsageError(
            f"{path}: expected a Transformer in the folder itself, then Pooling, found {', '.join(kinds) or 'nothing'}"
        )
    config = folder / listed[1][1] / "config.json"
    spec = read_json(config)
    steps = [_read_step(path, kind, folder / place) for kind, place in listed[2:] if kind != "Dropout"]
    return SentenceModules(_read_pooling(config, spec), tuple(steps), bool(spec.get("include_prompt", True)))


def _kind(path: Path, step: dict[str, Any]) -> tuple[str, str]:
    """(class, folder) of an entry of modules.json."""
    package, _, kind = str(step.get("type", "")).rpartition(".")
    if package.split(".")[0] != _PACKAGE:
        raise UsageError(f"{path}: {package}.{kind} is the folder's own code, which is never run")
    if step.get("kwargs"):
        raise UsageError(f"{path}: {kind} asks for {', '.join(sorted(step['kwargs']))}, which is not supported")
    place = str(step.get("path", ""))
    if place and not stays_below(place):
        raise UsageError(f"{path}: {kind} names {place!r}, which lies outside the model's folder")
    return kind, place


def _read_pooling(path: Path, spec: dict[str, Any]) -> Pooling | tuple[Pooling, ...]:
    unknown = {key for key, on in spec.items() if key.startswith("pooling_mode_") and on} - set(_SWITCHES)
    switched = [mode for key, mode in _SWITCHES.items() if spec.get(key)]
    named = spec.get("pooling_mode", switched or ["mean"])  # sentence-transformers' own default
    modes = (named,) if isinstance(named, str) else tuple(named)
    unknown |= set(modes) - set(POOLINGS)
    if unknown or not modes:
        raise UsageError(f"{path}: pooling {', '.join(sorted(unknown))} is unknown; known are {', '.join(POOLINGS)}")
    return modes[0] if len(modes) == 1 else modes


def _read_step(path: Path, kind: str, place: Path) -> nn.Module:
    config = place / "config.json"
    spec = read_json(config) if kind != "Normalize" or config.is_file() else {}
    for name in ("module_input_name", "module_output_name"):
        if (spec.pop(name, None) or "sentence_embedding") != "sentence_embedding":
            raise UsageError(f"{config}: {name} is not supported but for sentence_embedding")
    if kind == "Normalize":
        return Normalize()
    if kind == "LayerNorm":
        return _filled(LayerNorm(int(spec["dimension"])), place)
    if kind == "Dense":
        return _filled(_dense(config, spec), place)
    raise UsageError(
        f"{path}: names {kind}; known are Transformer, Pooling, Dense, Dropout (idle here), LayerNorm, Normalize"
    )


def _dense(config: Path, spec: dict[str, Any]) -> Dense:
    known = {"in_features", "out_features", "bias", "activation_function", "use_residual"}
    strange = {name for name, value in spec.items() if name not in known and value}
    if strange or not {"in_features", "out_features"} <= set(spec):
        raise UsageError(f"{config}: expected {', '.join(sorted(known))}; found {', '.join(sorted(spec))}")
    package, _, name = str(spec.get("activation_function", "torch.nn.Tanh")).rpartition(".")
    if name not in ACTIVATIONS or not f"{package}.".startswith("torch.nn."):
        raise UsageError(
            f"{config}: activation_function {package}.{name}; known are torch.nn's {', '.join(ACTIVATIONS)}"
        )
    sizes = int(spec["in_features"]), int(spec["out_features"])
    return Dense(*sizes, bool(spec.get("bias", True)), name, bool(spec.get("use_residual")))


def _filled(step: nn.Module, place: Path) -> nn.Module:
    path = place / "model.safetensors"
    if not path.is_file():
        raise UsageError(f"{path}: missing (pickled weights are refused); save the folder again as safetensors")
    try:
        step.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UsageError(
            f"{path}: not the weights that config.json asks for ({' '.join(str(error).split())})"
        ) from error
    return step.eval()


def write_modules(folder: Path, modules: SentenceModules, hidden: int, max_tokens: int, prompt: str) -> None:
    """The files that make the folder a sentence-transformers model."""
    steps = [("", "Transformer"), ("1_Pooling", "Pooling")]
    steps += [(f"{n}_{type(step).__name__}", type(step).__name__) for n, step in enumerate(modules.steps, 2)]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"{_PACKAGE}.models.{kind}"}
        for i, (path, kind) in enumerate(steps)
    ]
    _write_json(folder / "modules.json", listed)
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden} | _pooling(modules))
    for (path, _), step in zip(steps[2:], modules.steps, strict=True):
        if isinstance(step, Dense | LayerNorm):
            _write_json(folder / path / "config.json", step.config())
            weights = {name: value.contiguous() for name, value in step.state_dict().items()}
            save_file(weights, folder / path / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False}, None)
    if prompt:
        spec = {"prompts": {"default": prompt}, "default_prompt_name": "default"}
        _write_json(folder / "config_sentence_transformers.json", spec)


def _pooling(modules: SentenceModules) -> dict[str, Any]:
    """Switches, which every version reads, for what training makes; the newer key for the others."""
    prompt = {} if modules.pools_prompt else {"include_prompt": False}
    if modules.pooling in ("cls", "mean"):
        switches = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
        return {name: modules.pooling == mode for name, mode in switches.items()} | prompt
    return {"pooling_mode": modules.pooling} | prompt


def _write_json(path: Path, values: Any, indent: int | None = 1) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values, indent=indent))
