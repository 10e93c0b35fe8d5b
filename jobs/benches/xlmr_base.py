"""XLM-R base's shape with random weights, for measures of time: they need no trained weights and nothing downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccp_ray.tokenizer import save_tokenizer, train_unigram

XLM_R_BASE: dict[str, Any] = {
    "vocab_size": 250_002,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}
_PIECES = 32_000
_SAMPLE = 30_000  # sentences, about a megabyte


def write_encoder(folder: Path, sentences: Sequence[str], shape: dict[str, Any] | None = None) -> str:
    """An encoder's folder, its tokenizer a Unigram of these sentences: XLM-R's pieces are as long (`train_unigram`).

    shape: XLMRobertaConfig, instead of `XLM_R_BASE`.
    """
    import torch
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

    from ccp_ray.encoder import Encoder
    from ccp_ray.text_reader import quiet_transformers

    quiet_transformers()
    torch.manual_seed(0)
    model = XLMRobertaModel(XLMRobertaConfig(**(shape or XLM_R_BASE)), add_pooling_layer=False)
    sample = sentences[:: max(1, len(sentences) // _SAMPLE)]
    save_tokenizer(train_unigram(sample, min(_PIECES, model.config.vocab_size)), folder)
    Encoder(model, AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False), pooling="mean").save(folder)
    return str(folder)
