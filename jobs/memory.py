"""Memory of training, a GPU: worked out from the encoder's shape, without a weight being read.

Model and optimiser. Bytes a parameter, with b = 4 (fp32) or 2 (bf16, fp16) and W workers. What a stage shards is
divided by W (Rajbhandari et al. 2020, arXiv 1910.02054); what DeepSpeed 0.19 holds beside that was counted over all
live tensors at the moment of the step (`tests/test_memory.py` counts again):

| ZeRO | weights | gradients                     | optimiser (offloaded: on the host)     |
|------|---------|-------------------------------|----------------------------------------|
| 0    | b       | b, and 4 at the step if b = 2 | 8, and master weights of 4 if b = 2    |
| 1    | b       | 4, and b more if b = 2        | 12 / W: master weights in fp32 as well |
| 2    | b       | 4 / W                         | 12 / W                                 |
| 3    | b / W   | 4 / W                         | 12 / W                                 |

Beside it a bucket of gradients under way (ZeRO 1 to 3), and under ZeRO 3 the weights that are gathered at one time.
Activations are those of one group, which live until its backward pass: each layer keeps (10 H + 2 I) b bytes a token;
with activation checkpointing H b, and one layer's in full. Attention keeps a matrix of 12 bytes a head and pair of
tokens on CPUs, none on GPUs, where SDPA recomputes it. Padded tokens count, at the most that `max_tokens` allows.
"""

from __future__ import annotations

from typing import NamedTuple

from ccp_ray.engine_settings import BUCKET_ELEMENTS
from ccp_ray.pretrain_config import PretrainConfig, head_width
from ccp_ray.training_config import TrainingConfig

_LIVE_PARAMETERS = 1e9  # DeepSpeed's stage3_max_live_parameters: smaller models are gathered whole


class EncoderShape(NamedTuple):
    """The sizes in an encoder's config.json that memory and time depend on."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int
    positions: int

    @property
    def embedding_parameters(self) -> int:
        """Looked up, not computed with. With a layer norm and one row of types."""
        return (self.vocabulary + self.positions + 3) * self.hidden

    @property
    def parameters(self) -> int:
        hidden = self.hidden
        layer = 4 * hidden * (hidden + 1) + 2 * hidden * self.intermediate + self.intermediate + 5 * hidden
        return self.embedding_parameters + self.layers * layer


class TrainingMemory(NamedTuple):
    """Bytes on a GPU (a worker's memory where there is none), and on the host for a worker's offloaded part."""

    model: float
    optimizer: float
    activations: float
    banks: float
    offloaded: float

    @property
    def total(self) -> float:
        """On the GPU."""
        return self.model + self.optimizer + self.activations + self.banks


def trained_parameters(config: PretrainConfig, shape: EncoderShape) -> int:
    """Of encoder, projection head and the head of masked language modelling (its matrix is the embedding's)."""
    width = head_width(config.projection, config.head_start)
    head = width * (shape.hidden + 2) + (width + 1) * config.projection
    mlm = shape.hidden * (shape.hidden + 3) + shape.vocabulary if config.mlm.weight else 0
    return shape.parameters + head + mlm


def training_memory(
    config: PretrainConfig, shape: EncoderShape, workers: int, languages: int, gpu: bool
) -> TrainingMemory:
    """languages: of the corpus, those that are trained on."""
    parameters = trained_parameters(config, shape)
    model, *optimizer = engine_bytes(config, parameters, workers)
    if config.bank.momentum is not None:
        model += shape.parameters * (4 if _width(config) == 4 else 4 + _width(config))
    banks = config.bank.memory(languages, config.projection, workers)
    return TrainingMemory(model, optimizer[0], activation_bytes(config, shape, gpu), banks, optimizer[1])


def engine_bytes(config: TrainingConfig, parameters: int, workers: int) -> tuple[float, float, float]:
    """Of so many trained parameters on each worker: model, optimiser, and the optimiser where it is on the host."""
    weights, gradients, optimizer = parameter_bytes(config, workers)
    model = parameters * (weights + gradients)
    if config.deepspeed.zero_stage == 3:
        model += min(parameters, _LIVE_PARAMETERS) * _width(config)
    if config.deepspeed.zero_stage:
        model += min(parameters, BUCKET_ELEMENTS) * _width(config)
    there = parameters * optimizer
    return (model, 0.0, there) if config.deepspeed.offload_optimizer else (model, there, 0.0)


def parameter_bytes(config: TrainingConfig, workers: int) -> tuple[float, float, float]:
    """Bytes a parameter on each worker at the moment of the step: weights, gradients, optimiser."""
    stage, width = config.deepspeed.zero_stage, _width(config)
    low = width < 4
    weights = width / workers if stage == 3 else width
    if stage == 0:
        return weights, width + 4 * low, 8 + 4 * low
    gradients = 4 + width * low if stage == 1 else 4 / workers
    return weights, gradients, 12 / workers


def activation_bytes(config: PretrainConfig, shape: EncoderShape, gpu: bool) -> float:
    """Of one group's forward pass: encoder, and the scores of masked tokens over the vocabulary."""
    masked = config.mlm.sentences if config.mlm.weight else 0
    encoded = config.pairs_per_group * (1 if config.bank.momentum is not None else 2) + masked
    largest = max(2 * config.pairs_per_group / config.chunks, masked) * config.max_tokens
    layers = layer_bytes(config, shape, encoded * config.max_tokens, largest, config.max_tokens, gpu)
    return layers + masked * config.max_tokens * config.mlm.share * shape.vocabulary * (8 + 2 * _width(config))


def layer_bytes(
    config: TrainingConfig, shape: EncoderShape, tokens: float, largest: float, length: int, gpu: bool
) -> float:
    """Of the layers, for texts of `length` and `tokens` in all, of which one pass has `largest` at most."""
    width = _width(config)
    layer = (10 * shape.hidden + 2 * shape.intermediate) * width
    if not gpu:
        layer += 12 * shape.heads * length
    if config.deepspeed.activation_checkpointing:
        layers = tokens * shape.layers * shape.hidden * width + largest * layer
    else:
        layers = tokens * shape.layers * layer
    return layers + tokens * 4 * shape.hidden * width


def _width(config: TrainingConfig) -> int:
    return 4 if config.deepspeed.precision == "fp32" else 2
