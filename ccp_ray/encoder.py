"""Sentence encoder: a Hugging Face encoder, its tokenizer, and how a sentence's tokens become one vector.

Pooling and normalisation are read from and written to the files that sentence-transformers uses
(`modules.json`, `1_Pooling/config.json`), so their folders load here and ours load there. A plain Hugging
Face folder pools the first token, as CCP does. `encode` sorts by length and batches by a token budget.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError

from ccp_ray.batching import Tokens, pad, token_budget_batches
from ccp_ray.encoder_config import ArchitectureConfig, EncoderConfig, Pooling
from ccp_ray.errors import UsageError
from ccp_ray.hardware import device
from ccp_ray.model_source import local_model

_UNLIMITED = 1 << 20  # tokenizers without a limit report a huge number


class Encoder:
    """Tokens in, one vector a text out."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pooling: Pooling = "cls",
        normalize: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.pooling: Pooling = pooling
        self.normalize = normalize
        self.max_tokens = min(max_tokens or _UNLIMITED, _longest_input(model.config, tokenizer))
        self.prefix, self.suffix = special_tokens(tokenizer)
        self.pad_id = int(tokenizer.pad_token_id)

    @classmethod
    def load(
        cls, source: str, *, precision: Literal["fp32", "bf16"] = "fp32", pooling: Pooling | None = None
    ) -> Encoder:
        """Load from any model source, in evaluation mode, on this process's device.

        `pooling` overrides what the folder says. Raises UsageError for a folder that is not a model.
        """
        folder = local_model(source)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model = from_folder(transformers.AutoModel, folder, dtype).to(device()).eval()
        spoken, normalize, longest = read_pooling(folder)
        return cls(model, load_tokenizer(folder), pooling or spoken, normalize, longest)

    @property
    def dimensions(self) -> int:
        return int(self.model.config.hidden_size)

    def tokenize(self, texts: Sequence[str]) -> tuple[list[Tokens], int]:
        """Ids with special tokens, cut to the encoder's length. Returns (rows, number of texts that were cut)."""
        return tokenize(self.tokenizer, texts, self.max_tokens)

    @torch.inference_mode()
    def encode_tokens(self, rows: Sequence[Tokens], token_budget: int = 8192) -> NDArray[np.float32]:
        """Vectors [N, D] of token rows, in their order. token_budget: padded tokens a forward pass."""
        out_ND = np.empty((len(rows), self.dimensions), dtype=np.float32)
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        for batch in token_budget_batches(lengths, token_budget):
            ids_BT, mask_BT = pad([rows[i] for i in batch], self.pad_id)
            vectors_BD = self.forward(torch.from_numpy(ids_BT), torch.from_numpy(mask_BT))
            out_ND[batch] = vectors_BD.float().cpu().numpy()
        return out_ND

    def encode(self, texts: Sequence[str], token_budget: int = 8192) -> NDArray[np.float32]:
        """Vectors [N, D] of texts."""
        return self.encode_tokens(self.tokenize(texts)[0], token_budget)

    def forward(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Pooled vectors [B, D] of padded token ids."""
        where = self.model.device
        hidden_BTD = self.model(input_ids=ids_BT.to(where), attention_mask=mask_BT.to(where)).last_hidden_state
        pooled_BD = pool(hidden_BTD, mask_BT.to(where), self.pooling)
        return torch.nn.functional.normalize(pooled_BD.float(), dim=1) if self.normalize else pooled_BD

    def save(self, folder: Path) -> None:
        """Write a plain Hugging Face folder that sentence-transformers loads too."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_pooling(folder, self.pooling, self.normalize, self.dimensions, self.max_tokens)


def pool(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """First token, or the mean over real tokens. Returns [B, D]."""
    if pooling == "cls":
        return hidden_BTD[:, 0]
    weights_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    return (hidden_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1)


def tokenizer_of(source: str, max_tokens: int | None = None) -> tuple[Any, int]:
    """A source's tokenizer and its longest input in tokens, without loading weights."""
    folder = local_model(source)
    tokenizer = load_tokenizer(folder)
    shape = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    spoken = read_pooling(folder)[2]
    return tokenizer, min(x for x in (max_tokens, spoken, _longest_input(shape, tokenizer)) if x)


def from_folder(auto: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """`auto.from_pretrained` with safetensors only, no remote code, SDPA attention. Raises UsageError."""
    quiet_transformers()
    settings = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    report = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        model, found = auto.from_pretrained(folder, dtype=dtype, **settings, **report)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{folder}: transformers cannot load this model: {reason}") from error
    # What it does not find, or finds in another shape, transformers fills with random numbers and says nothing.
    inner = "" if model.base_model is model else f"{model.base_model_prefix}."
    absent = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    lost = sorted(name for name in absent if name.startswith(inner) and "pooler." not in name)
    if lost:
        raise UsageError(
            f"{folder}: {len(lost)} weights that config.json asks for are missing or of another shape, first {lost[0]}"
        )
    return model


def load_tokenizer(folder: Path) -> Any:
    """The folder's fast tokenizer. Raises UsageError."""
    quiet_transformers()
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{folder}: the tokenizer is missing or damaged: {reason}") from error
    if loaded.pad_token_id is None:
        raise UsageError(f"{folder}: the tokenizer has no padding token (tokenizer_config.json: pad_token)")
    return loaded


def new_model(config: ArchitectureConfig, tokenizer: Any, seed: int) -> Any:
    """An untrained XLM-R-shaped masked language model; its encoder is `.base_model`."""
    torch.manual_seed(seed)
    shape = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=config.layers,
        hidden_size=config.hidden,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate,
        max_position_embeddings=config.positions + int(tokenizer.pad_token_id) + 1,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        pad_token_id=int(tokenizer.pad_token_id),
        bos_token_id=int(tokenizer.bos_token_id),
        eos_token_id=int(tokenizer.eos_token_id),
        type_vocab_size=1,
    )
    return transformers.XLMRobertaForMaskedLM(shape)


def write_untrained(folder: Path, shape: ArchitectureConfig, tokenizer: Path, pooling: Pooling, seed: int) -> None:
    """Write an untrained encoder folder."""
    loaded = load_tokenizer(tokenizer)
    Encoder(new_model(shape, loaded, seed).base_model, loaded, pooling).save(folder)


def load_trainable(source: str | None, config: EncoderConfig, tokenizer: Path, with_mlm: bool, seed: int) -> Encoder:
    """The encoder to train, in fp32: `source`, or a new one with the corpus' tokenizer.

    `model` is the masked language model where `with_mlm`, else the bare encoder. A head that the source lacks is new.
    """
    if source is None:
        loaded = load_tokenizer(tokenizer)
        masked = new_model(config.architecture, loaded, seed)
        return Encoder(masked if with_mlm else masked.base_model, loaded, config.pooling or "mean")
    folder = local_model(source)
    torch.manual_seed(seed)
    model = from_folder(transformers.AutoModelForMaskedLM if with_mlm else transformers.AutoModel, folder)
    spoken, normalize, longest = read_pooling(folder)
    loaded = load_tokenizer(folder)
    if with_mlm and loaded.mask_token_id is None:
        raise UsageError(f"{source}: the tokenizer has no mask token, which mlm needs; set mlm.weight=0")
    return Encoder(model.train(), loaded, config.pooling or spoken, normalize, longest)


def tokenize(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> tuple[list[Tokens], int]:
    """Ids with special tokens, cut to max_tokens. Returns (rows, number of texts that were cut)."""
    prefix, suffix = special_tokens(tokenizer)
    room = max_tokens - len(prefix) - len(suffix)
    rows: list[Tokens] = []
    cut = 0
    for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if len(texts) else []:
        cut += len(ids) > room
        rows.append(np.asarray([*prefix, *ids[:room], *suffix], dtype=np.int64))
    return rows, cut


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after one sentence."""
    ids = list(tokenizer("")["input_ids"])
    return ids[:1], ids[1:]


def read_pooling(folder: Path) -> tuple[Pooling, bool, int | None]:
    """(pooling, whether vectors are normalised, longest input) as sentence-transformers records them."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return "cls", False, None
    steps = {str(step["type"]).rsplit(".", 1)[-1]: folder / str(step["path"]) for step in _read_json(modules)}
    settings = folder / "sentence_bert_config.json"
    longest = _read_json(settings).get("max_seq_length") if settings.is_file() else None
    unknown = set(steps) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise UsageError(
            f"{folder}: modules.json names {', '.join(sorted(unknown))}; known are Transformer, Pooling, Normalize"
        )
    if "Pooling" not in steps:
        return "cls", "Normalize" in steps, longest
    spec = _read_json(steps["Pooling"] / "config.json")
    modes = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    flags = [modes.get(key, key) for key, on in spec.items() if key.startswith("pooling_mode_") and on]
    chosen = flags or [spec.get("pooling_mode", "mean")]  # sentence-transformers' own default
    if chosen not in (["cls"], ["mean"]):
        raise UsageError(f"{folder}: pooling {chosen} is not supported; known are cls and mean")
    return ("mean" if chosen == ["mean"] else "cls"), "Normalize" in steps, longest


def write_pooling(folder: Path, pooling: Pooling, normalize: bool, dimensions: int, max_tokens: int) -> None:
    """The files that make the folder a sentence-transformers model."""
    package = "sentence_transformers.models"
    steps = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalize
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{package}.{name}"} for i, (path, name) in enumerate(steps)
    ]
    spec = {
        "word_embedding_dimension": dimensions,
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
    }
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules, indent=1))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(spec, indent=1))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": max_tokens, "do_lower_case": False})
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: missing or damaged ({error})") from error


def quiet_transformers() -> None:
    """Only errors: progress bars and advice of the loader are not for our users."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _longest_input(config: Any, tokenizer: Any) -> int:
    positions = int(getattr(config, "max_position_embeddings", _UNLIMITED))
    if "roberta" in config.model_type or config.model_type == "camembert":
        positions -= int(config.pad_token_id) + 1  # their positions start after the padding index
    return min(positions, int(min(tokenizer.model_max_length, _UNLIMITED)))
