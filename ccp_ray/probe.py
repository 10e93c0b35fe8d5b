"""The fixed probe: the encoder's vectors of the same context pairs of every language, and what the head leaks of them.

All ranks run it together, for ZeRO 3 gathers parameters in each pass. It never touches the training's random state.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ccp_ray.contexts import ContextReader
from ccp_ray.encoder import Encoder
from ccp_ray.head import Statistics
from ccp_ray.leakage import leakage
from ccp_ray.monitor import Probe, measure
from ccp_ray.objective import pad_chunks
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.sampling import Sampler


class EncoderProbe:
    """`monitor.pairs` context pairs a language, chosen by the seed alone."""

    def __init__(self, config: PretrainConfig, reader: ContextReader, encoder: Encoder, where: torch.device) -> None:
        self.config, self.reader, self.pad_id, self.device = config, reader, encoder.pad_id, where

    @torch.no_grad()
    def measure(self, engine: Any, running: Statistics | None) -> dict[str, Probe]:
        """Probe values by language. running: as the next step will take them. Raises CcpError for NaN or infinity."""
        engine.eval()
        try:
            return {lang: self._language(engine, lang, running) for lang in self.reader.sizes}
        finally:
            engine.train()

    def _language(self, engine: Any, lang: str, running: Statistics | None) -> Probe:
        config, sizes = self.config, {lang: self.reader.sizes[lang]}
        count = min(config.monitor.pairs, sizes[lang])
        indices = Sampler(config.seed, sizes, 1, 1, "probe").draw(0, 0, count).indices
        pairs = self.reader.pairs(lang, indices, config.radius, config.seed, "probe")
        padded, order = pad_chunks([*pairs.centres, *pairs.contexts], self.pad_id, 2, self.device)
        centre_PH, context_PH = engine.module.pooled(padded)[order].chunk(2)
        space = measure(*(side_PH.float().cpu().numpy() for side_PH in (centre_PH, context_PH)))
        return Probe(**space.model_dump(), leakage=self._leakage(engine, centre_PH, context_PH, running))

    def _leakage(
        self, engine: Any, centre_PH: torch.Tensor, context_PH: torch.Tensor, running: Statistics | None
    ) -> float:
        """Mean of both roles."""

        def project(
            centre: torch.Tensor, context: torch.Tensor, running_side: int
        ) -> tuple[torch.Tensor, torch.Tensor]:
            (centre_PD, _), (context_PD, _) = engine.module.project(centre, context, running_side, running)
            return centre_PD, context_PD

        size, temperature = self.config.pairs_per_group, self.config.temperature
        roles = [partial(project, running_side=side) for side in (0, 1)]
        return sum(leakage(role, centre_PH, context_PH, size, temperature) for role in roles) / 2
