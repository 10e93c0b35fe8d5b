"""The inputs of an index: finished embeddings, or how far they are; a calibration that fits them."""

from __future__ import annotations

from ccp_ray.artifact import JOB, Artifact, find_artifact, open_artifact
from ccp_ray.embeddings import Embeddings, fitting_calibration
from ccp_ray.errors import DataError, UsageError
from ccp_ray.outputs import read_request
from ccp_ray.standing import Stage, standing
from ccp_ray.storage import open_store

_STAGE = "pieces"  # of embed: its plan and its ledger


def open_embeddings(uri: str) -> Artifact:
    """The finished embeddings. Raises UsageError that says how far unfinished ones are, and what continues them."""
    if find_artifact(uri) is None:
        _refuse_unfinished(uri)
    return open_artifact(uri, "embeddings")


def check_calibration(source: Embeddings, uri: str) -> None:
    """Raises DataError for a calibration of other languages, another encoder or another width."""
    calibration = fitting_calibration(uri, source.artifact)
    unknown = sorted(set(source.languages) - set(calibration.languages))
    if unknown:
        raise DataError(f"{uri}: no language {unknown[0]!r}, which the embeddings have; calibrate on all of them")
    if calibration.dimensions != source.dimensions:
        widths = f"{calibration.dimensions} dimensions, the embeddings have {source.dimensions}"
        raise DataError(f"{uri}: fitted on {widths}; calibrate on embeddings of the same encoder")


def _refuse_unfinished(uri: str) -> None:
    store = open_store(uri)
    if store.size(JOB) is None or read_request(uri).kind != "embeddings":
        return  # open_artifact says what is wrong
    pieces = next((stage for stage in standing(store).stages if stage.name == _STAGE), None)
    raise UsageError(
        f"{uri}: unfinished embeddings, {_progress(pieces)}; run the same embed command again, it continues where "
        "it stopped; then index"
    )


def _progress(pieces: Stage | None) -> str:
    if pieces is None or pieces.planned is None:  # killed before the plan was written
        return f"{pieces.committed if pieces else 0:,} pieces are committed"
    rows = f" ({pieces.rows:,} of {pieces.planned_rows:,} rows)" if pieces.rows is not None else ""
    return f"{pieces.committed:,} of {pieces.planned:,} pieces{rows} are committed"
