"""An encoder's shape with random weights: the floor under every score that the encoder reaches.

Tokenizer, lengths and pooling stay as they are; weights are drawn as the architecture draws them before any training.
What such an encoder scores comes from words that languages share.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from ccp_ray.artifact import Artifact, Request, open_output
from ccp_ray.encoder import Encoder
from ccp_ray.ledger import put_folder
from ccp_ray.model_source import model_reference


def untrained(source: str, output: str, seed: int = 0) -> Artifact:
    """Write an encoder like `source` (a folder, s3://, hub name or package://), untrained. Returns the artifact.

    Raises UsageError for a source that is no encoder.
    """
    inputs = [model_reference("encoder", source)]
    target = open_output(output, Request(kind="encoder", config={"untrained": True, "seed": seed}, inputs=inputs))
    if isinstance(target, Artifact):
        return target
    with target.unless_refused():
        encoder = Encoder.load(source)
        _draw_weights(encoder, seed)
        with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
            encoder.save(Path(scratch))
            files = put_folder(target.store, Path(scratch))
    parameters = sum(parameter.numel() for parameter in encoder.model.parameters())
    return target.finish(files, {"trained_steps": 0, "parameters": parameters})


def _draw_weights(encoder: Encoder, seed: int) -> None:
    torch.manual_seed(seed)
    encoder.model = type(encoder.model)(encoder.model.config).eval()
    for step in encoder.modules.steps:  # Dense and LayerNorm hold weights too
        for part in step.modules():
            if isinstance(part, nn.Linear | nn.LayerNorm):
                part.reset_parameters()
