"""Bytes at the collectives, counted, against the model of docs/scaling.md."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import training_ranks

from ccp_ray import collectives
from ccp_ray.bank import LanguageBanks, Shard
from ccp_ray.bank_term import bank_term
from ccp_ray.head import ProjectionHead
from jobs.traffic import Traffic, scaling_table, step_traffic

WORKERS = 4


class Counter:
    """Collectives of four ranks that all say the same; counts what comes from the other three."""

    def __init__(self) -> None:
        self.received = 0

    def get_world_size(self) -> int:
        return WORKERS

    def get_rank(self) -> int:
        return 0

    def all_gather(self, parts: list[torch.Tensor], own: torch.Tensor) -> None:
        for part in parts:
            part.copy_(own)
        self.received += (WORKERS - 1) * own.numel() * own.element_size()

    def all_to_all_single(self, into: torch.Tensor, rows: torch.Tensor) -> None:
        into.copy_(rows)
        self.received += (WORKERS - 1) * rows.numel() * rows.element_size() // WORKERS


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    found = Counter()
    monkeypatch.setattr(collectives, "dist", found)
    return found


@pytest.mark.parametrize(("dtype", "start"), [("fp32", "random"), ("bf16", "identity")])
def test_keys_and_statistics_are_as_many_bytes_as_the_model_says(counter, dtype, start):
    config = training_ranks.config(groups_per_step=8, bank={"dtype": dtype}, head_start=start)
    step = training_ranks.TrainingStep.__new__(training_ranks.TrainingStep)
    banks = LanguageBanks(config.bank, ["aa"], config.projection, torch.device("cpu"))
    step.config, step.banks, step.keys = config, banks, None
    step.sampler = SimpleNamespace(language=lambda step, group: "aa")
    step.running = SimpleNamespace(update=lambda statistics: None)
    groups, pairs, size = 8 // WORKERS, config.pairs_per_group, config.projection
    result = SimpleNamespace(
        keys_GPD=torch.zeros(groups, pairs, size),
        hashes_GP=torch.zeros(groups, pairs, dtype=torch.int64),
        statistics_G2D=torch.zeros(groups, 2, ProjectionHead(size, size, start=start).width),
    )
    step._remember(0, result)
    model = step_traffic(config, 0, WORKERS)
    assert counter.received == model.keys + model.statistics > 0


def test_a_bank_term_is_as_many_bytes_as_the_model_says(counter):
    config = training_ranks.config(groups_per_step=4, bank={"placement": "sharded"})
    pairs, size = config.pairs_per_group, config.projection
    banks = LanguageBanks(config.bank, ["aa"], size, torch.device("cpu"), 0, Shard(0, WORKERS))
    bank_term(banks, "aa", torch.zeros(pairs, size), torch.zeros(2, pairs, dtype=torch.int64), 1, 0.1)
    assert counter.received == step_traffic(config, 0, WORKERS).bank_term > 0  # one group a rank


def test_alone_nothing_is_received_and_replicated_banks_ask_nobody():
    config = training_ranks.config()
    assert step_traffic(config, 1000, 1) == Traffic(0, 0, 0, 0)
    assert step_traffic(config, 1000, 4).bank_term == 0
    assert step_traffic(training_ranks.config(bank={"size": 0}, norm="layer"), 1000, 4)[1:] == (0, 0, 0)


def test_the_docs_have_the_table_as_it_is_printed():
    page = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
    assert scaling_table() in page.read_text()
