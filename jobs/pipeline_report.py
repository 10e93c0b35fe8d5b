"""What a pipeline's report says, collected from the finished artifacts."""

from __future__ import annotations

import gzip
import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml

from ccp_ray.artifact import Artifact, Request, open_output
from ccp_ray.calibration import Calibration
from ccp_ray.config import StrictModel, semantic
from ccp_ray.ledger import put_bytes
from eval.evaluate import RESULTS
from eval.projection import project
from eval.protocol import VARIANTS, Vectors
from eval.report import ReportData, from_metrics, write_report
from eval.report_curves import curves_of

_POINTS = 200
_TRAINED = {"raw": "trained", "shift": "+ shift", "scale": "+ scale", "rotate": "+ rotate"}
_BASELINE = {"raw": "before", "rotate": "before, calibrated"}
_OWN = {"before": "before, calibrated*", "after": "trained, calibrated*"}


class Finished(NamedTuple):
    """A stage of this run; no peak where it was finished before."""

    name: str
    artifact: Artifact
    seconds: float
    peak_bytes: int | None


def report(title: str, stages: Sequence[Finished], config: StrictModel, output: str) -> Artifact:
    """Write report.html, report.md and report.json. Only results.json (no times) enters the fingerprint."""
    made = {item.name: item.artifact for item in stages}
    results = collect_results(made)
    inputs = [artifact.ref(name) for name, artifact in made.items()]
    target = open_output(output, Request(kind="report", config={"title": title}, inputs=inputs))
    if isinstance(target, Artifact):
        return target
    store = target.store
    files = [put_bytes(store, RESULTS, json.dumps(results, indent=1, sort_keys=True).encode())]
    data = ReportData.model_validate(_report_data(title, stages, results, config))
    files += [record.model_copy(update={"measured": True}) for record in write_report(data, store)]
    return target.finish(files, {"headline": dict(data.headline), "report": store.uri("report.html")})


def collect_results(made: Mapping[str, Artifact]) -> dict[str, Any]:
    """The scores before and after training, and what the monitor said."""
    results: dict[str, Any] = {"after": _scores(made["evaluation"]), "problems": made["encoder"].summary["problems"]}
    if "baseline/evaluation" in made:
        results["before"] = _scores(made["baseline/evaluation"])
    return results


def _scores(evaluation: Artifact) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads(evaluation.read(RESULTS))["benchmarks"]
    return scores


def _report_data(
    title: str, stages: Sequence[Finished], results: dict[str, Any], config: StrictModel
) -> dict[str, Any]:
    made = {item.name: item.artifact for item in stages}
    kept = kept_steps(made["calibration"].summary)
    tables = [_table(name, results, kept) for name in ("translations", "tatoeba") if name in results["after"]]
    problems = results["problems"]
    return {
        "title": title,
        "created": made["encoder"].provenance["created"],
        "headline": _headline(tables, results),
        "retrieval": tables,
        "context": _context(results) if "context" in results["after"] else None,
        "curves": from_metrics(_metrics(made["encoder"])) + (curves_of(made["curve"]) if "curve" in made else []),
        "healthy": not problems,
        "verdict": "; ".join(problems) or "No collapse, divergence or staleness shortcut was seen.",
        "projections": _projections(made),
        "stages": [stage_figures(item) for item in stages],
        "artifacts": [_artifact(item) for item in stages],
        "config_yaml": yaml.safe_dump(semantic(config), sort_keys=False, allow_unicode=True),
        "environment": _environment(made["encoder"]),
    }


def kept_steps(summary: Mapping[str, Any]) -> str:
    """Which steps of a calibration were kept, in a sentence or two: of a step that was rejected no column tells."""
    sentences = []
    for step, title in (("scale", "Scale"), ("rotation", "Rotation")):
        verdicts: dict[str, list[str]] = {}
        for lang, told in summary["languages"].items():
            if lang != summary["pivot"]:
                verdicts.setdefault({"unit": "not judged"}.get(told[step], told[step]), []).append(lang)
        listed = "; ".join(f"{verdict}: {', '.join(langs)}" for verdict, langs in sorted(verdicts.items()))
        if listed:
            sentences.append(f"{title} {listed}.")
    return " ".join([f"Calibration on the corpus, pivot {summary['pivot']}.", *sentences])


def _table(name: str, results: dict[str, Any], kept: str) -> dict[str, Any]:
    columns: dict[str, dict[str, Any]] = {}
    if "before" in results:
        columns |= {_BASELINE[v]: results["before"][name]["variants"][v] for v in _BASELINE}
        columns |= _own("before", results["before"][name])
    columns |= {_TRAINED[v]: results["after"][name]["variants"][v] for v in VARIANTS}
    columns |= _own("after", results["after"][name])
    pairs = results["after"][name]["variants"]["raw"]["pairs"]
    return {
        "name": {"translations": "Translated test sentences", "tatoeba": "Tatoeba"}[name],
        "columns": list(columns),
        "rows": [{"pair": pair, "values": {c: score["pairs"][pair] for c, score in columns.items()}} for pair in pairs],
        "macro": {column: score["macro"] for column, score in columns.items()},
        "note": "Top-1 accuracy of the nearest neighbour by cosine. Calibration is fitted on sentences of the "
        "corpus; in the columns with a star on the test sentences, each language alone, never on their pairing. "
        f"{kept}",
    }


