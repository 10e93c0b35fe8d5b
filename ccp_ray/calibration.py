"""Cross-lingual calibration: per language shift, scale and rotate, fitted from monolingual vectors alone.

For a vector x of language L, in this order:

    shift    x - mean_L
    scale    (x - mean_L) / deviation_L          unit variance by dimension
    rotate   unit((x - mean_L) / deviation_L) R_L    R_L orthogonal, into the pivot's space
    always   divided by its length, so that an inner product is a cosine

The paper's post-processing step (arXiv 2206.03281). Means and deviations come from all rows, streaming, in
float64; the rotation (see `rotation`) from `fit_rows` sampled rows a language, and only if it proves itself
on rows that it was not fitted to: otherwise the identity stays and the summary says so.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import load, save

from ccp_ray.artifact import open_artifact
from ccp_ray.config import StrictModel
from ccp_ray.errors import CollapseError, DataError, UsageError
from ccp_ray.ledger import FileRecord, put_bytes
from ccp_ray.moments import Moments
from ccp_ray.rotation import FloatArray, Rotation, learn_rotation
from ccp_ray.storage import Store

Step = Literal["shift", "scale", "rotate"]
STEPS: tuple[Step, ...] = get_args(Step)
FILE = "calibration.safetensors"
_TINY = 1e-12
_FLOAT32 = 1e-6  # a spread below this share of the mean is rounding


class CalibrationResources(StrictModel):
    """Changing these continues the same work."""

    cpus_per_task: float = Field(default=1, gt=0)


class CalibrationConfig(StrictModel):
    """How a calibration is fitted."""

    pivot: str | None = Field(default=None, description="language that others are rotated to; None: en, else the first")
    minimum_rows: int = Field(default=50, ge=2, description="a language with fewer is an error")
    scale_floor: float = Field(default=0.01, gt=0, lt=1, description="least deviation, as a share of the mean one")
    rotate: bool = True
    start: Literal["identity"] = "identity"
    refine: int = Field(default=10, ge=1, description="iterations of neighbours and Procrustes at most")
    csls_k: int = Field(default=10, ge=1, description="neighbours that measure how much of a hub a row is")
    damping: float = Field(default=1.0, gt=0, description="weight of the rotation so far against the pairs")
    minimum_gain: float = Field(default=0.1, ge=0, lt=1, description="share of neighbours' distance to gain")
    fit_rows: int = Field(default=5_000, ge=4, description="rows a language that fit and judge the rotation, half each")
    seed: int = Field(default=0, ge=0)
    resources: CalibrationResources = CalibrationResources()


class Calibration:
    """Fitted steps by language. `rotations` tells how each rotation was learned; empty once read from a file."""

    def __init__(self, pivot: str, languages: Mapping[str, tuple[FloatArray, FloatArray, FloatArray]]) -> None:
        self.pivot = pivot
        self.languages = sorted(languages)
        self._steps = dict(languages)
        self.rotations: dict[str, Rotation] = {}

    @property
    def dimensions(self) -> int:
        return len(self._steps[self.languages[0]][0])

    def apply(self, vectors_ND: NDArray[Any], lang: str, steps: Collection[Step] = STEPS) -> FloatArray:
        """Unit vectors [N, D] float32 after the given steps, always in the order shift, scale, rotate.

        Without steps only the length is set to one; a zero vector stays zero. Raises DataError for an unknown
        language or a wrong width, UsageError for an unknown step.
        """
        unknown = sorted(set(steps) - set(STEPS))
        if unknown:
            raise UsageError(f"{unknown[0]!r}: unknown calibration step; known: {', '.join(STEPS)}")
        mean_D, scale_D, rotation_DD = self.parameters(lang)
        out_ND = np.array(vectors_ND, dtype=np.float32)
        if out_ND.ndim != 2 or out_ND.shape[1] != len(mean_D):
            found = list(out_ND.shape)
            raise DataError(
                f"vectors {found} do not fit a calibration of {len(mean_D)} dimensions; fit it on their encoder"
            )
        if "shift" in steps:
            out_ND -= mean_D
        if "scale" in steps:
            out_ND /= scale_D
        out_ND = unit(out_ND)
        return unit(out_ND @ rotation_DD) if "rotate" in steps else out_ND

    def parameters(self, lang: str) -> tuple[FloatArray, FloatArray, FloatArray]:
        """mean [D], deviation [D] and rotation [D, D] of a language. Raises DataError for an unknown one."""
        if lang not in self._steps:
            raise DataError(f"the calibration has no language {lang!r}; it knows {', '.join(self.languages)}")
        return self._steps[lang]

    @classmethod
    def open(cls, uri: str) -> Calibration:
        """Read a finished calibration artifact. Raises UsageError where there is none, DataError if it is damaged."""
        artifact = open_artifact(uri, "calibration")
        where = artifact.store.uri(FILE)
        tensors = load(artifact.read(FILE))
        names = sorted({name.rpartition(".")[0] for name in tensors})
        try:
            steps = {n: (tensors[f"{n}.mean"], tensors[f"{n}.scale"], tensors[f"{n}.rotation"]) for n in names}
        except KeyError as error:
            raise DataError(f"{where}: holds no {error.args[0]}; calibrate again") from None
        return cls(str(artifact.summary["pivot"]), steps)

    def save(self, store: Store) -> FileRecord:
        """Write calibration.safetensors to the store."""
        names = ("mean", "scale", "rotation")
        tensors = {f"{lang}.{n}": v for lang in self.languages for n, v in zip(names, self._steps[lang], strict=True)}
        return put_bytes(store, FILE, save({name: np.ascontiguousarray(value) for name, value in tensors.items()}))

    def summary(self) -> dict[str, Any]:
        """Pivot, and per language whether the rotation was accepted and the criterion before and after."""
        languages = {
            lang: {"rotation": _verdict(self.rotations.get(lang), lang == self.pivot)}
            | (_numbers(self.rotations[lang]) if lang in self.rotations else {})
            for lang in self.languages
        }
        return {"pivot": self.pivot, "dimensions": self.dimensions, "languages": languages}


def fit(vectors_by_language: Mapping[str, NDArray[Any]], config: CalibrationConfig | None = None) -> Calibration:
    """Fit on vectors [N, D] of each language; nothing joins a row of one language to a row of another.

    The rotation is fitted on the first half of the sampled rows and judged on the second: rows in document order
    make that two sets of documents. Raises DataError for too few rows or vectors without variance.
    """
    config = config or CalibrationConfig()
    moments = {lang: Moments.of(rows_ND) for lang, rows_ND in vectors_by_language.items() if len(rows_ND)}
    counts = {lang: len(rows_ND) for lang, rows_ND in vectors_by_language.items()}
    check_languages(counts, config)
    samples = {
        lang: vectors_by_language[lang][sample_rows(lang, count, config)].astype(np.float32)
        for lang, count in counts.items()
        if config.rotate
    }
    return fit_from(moments, samples, config)


def fit_from(
    moments: Mapping[str, Moments], samples: Mapping[str, FloatArray], config: CalibrationConfig
) -> Calibration:
    """Fit from the moments of all rows and, for the rotation, sampled rows of each language."""
    pivot = choose_pivot(moments, config)
    width = len(moments[pivot].mean_D)
    identity_DD = np.eye(width, dtype=np.float32)
    steps = {lang: (m.mean_D.astype(np.float32), _scale(lang, m, config), identity_DD) for lang, m in moments.items()}
    plain = Calibration(pivot, steps)
    rotations: dict[str, Rotation] = {}
    if config.rotate:
        target_MD = plain.apply(samples[pivot], pivot, ("shift", "scale"))
        for lang in (lang for lang in plain.languages if lang != pivot):
            source_ND = plain.apply(samples[lang], lang, ("shift", "scale"))
            rotations[lang] = learn_rotation(
                source_ND,
                target_MD,
                iterations=config.refine,
                neighbours=config.csls_k,
                damping=config.damping,
                minimum_gain=config.minimum_gain,
            )
            steps[lang] = (*steps[lang][:2], rotations[lang].matrix_DD)
    calibration = Calibration(pivot, steps)
    calibration.rotations = rotations
    return calibration


def choose_pivot(languages: Collection[str], config: CalibrationConfig) -> str:
    """The configured pivot, else `en`, else the first. Raises UsageError for one that has no rows."""
    if config.pivot is None:
        return "en" if "en" in languages else min(languages)
    if config.pivot not in languages:
        raise UsageError(
            f"calibration pivot {config.pivot!r}: no such language; there is {', '.join(sorted(languages))}"
        )
    return config.pivot


def check_languages(rows: Mapping[str, int], config: CalibrationConfig) -> None:
    """Raises DataError where there is no language, or one with too few rows."""
    if not rows:
        raise DataError("no vectors to calibrate; embed some texts first")
    short = {lang: count for lang, count in sorted(rows.items()) if count < config.minimum_rows}
    if short:
        listed = ", ".join(f"{lang} ({count})" for lang, count in short.items())
        raise DataError(
            f"too few rows to calibrate {listed}: expected {config.minimum_rows} and more of each language; "
            "add text, leave the language out, or lower minimum_rows"
        )


def sample_rows(lang: str, count: int, config: CalibrationConfig) -> NDArray[np.int64]:
    """Numbers of the rows that fit the rotation, ascending; a function of (seed, language, count) alone."""
    if count <= config.fit_rows:
        return np.arange(count)
    rng = np.random.default_rng([config.seed, zlib.crc32(lang.encode())])
    return np.sort(rng.choice(count, size=config.fit_rows, replace=False, shuffle=False))


def unit(vectors_ND: FloatArray) -> FloatArray:
    """Rows at length one, float32; a zero vector stays zero."""
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.asarray(vectors_ND / np.maximum(length_N1, _TINY), dtype=np.float32)


def _scale(lang: str, moments: Moments, config: CalibrationConfig) -> FloatArray:
    """Deviation by dimension. The floor keeps a dead dimension from becoming noise at full strength."""
    deviation_D = moments.deviation_D
    overall = float(np.sqrt(np.mean(deviation_D**2)))
    size = float(np.sqrt(np.mean(moments.mean_D**2)))
    if not overall > _FLOAT32 * size:
        raise CollapseError(f"all {moments.rows} vectors of {lang!r} are equal: the encoder has collapsed")
    return np.maximum(deviation_D, config.scale_floor * overall).astype(np.float32)


def _verdict(rotation: Rotation | None, is_pivot: bool) -> str:
    if is_pivot:
        return "pivot"
    if rotation is None:
        return "off"
    return "accepted" if rotation.accepted else "rejected"


def _numbers(rotation: Rotation) -> dict[str, Any]:
    return {
        "criterion_before": round(rotation.before, 6),
        "criterion_after": round(rotation.after, 6),
        "iterations": rotation.iterations,
        "pairs": rotation.pairs,
    }
