"""Encoders of a few kilobytes for tests: random weights, a tokenizer over single letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ccp_ray.encoder import Encoder
from ccp_ray.encoder_config import ArchitectureConfig

_SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer(longest: int = 512) -> Any:
    """A fast tokenizer in XLM-R's layout, one token a letter."""
    names = [*_SPECIAL.values(), *LETTERS, "<mask>"]
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Split("", "isolated")])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", names.index("<s>")), ("</s>", names.index("</s>"))]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=longest, mask_token="<mask>", **_SPECIAL
    )


def suffix_only() -> Any:
    """T5's layout: only an end."""
    return processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", list(_SPECIAL).index("eos_token"))])


def architecture(**changes: Any) -> ArchitectureConfig:
    small = {"layers": 2, "hidden": 16, "heads": 2, "intermediate": 32, "positions": 24, "dropout": 0.0}
    return ArchitectureConfig(**(small | changes))


def bert(seed: int = 0, **changes: Any) -> Any:
    """A bare BERT encoder without a pooler."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = shape | {"intermediate_size": 32, "max_position_embeddings": 24, "pad_token_id": 1} | changes
    return transformers.BertModel(transformers.BertConfig(**settings), add_pooling_layer=False).eval()


def plain_folder(folder: Path, seed: int = 0) -> Path:
    """A Hugging Face folder as transformers writes it: nothing of sentence-transformers."""
    bert(seed).save_pretrained(folder)
    tokenizer(24).save_pretrained(folder)
    return folder


def encoder(pooling: Any = "cls", normalize: bool = False, max_tokens: int | None = None, **changes: Any) -> Encoder:
    return Encoder(bert(**changes), tokenizer(), pooling, normalize, max_tokens)
