"""Made-up metrics and a report with every section, for tests."""

from __future__ import annotations

import numpy as np

from eval.report import ReportData, from_metrics

VARIANTS = ["before", "trained", "+ shift"]


def score(mean: float) -> dict[str, float]:
    return {"mean": mean, "forward": mean + 0.01, "backward": mean - 0.01}


def metrics(steps: int = 200) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [{"step": 0, "probe": {"en": probe(0.5), "fr": probe(0.4)}}]
    for step in range(10, steps + 1, 10):
        row = {"step": step, "contrastive": 4 - step / 100, "chance": 4.16, "mlm": 6.0, "accuracy": step / 1000}
        rows.append(row | {"lr": 2e-5, "staleness_gap": 0.01, "bank_fill": 0.5, "bank_age": 3.0, "tokens_per_s": 9e3})
    rows.append({"step": steps, "probe": {"en": probe(0.9), "fr": probe(0.8)}, "problems": ["collapse of fr"]})
    return rows


def probe(std: float) -> dict[str, float]:
    return {"std": std, "effective_rank": 30.0, "alignment": 0.5, "uniformity": -2.0}


def full(points: int = 5, languages: tuple[str, ...] = ("en", "fr")) -> ReportData:
    rng = np.random.default_rng(0)
    plane = [
        {"lang": lang, "x": float(x), "y": float(y)} for lang in languages for x, y in rng.normal(size=(points, 2))
    ]
    rows = [
        {"pair": "fr-en", "values": {"before": score(0.1), "trained": score(0.3), "+ shift": score(0.4)}},
        {"pair": "de-en", "values": {"before": score(0.2), "trained": score(0.5), "+ shift": score(0.45)}},
    ]
    macro = {"before": score(0.15), "trained": score(0.4), "+ shift": score(0.425)}
    panels = [{"title": t, "points": plane, "links": [[0, points]]} for t in ("Before calibration", "After it")]
    stage = {"stage": "corpus", "seconds": 75.0, "rows": 12345, "rows_per_s": 164.6, "peak_memory_bytes": 3 << 30}
    place = {"stage": "corpus", "kind": "corpus", "uri": "s3://bucket/run_1/corpus"}
    return ReportData.model_validate(
        {
            "title": "A run",
            "created": "2030-01-02T03:04:05+00:00",
            "headline": [("Tatoeba", "42.5 %")],
            "retrieval": [{"name": "Tatoeba", "columns": VARIANTS, "rows": rows, "macro": macro, "note": "By cosine."}],
            "context": {"rows": [{"lang": "en", "before": 0.1, "after": 0.3, "chance": 0.02, "n": 1200}]},
            "curves": from_metrics(metrics()),
            "verdict": "No collapse was seen.",
            "healthy": True,
            "projections": panels,
            "stages": [stage, stage | {"stage": "encoder", "seconds": 10.0}],
            "artifacts": [place | {"fingerprint": "0123456789abcdef" * 4, "files": 1234, "bytes": 5 << 20}],
            "config_yaml": "steps: 800\n",
            "environment": {"torch": "2.13.0"},
        }
    )
