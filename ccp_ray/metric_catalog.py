"""Every metric that jobs give to `ray.util.metrics`, in one list: name, type, unit, tags, meaning.

Ray serves a metric to Prometheus under `ray_` and its name (`exported`); a counter's name there ends in `_total`, and a
histogram has `_bucket`, `_sum` and `_count`. Ray adds tags of its own (node, worker, job, session). Numbers of metrics
rows are gauges, `ccp_ray_KIND_NAME`; the same numbers go to JSON lines and TensorBoard (`telemetry`).

docs/observability.md's table and the Grafana dashboard follow from this list (`scripts/observability.py`), and a test
holds them to it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["gauge", "counter", "histogram"]
LAG_BOUNDARIES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]
_RUN, _LANGUAGE, _PART, _STAGE = ("run",), ("run", "language"), ("run", "part"), ("run", "stage")
_REQUEST = ("operation", "code")


class Metric(NamedTuple):
    """One metric. tags: its own, `run` being the output's URI. unit: as a person reads it, "" for a plain number."""

    name: str
    kind: Kind
    unit: str
    tags: tuple[str, ...]
    meaning: str

    @property
    def label(self) -> str | None:
        """The tag besides `run` that tells its series apart, of a number from a metrics row."""
        return next((tag for tag in self.tags if tag != "run"), None)

    @property
    def exported(self) -> str:
        """What Prometheus calls it."""
        return f"ray_{self.name}{'_total' * (self.kind == 'counter')}"


def _gauges(kind: str, tags: tuple[str, ...], *rows: tuple[str, str, str]) -> list[Metric]:
    return [Metric(f"ccp_ray_{kind}_{name}", "gauge", unit, tags, meaning) for name, unit, meaning in rows]


_LIST = [
    *_gauges(
        "train",
        _RUN,
        ("step", "steps", "optimiser steps done"),
        ("steps", "steps", "optimiser steps of the whole run"),
        ("loss", "nats", "what is minimised: contrastive and, weighted, masked language modelling"),
        ("contrastive", "nats", "contrastive loss, mean of the directions that are trained"),
        ("chance", "nats", "contrastive loss of guessing"),
        ("mlm", "nats", "masked language modelling loss"),
        ("accuracy", "fraction", "in-group accuracy: the context is told from the others"),
        ("masked_share", "fraction", "pairs of the batch left out as negatives because they are the same sentence"),
        ("bank_masked_share", "fraction", "the same among the bank's keys"),
        ("staleness_gap", "cosine", "bank keys against the batch's own; growing is the staleness shortcut"),
        ("bank_groups", "fraction", "groups that met keys of their bank"),
        ("bank_used", "keys", "bank keys that a group meets"),
        ("bank_age", "steps", "mean age of those keys"),
        ("bank_fill", "fraction", "bank slots that hold a key"),
        ("tokens", "tokens", "real tokens of one group"),
        ("padding_efficiency", "fraction", "real tokens over tokens with padding"),
        ("lr", "", "learning rate of the encoder"),
        ("skipped", "fraction", "steps that changed nothing (overflow under fp16)"),
        ("tokens_per_s", "tokens/s", "real tokens a second, all ranks, measurements and checkpoints included"),
        ("commit_lag_s", "s", "from the copy of the last checkpoint's state to its ledger entry"),
        ("store_errors", "", "failed requests of worker 0 to the store since it started"),
        ("store_retries", "", "repeated requests of worker 0 to the store since it started"),
    ),
    *_gauges("language", _LANGUAGE, ("loss", "nats", "contrastive loss of a language's groups (questions) alone")),
    *_gauges(
        "step",
        _PART,
        (
            "seconds",
            "s",
            "of one step of worker 0, by part: data, forward_backward, optimizer, sync, checkpoint, measure, other",
        ),
    ),
    *_gauges(
        "probe",
        _LANGUAGE,
        ("std", "", "spread of unit vectors: 1 over the whole sphere, 0 collapsed"),
        ("effective_rank", "dimensions", "how many directions the space uses"),
        ("alignment", "", "mean squared distance of pairs"),
        ("uniformity", "", "log potential of all pairs; lower is more even"),
        ("leakage", "nats", "what batch statistics alone give away"),
        ("epochs", "epochs", "how often the language's sentences were centres"),
        ("loss", "nats", "of dev questions (fine-tuning)"),
        ("mrr", "fraction", "mean reciprocal rank of dev questions (fine-tuning)"),
    ),
    *_gauges(
        "dev",
        _RUN,
        ("loss", "nats", "of all dev questions (fine-tuning)"),
        ("mrr", "fraction", "mean reciprocal rank of all dev questions (fine-tuning)"),
    ),
    *_gauges("monitor", _RUN, ("problems", "", "problems that the collapse monitor named at its last look")),
    *_gauges(
        "pieces",
        _STAGE,
        ("done", "pieces", "pieces committed, those of earlier runs included"),
        ("planned", "pieces", "pieces of the plan"),
        ("rows", "rows", "rows of the pieces that this run committed"),
        ("rows_per_s", "rows/s", "of the last minute"),
        ("commit_lag_s", "s", "of the last piece; the histogram below has all of them"),
    ),
    Metric(
        "ccp_ray_commit_lag_seconds",
        "histogram",
        "s",
        _STAGE,
        "from ready to its ledger entry: a checkpoint's copied state, embed's vectors, another stage's written files",
    ),
    Metric("ccp_ray_store_errors", "counter", "", _REQUEST, "requests to S3 that failed, each try counted"),
    Metric("ccp_ray_store_retries", "counter", "", _REQUEST, "requests to S3 sent again, by the error before"),
]
METRICS = {metric.name: metric for metric in _LIST}
