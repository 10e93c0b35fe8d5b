"""The fine-tuning step in 1, 2 and 4 processes, and against plain torch in float64: the same loss and gradients.

What rounding leaves of a gradient is in proportion to the terms of its sum, not to the sum. Some sums are zero whatever
the data, and nothing but rounding is left of them (`ZERO`), so an element may differ by a few units in the last place
of the whole gradient's norm. That it is rounding float64 tells: there these gradients are 1e9 times smaller.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pair_files
import pytest
import tiny_models
import torch
from ranks import run_ranks

from ccp_ray.batching import pad
from ccp_ray.config import build_config
from ccp_ray.dual_encoder import DualEncoder
from ccp_ray.encoder import Encoder, new_model
from ccp_ray.errors import TrainingError
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.finetune_step import FinetuneStep
from ccp_ray.pair_batches import PairSampler
from ccp_ray.pair_data import PairData

pytestmark = pytest.mark.timeout(300)

STEPS = 3
BASE: dict[str, Any] = {
    "encoder": {"source": "unused"},
    "train": [{"file": "unused"}],
    "max_steps": 10,
    "groups_per_step": 4,
    "questions_per_group": 3,
    # AdamW divides by sqrt(v) + eps: with its usual eps it blows the rounding of a gradient near 0 up to a whole step.
    "optimizer": {"lr": 1e-3, "warmup_steps": 2, "eps": 1e-2, "clip": 0.0},
}
# Units in the last place of the whole gradient's norm. At most 0.1 was seen after the first step, 0.6 after later ones,
# whose weights themselves differ by rounding.
ULPS = 4.0
# A softmax is the same when all its logits grow by one number. A key's bias adds the same to all scores of a query;
# with dot products what is added to every passage's vector adds the same to all scores of a question.
ZERO = {"two encoders, ZeRO 3": ("attention.self.key.bias", "models.passage.encoder.layer.0.output.LayerNorm.bias")}
SCENARIOS: dict[str, dict[str, Any]] = {
    "tied, dot": {"chunks": 2},
    "tied, cosine, 2 hard negatives": {"similarity": "cosine", "temperature": 0.1, "hard_negatives": 2},
    "two encoders, ZeRO 3": {"tied": False, "deepspeed": {"zero_stage": 3}},
    "languages, no hard negatives": {"language_exponent": 0.5, "hard_negatives": 0},
}


class Outcome(NamedTuple):
    """gradients: by step, by parameter."""

    metrics: list[dict[str, float]]
    gradients: list[dict[str, torch.Tensor]]


def config(**changes: Any) -> FinetuneConfig:
    return build_config(FinetuneConfig, BASE | changes)


def encoders(settings: FinetuneConfig, dropout: float) -> dict[str, Encoder]:
    tokenizer = tiny_models.tokenizer()
    return {
        role: Encoder(_model(dropout, seed), tokenizer, "mean" if seed else "cls")
        for seed, role in enumerate(settings.starts())
    }


def _model(dropout: float, seed: int) -> Any:
    """With weights so large that texts differ: transformers' own start gives gradients of the size of rounding."""
    shape = tiny_models.architecture(layers=1, dropout=dropout)
    model = new_model(shape, tiny_models.tokenizer(), seed).base_model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(15)
    return model


def step_of(settings: FinetuneConfig, store: str, rank: int, world: int, dropout: float = 0.1) -> FinetuneStep:
    data, where = pair_files.open_tiny_pairs(store), torch.device("cpu")
    return FinetuneStep(settings, 10, data, encoders(settings, dropout), (rank, world), where)


def _train(rank: int, world: int, store: str, dropout: float, scenarios: dict[str, FinetuneConfig]) -> dict[str, Any]:
    from training_ranks import record_gradients

    found = {}
    for name, settings in scenarios.items():
        step = step_of(settings, store, rank, world, dropout)
        gradients: list[dict[str, torch.Tensor]] = []
        record_gradients(step, gradients)  # type: ignore[arg-type] # it takes anything with an engine
        found[name] = Outcome([step.run(number) for number in range(STEPS)], gradients)
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 rows of 15 questions: what answers one in another row is a negative in none."""
    folder, found = str(tmp_path_factory.mktemp("pairs") / "data"), pair_files.rows(40, negatives=6)
    for number, row in enumerate(found):
        row["question"] = found[number % 15]["question"]
    pair_files.tiny_pairs(folder, found)
    return folder


@pytest.fixture(scope="module")
def outcomes(store: str) -> dict[int, list[dict[str, Outcome]]]:
    """Of every rank by world size."""
    settings = {name: config(**changes) for name, changes in SCENARIOS.items()}
    return {world: run_ranks(world, _train, store, 0.1, settings) for world in (1, 2, 4)}


def assert_close(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Within `tolerance` of a parameter's largest element, or rounding of the whole gradient's norm."""
    assert got.keys() == expected.keys()
    rounding = ULPS * torch.finfo(torch.float32).eps * norm(expected)
    for name, gradient in expected.items():
        atol = max(tolerance * float(gradient.abs().max()), rounding)
        torch.testing.assert_close(got[name].double(), gradient.double(), rtol=1e-5, atol=atol)


