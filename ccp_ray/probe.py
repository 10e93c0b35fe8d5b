"""The fixed probe: the encoder's vectors of the same context pairs of every language, whenever it is asked.

All ranks run it together, for ZeRO 3 gathers parameters in each pass. It never touches the training's random state.
"""

from __future__ import annotations

from typing import Any

import torch

from ccp_ray.contexts import ContextReader
from ccp_ray.encoder import Encoder
from ccp_ray.monitor import Probe, measure
from ccp_ray.objective import pad_chunks
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.sampling import Sampler


class EncoderProbe:
    """`monitor.pairs` context pairs a language, chosen by the seed alone."""

    def __init__(self, config: PretrainConfig, reader: ContextReader, encoder: Encoder, where: torch.device) -> None:
        self.config, self.reader, self.pad_id, self.device = config, reader, encoder.pad_id, where

    @torch.no_grad()
    def measure(self, engine: Any) -> dict[str, Probe]:
        """Probe values by language. Raises TrainingError for NaN or infinity."""
        engine.eval()
        try:
            return {lang: self._language(engine, lang) for lang in self.reader.sizes}
        finally:
            engine.train()

    def _language(self, engine: Any, lang: str) -> Probe:
        config, sizes = self.config, {lang: self.reader.sizes[lang]}
        count = min(config.monitor.pairs, sizes[lang])
        indices = Sampler(config.seed, sizes, 1, 1, "probe").draw(0, 0, count).indices
        pairs = self.reader.pairs(lang, indices, config.radius, config.seed, "probe")
        padded, order = pad_chunks([*pairs.centres, *pairs.contexts], self.pad_id, 2, self.device)
        vectors_NH = engine.module.pooled(padded)[order].float().cpu().numpy()
        return measure(vectors_NH[:count], vectors_NH[count:])
