"""Cross-lingual calibration: per language shift, scale and rotate, fitted from monolingual vectors alone.

For a vector x of language L, in this order:

    shift    x - mean_L
    scale    (x - mean_L) / scale_L              to the pivot's deviation by dimension, or to variance one
    rotate   unit((x - mean_L) / scale_L) R_L    R_L orthogonal, into the pivot's space
    always   divided by its length, so that an inner product is a cosine

The paper's post-processing step (arXiv 2206.03281). `calibration_fit` fits it; here it is applied, saved and read.
A step that was rejected is the identity: scale_L one, R_L the identity matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ccp_ray.artifact import open_artifact
from ccp_ray.errors import DataError, UsageError
from ccp_ray.ledger import FileRecord, put_bytes
from ccp_ray.rotation import FloatArray, Rotation
from ccp_ray.storage import Store

Step = Literal["shift", "scale", "rotate"]
STEPS: tuple[Step, ...] = get_args(Step)
FILE = "calibration.safetensors"
_TINY = 1e-12


class Judgement(NamedTuple):
    """What became of a language's steps; `shift` and `scaled` are the criterion after each, `rotation` has its own.

    Of held-out rows, with steps that were fitted without them (`calibration_fit`). "unit" is the scale that no
    criterion can judge; a rotation of None was not asked for.
    """

    scale: Literal["accepted", "rejected", "unit"]
    shift: float
    scaled: float
    rotation: Rotation | None

    @property
    def result(self) -> float:
        """The criterion after the steps that were kept: at least `shift`, unless the scale is "unit"."""
        if self.rotation is not None and self.rotation.accepted:
            return self.rotation.after
        return self.shift if self.scale == "rejected" else self.scaled


class Calibration:
    """Fitted steps by language. `judgements` tells how (not the pivot's); empty once read from a file."""

    def __init__(self, pivot: str, languages: Mapping[str, tuple[FloatArray, FloatArray, FloatArray]]) -> None:
        self.pivot = pivot
        self.languages = sorted(languages)
        self._steps = dict(languages)
        self.judgements: dict[str, Judgement] = {}

    @property
    def dimensions(self) -> int:
        return len(self._steps[self.languages[0]][0])

    def apply_each(self, vectors_ND: NDArray[Any], languages: Sequence[str]) -> FloatArray:
        """`apply` with all steps, each row in its own language [N]. Raises DataError for an unknown language."""
        languages_N = np.array(languages, dtype=object)
        out_ND = np.empty(np.shape(vectors_ND), dtype=np.float32)
        for lang in sorted(set(languages)):
            rows_N = languages_N == lang
            out_ND[rows_N] = self.apply(vectors_ND[rows_N], lang)
        return out_ND

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
        """Pivot, and per language whether scale and rotation were accepted, with the criterion after each step."""
        languages = {lang: _told(self.judgements.get(lang)) for lang in self.languages}
        return {"pivot": self.pivot, "dimensions": self.dimensions, "languages": languages}


def unit(vectors_ND: FloatArray) -> FloatArray:
    """Rows at length one, float32; a zero vector stays zero."""
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.asarray(vectors_ND / np.maximum(length_N1, _TINY), dtype=np.float32)


def _told(judgement: Judgement | None) -> dict[str, Any]:
    """A language's part of the summary; of the pivot, which nothing is judged of, only that it is.

    `criterion_rotate` is the best that any start reached, accepted or not; `criterion_result` that of what was kept.
    """
    if judgement is None:
        return {"scale": "pivot", "rotation": "pivot"}
    rotation = judgement.rotation
    told: dict[str, Any] = {
        "scale": judgement.scale,
        "rotation": "off" if rotation is None else "accepted" if rotation.accepted else "rejected",
        "criterion_shift": round(judgement.shift, 6),
        "criterion_scale": round(judgement.scaled, 6),
        "criterion_result": round(judgement.result, 6),
    }
    if rotation is None:
        return told
    return told | {
        "criterion_rotate": round(rotation.after, 6),
        "start": rotation.start,
        "starts": {name: round(criterion, 6) for name, criterion in rotation.tried.items()},
        "iterations": rotation.iterations,
        "pairs": rotation.pairs,
    }