def norm(gradients: dict[str, torch.Tensor]) -> float:
    """Of all gradients as one vector."""
    return sum(float(gradient.double().square().sum()) for gradient in gradients.values()) ** 0.5


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_loss_and_gradients_are_those_of_one_process(
    outcomes: dict[int, list[dict[str, Outcome]]], scenario: str, world: int
) -> None:
    """With 4 processes each has one group and makes one forward pass of it; with fewer, two."""
    expected, got = outcomes[1][0][scenario], outcomes[world][0][scenario]
    for one, other in zip(expected.metrics, got.metrics, strict=True):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-6)
    for number, (one, other) in enumerate(zip(expected.gradients, got.gradients, strict=True)):
        assert_close(other, one, 1e-5 if number == 0 else 3e-5)  # after a step weights themselves differ by rounding
    for rank in outcomes[world][1:]:
        assert [one["loss"] for one in rank[scenario].metrics] == [one["loss"] for one in got.metrics]


def test_masks_and_lengths_take_part(outcomes: dict[int, list[dict[str, Outcome]]]) -> None:
    for outcome in outcomes[1][0].values():
        assert any(one["masked_share"] > 0 for one in outcome.metrics)
        assert all(0.3 < one["padding_efficiency"] < 1 for one in outcome.metrics)
        assert outcome.metrics[0]["loss"] != outcome.metrics[1]["loss"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_loss_and_gradients_are_those_of_plain_torch(store: str, scenario: str) -> None:
    """float64, all texts in one padded batch, a loop over questions, autograd; no dropout, for there it would fall
    otherwise."""
    settings = config(**SCENARIOS[scenario])
    got: Outcome = run_ranks(2, _train, store, 0.0, {scenario: settings})[0][scenario]
    loss, expected = by_plain_torch(settings, pair_files.open_tiny_pairs(store))
    assert got.metrics[0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert_close(got.gradients[0], expected, 1e-5)
    whole, eps = norm(expected), torch.finfo(torch.float64).eps
    zero = [name for name in expected if name.endswith(ZERO.get(scenario, ()))]
    assert len(zero) == 3 * (scenario in ZERO)
    for name in zero:
        assert norm({name: expected[name]}) < ULPS * eps * whole
        assert norm({name: got.gradients[0][name]}) > 1e6 * norm({name: expected[name]})


def by_plain_torch(settings: FinetuneConfig, data: PairData) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first step."""
    made = encoders(settings, 0.0)
    module = DualEncoder(made).double()
    batch = PairSampler(settings, data).batch(0)

    def encode(role: str, rows: list[Any]) -> torch.Tensor:
        ids, mask = (torch.from_numpy(array) for array in pad(rows, 1))
        hidden = made[role].model(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = torch.stack(
            [row[real].mean(0) for row, real in zip(hidden, mask.bool(), strict=True)]
        )  # ours is in fp32
        vectors = mean if made[role].pooling == "mean" else hidden[:, 0]
        return vectors / vectors.norm(dim=1, keepdim=True) if settings.similarity == "cosine" else vectors

    roles = list(settings.starts())
    questions = encode(roles[0], data.question_tokens(batch.question_B))
    passages = encode(roles[-1], data.passage_tokens(batch.candidate_BN.reshape(-1)))
    assert questions.dtype == passages.dtype == torch.float64
    candidates, losses = batch.candidate_BN.reshape(-1).tolist(), []
    for row, question in enumerate(batch.question_B.tolist()):
        own = row * (1 + settings.hard_negatives)
        answers = {
            p for q in range(data.questions) if data.hashes_Q[q] == data.hashes_Q[question] for p in data.positives(q)
        }
        kept = [c for c, passage in enumerate(candidates) if c == own or passage not in answers]
        scores = torch.stack([questions[row] @ passages[c] / settings.temperature for c in kept])
        losses.append(torch.logsumexp(scores, 0) - scores[kept.index(own)])
    loss = torch.stack(losses).mean()
    loss.backward()
    trained = {name: p for name, p in module.named_parameters() if "pooler" not in name}
    return float(loss.detach()), {
        name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained.items()
    }


def _diverge(rank: int, world: int, store: str) -> str:
    step = step_of(config(), store, rank, world)
    with torch.no_grad():
        step.engine.module.encoders[0].embeddings.LayerNorm.weight.fill_(float("nan"))
    try:
        step.run(0)
    except TrainingError as error:
        return str(error)
    return ""


def test_a_loss_that_is_not_finite_is_told_by_all_ranks_with_its_questions(store: str) -> None:
    first, second = run_ranks(2, _diverge, store)
    assert first == second
    assert "the loss is nan at step 0, of questions " in first
    assert "and 4 more" in first
    assert "lower optimizer.lr" in first