def _own(when: str, entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The column of the calibration on the test sentences; none where these were too few to fit on."""
    return {_OWN[when]: entry["own"]["variants"]["rotate"]} if "own" in entry else {}


def _context(results: dict[str, Any]) -> dict[str, Any]:
    after, before = results["after"]["context"], results.get("before", {}).get("context")
    rows = []
    for lang, score in after["variants"]["raw"]["languages"].items():
        row = {"lang": lang, "after": score["accuracy"], "chance": score["chance"]}
        row["calibrated"] = after["variants"]["scale"]["languages"][lang]["accuracy"]
        row["n"] = after["data"]["languages"][lang]["sentences"]
        row["before"] = before["variants"]["raw"]["languages"][lang]["accuracy"] if before else None
        rows.append(row)
    return {"rows": rows}


def _headline(tables: Sequence[dict[str, Any]], results: dict[str, Any]) -> list[tuple[str, str]]:
    """The same columns in every report: choosing the best by its score would flatter it."""
    out = []
    for table in tables:
        means = {column: score["mean"] for column, score in table["macro"].items()}
        wanted = (_BASELINE["raw"], _TRAINED["raw"], _TRAINED["rotate"], _OWN["after"])
        out.append((table["name"], ", ".join(f"{100 * means[name]:.1f} % {name}" for name in wanted if name in means)))
    if "context" in results["after"]:
        macro = {
            when: results[when]["context"]["variants"]["raw"]["macro"]
            for when in ("before", "after")
            if when in results
        }
        figures = ", ".join(f"{100 * score['accuracy']:.1f} % {when}" for when, score in macro.items())
        out.append(("Held-out context retrieval", f"{figures} (chance {100 * macro['after']['chance']:.1f} %)"))
    return out


def _metrics(encoder: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in encoder.read("metrics.jsonl").splitlines()]


def _projections(made: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Benchmark sentences of each language in two dimensions, raw and calibrated."""
    from ccp_ray.embeddings import Embeddings

    evaluation = made["evaluation"]
    name = next(name for name in ("translations", "tatoeba", "context") if name in evaluation.summary["benchmarks"])
    vectors = Vectors.read(Embeddings.open(f"{evaluation.uri}/embeddings"))
    calibration = Calibration.open(made["calibration"].uri)
    lines = gzip.decompress(evaluation.read(f"texts/{name}.jsonl.gz")).splitlines()
    ids: dict[str, list[str]] = {}
    for text in map(json.loads, lines):
        ids.setdefault(text["lang"], []).append(text["id"])
    chosen = {lang: vectors.get(names[:_POINTS], lang) for lang, names in ids.items()}
    panels = []
    for title, steps in (("Before calibration", VARIANTS["raw"]), ("After calibration", VARIANTS["rotate"])):
        points = project({lang: calibration.apply(rows, lang, steps) for lang, rows in chosen.items()})
        flat = [
            {"lang": lang, "x": float(x), "y": float(y)} for lang, rows in points.items() for x, y in np.asarray(rows)
        ]
        panels.append({"title": title, "points": flat, "links": []})
    return panels


def stage_figures(item: Finished) -> dict[str, Any]:
    """A stage's time, speed, padding efficiency and peak memory; None where a figure has no meaning."""
    summary, measured = item.artifact.summary, item.artifact.measured
    seconds = float(measured.get("seconds", item.seconds))
    languages = summary.get("languages", {}).values() if item.artifact.kind == "corpus" else ()
    rows = summary.get("rows", summary.get("sentences")) or sum(facts["sentences"] for facts in languages) or None
    tokens = summary["tokens"] if item.artifact.kind == "embeddings" else sum(f["tokens"] for f in languages) or None
    return {
        "stage": item.name,
        "seconds": seconds,
        "rows": rows,
        "rows_per_s": rows / seconds if rows else None,
        "tokens_per_s": measured.get("tokens_per_s", tokens / seconds if tokens else None),
        "padding_efficiency": measured.get("padding_efficiency"),
        "peak_memory_bytes": item.peak_bytes,
    }


def _artifact(item: Finished) -> dict[str, Any]:
    artifact = item.artifact
    size = sum(record.bytes for record in artifact.files)
    place = {"stage": item.name, "kind": artifact.kind, "uri": artifact.uri, "fingerprint": artifact.fingerprint}
    return place | {"files": len(artifact.files), "bytes": size}


def _environment(encoder: Artifact) -> dict[str, str]:
    versions = {name: str(version) for name, version in encoder.provenance["versions"].items()}
    return {"platform": platform.platform(), "CPUs": str(os.cpu_count())} | versions
