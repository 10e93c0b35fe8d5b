"""The inputs of an index: finished embeddings, or how far they are; a calibration that fits them."""

from __future__ import annotations

import json

from ccp_ray.artifact import JOB, Artifact, Request, find_artifact, open_artifact
from ccp_ray.calibration import Calibration
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DataError, UsageError
from ccp_ray.ledger import Ledger
from ccp_ray.storage import Store, open_store

_STAGE = "pieces"  # of embed: its plan and its ledger


def open_embeddings(uri: str) -> Artifact:
    """The finished embeddings. Raises UsageError that says how far unfinished ones are, and what continues them."""
    if find_artifact(uri) is None:
        _refuse_unfinished(uri)
    return open_artifact(uri, "embeddings")


def check_calibration(source: Embeddings, uri: str) -> None:
    """Raises DataError for a calibration of other languages, another encoder or another width."""
    calibration = Calibration.open(uri)
    fitted = open_artifact(uri, "calibration").summary.get("encoder")
    encoders = {ref.fingerprint for ref in source.artifact.inputs if ref.role == "encoder"}
    if fitted is not None and fitted not in encoders:
        raise DataError(f"{uri}: fitted on another encoder's embeddings; calibrate on these")
    unknown = sorted(set(source.languages) - set(calibration.languages))
    if unknown:
        raise DataError(f"{uri}: no language {unknown[0]!r}, which the embeddings have; calibrate on all of them")
    if calibration.dimensions != source.dimensions:
        widths = f"{calibration.dimensions} dimensions, the embeddings have {source.dimensions}"
        raise DataError(f"{uri}: fitted on {widths}; calibrate on embeddings of the same encoder")


def _refuse_unfinished(uri: str) -> None:
    store = open_store(uri)
    try:
        job = Request.model_validate_json(store.read(JOB))
    except (FileNotFoundError, ValueError):
        return  # no job of ours: open_artifact says so
    if job.kind == "embeddings":
        raise UsageError(
            f"{uri}: unfinished embeddings, {_progress(store)}; run the same embed command again, it continues where "
            "it stopped; then index"
        )


def _progress(store: Store) -> str:
    committed = Ledger(store, f"_ledger/{_STAGE}").committed()
    try:
        plan: dict[str, int] = json.loads(store.read(f"_plan/{_STAGE}.json"))["pieces"]
    except FileNotFoundError:  # killed before the plan was written
        return f"{len(committed):,} pieces are committed"
    done = [rows for name, rows in plan.items() if name in committed]
    return f"{len(done):,} of {len(plan):,} pieces ({sum(done):,} of {sum(plan.values()):,} rows) are committed"
