"""XLM-R base with random weights on a GPU, in bf16: real tokens/s, and their share of the measured matmul peak.

The peak is that of square bf16 products on this GPU, now. The model's work is 2 FLOPs a weight of its layers and token,
and attention's 4 x layers x hidden x length a token; padding counts as no work. Texts are tokenised before the clock
starts, with another encoder's tokenizer: which ids they are is of no account, their lengths are. The best of a few
token budgets is kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from ccp_ray.batching import Tokens
from ccp_ray.encoder import Encoder
from ccp_ray.hardware import device
from ccp_ray.text_reader import tokenizer_of
from jobs.benches.figures import Figure, report
from jobs.benches.xlmr_base import XLM_R_BASE

_BUDGETS = (16_384, 32_768, 65_536, 131_072)


def gpu_bench(
    source: str, texts: Sequence[str], rounds: int, shape: dict[str, Any] | None = None, side: int = 8192
) -> dict[str, Any]:
    """The figures, on this process's device. shape: XLMRobertaConfig; side: of the square products, in elements."""
    reader = tokenizer_of(source)
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(**(shape or XLM_R_BASE | {"pad_token_id": reader.tokenizer.pad_token_id}))
    model = transformers.XLMRobertaModel(config, add_pooling_layer=False).to(device(), torch.bfloat16).eval()
    encoder = Encoder(model, reader.tokenizer, max_tokens=reader.max_tokens)
    rows, _ = encoder.tokenize(texts)
    seconds = {budget: _seconds(encoder, rows, budget, rounds) for budget in _BUDGETS}
    budget = min(seconds, key=seconds.__getitem__)
    tokens, flops = sum(map(len, rows)), work(config, [len(row) for row in rows])
    peak = matmul_peak(side, rounds)
    figures = [
        Figure("XLM-R base, real tokens", tokens / seconds[budget], "tokens/s", at_least=2e6),
        Figure("or share of the measured matmul peak", flops / seconds[budget] / peak, at_least=0.35),
        Figure("matmul peak, bf16", peak / 1e12, "TFLOP/s"),
    ]
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return report(
        figures, device=name, token_budget=budget, seconds={str(key): value for key, value in seconds.items()}
    )


def work(config: Any, lengths: Sequence[int]) -> float:
    """FLOPs of a forward pass over texts of these lengths, without padding."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * (4 * hidden * hidden + 2 * hidden * config.intermediate_size)
    length_N = np.asarray(lengths, dtype=np.float64)
    return float(2 * weights * length_N.sum() + 4 * layers * hidden * (length_N**2).sum())


def matmul_peak(side: int, rounds: int) -> float:
    """FLOP/s of square bf16 products: the best of `rounds`, ten products each."""
    a_NN, b_NN = (torch.randn(side, side, device=device(), dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(rounds + 1):  # the first one chooses kernels
        _synchronised()
        started = time.perf_counter()
        for _ in range(10):
            a_NN @ b_NN
        _synchronised()
        best = min(best, time.perf_counter() - started)
    return 10 * 2 * side**3 / best


def _seconds(encoder: Encoder, rows: Sequence[Tokens], budget: int, rounds: int) -> float:
    """Median seconds of encoding all rows; `encode_tokens` brings vectors back to the host, so it has no work left."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        encoder.encode_tokens(rows, budget)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def _synchronised() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
