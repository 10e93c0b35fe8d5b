"""The calibrate stage: a calibration artifact from an embeddings artifact.

    pieces ──► moments + sampled rows (Ray tasks, committed piece by piece) ──► merge ──► judged steps ──► one file

Every piece is read once. The driver holds the moments (16 bytes a dimension, language and piece) and the sampled rows
(`fit_rows` x D x 4 bytes a language: 8 MB at 5,000 x 384), and while it fits what `calibration_fit` says; never the
vectors.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from ccp_ray.artifact import Artifact, Output, Request, open_output
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.calibration_fit import check_languages, choose_pivot, fit_from, sample_rows
from ccp_ray.config import semantic
from ccp_ray.embeddings import Embeddings, rows_of
from ccp_ray.ledger import Entry
from ccp_ray.moments import Moments, merged
from ccp_ray.pieces import run_pieces
from ccp_ray.rotation import FloatArray
from ccp_ray.session import ray_session
from ccp_ray.storage import open_store


def calibrate(embeddings: str, output: str, config: CalibrationConfig | None = None) -> Artifact:
    """Fit on an embeddings artifact. Returns the finished artifact (kind "calibration").

    Pieces are read once, as Ray tasks, each committed with its moments and its share of the sampled rows (working
    files below `_fit/`, gone at the end). Raises DataError for a language with too few rows or without variance,
    UsageError for a pivot that is not there or an unfinished input.
    """
    config = config or CalibrationConfig()
    source = Embeddings.open(embeddings)
    check_languages(source.languages, config)
    choose_pivot(source.languages, config)
    request = Request(kind="calibration", config=semantic(config), inputs=[source.artifact.ref("embeddings")])
    target = open_output(output, request)
    if isinstance(target, Artifact):
        return target
    started = time.monotonic()
    with target.unless_refused():
        with ray_session():
            cpus = config.resources.cpus_per_task
            entries = run_pieces(target, "moments", _plan(source, target, config), _measure, cpus=cpus)
        fitting = time.monotonic()
        calibration = fit_from(_merge_moments(entries), _read_samples(target, entries), config)
    encoder = next((ref.fingerprint for ref in source.artifact.inputs if ref.role == "encoder"), None)
    summary = calibration.summary() | {"rows": source.rows, "encoder": encoder}
    now = time.monotonic()
    measured = {"seconds": now - started, "fit_seconds": now - fitting}
    artifact = target.finish([calibration.save(target.store)], summary, measured)
    for entry in entries.values():
        target.store.delete(entry.info["sample"])
    return artifact


def _plan(source: Embeddings, target: Output, config: CalibrationConfig) -> dict[str, Any]:
    """One task a piece; `before` counts each language's rows in the pieces before it."""
    before: dict[str, int] = {}
    plan: dict[str, Any] = {}
    common = {"embeddings": source.artifact.uri, "output": target.uri, "config": config.model_dump_json()}
    for number, piece in enumerate(source.pieces):
        totals = {lang: source.languages[lang] for lang in sorted(piece.languages)}
        plan[piece.name] = common | {
            "number": number,
            "totals": totals,
            "before": {k: before.get(k, 0) for k in totals},
        }
        for lang, rows in piece.languages.items():
            before[lang] = before.get(lang, 0) + rows
    return plan


def _measure(name: str, job: dict[str, Any]) -> Entry:
    """Moments of each language of a piece, and those of its rows that are in the sample."""
    config = CalibrationConfig.model_validate_json(job["config"])
    source = Embeddings.open(job["embeddings"])
    vectors_ND, table = source.read(source.pieces[job["number"]])
    moments: dict[str, Any] = {}
    sample: dict[str, FloatArray] = {}
    for lang, total in job["totals"].items():
        rows_nD = vectors_ND[rows_of(table, lang)]
        moments[lang] = Moments.of(rows_nD).to_json()
        chosen = sample_rows(lang, total, config) - job["before"][lang]
        sample[lang] = rows_nD[chosen[(chosen >= 0) & (chosen < len(rows_nD))]]
    key = f"_fit/{name}.safetensors"
    open_store(job["output"]).write(key, save(sample))
    return Entry(rows=len(vectors_ND), info={"moments": moments, "sample": key})


def _merge_moments(entries: Mapping[str, Entry]) -> dict[str, Moments]:
    parts: dict[str, list[Moments]] = {}
    for entry in entries.values():
        for lang, value in entry.info["moments"].items():
            parts.setdefault(lang, []).append(Moments.from_json(value))
    return {lang: merged(found) for lang, found in sorted(parts.items())}


def _read_samples(target: Output, entries: Mapping[str, Entry]) -> dict[str, FloatArray]:
    parts: dict[str, list[FloatArray]] = {}
    for entry in entries.values():
        for lang, rows_nD in load(target.store.read(entry.info["sample"])).items():
            parts.setdefault(lang, []).append(rows_nD)
    return {lang: np.concatenate(found) for lang, found in sorted(parts.items())}
