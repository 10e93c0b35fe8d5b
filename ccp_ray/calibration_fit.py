"""Fit a calibration: moments of all rows, then a judge for every step that could do harm.

Means and deviations come from all rows, streaming, in float64. Scale and rotation are kept only where they prove
themselves: `fit_rows` sampled rows a language are halved, the second half judges, and what it judges was fitted
without it (its rows are taken out of the moments again). The criterion is that of `rotation`: the mean cosine of CSLS
nearest neighbours across the two languages. A step that does not take its minimum gain off the distance
(1 - criterion) is the identity, so by this criterion the result is never worse than shift alone.

What the criterion can say of scale. A cosine depends on the space's spread: division by the deviations flattens the
spectrum, and random neighbours come to lie farther apart though nothing was misaligned. So `scale: pivot` leaves the
pivot's space as it is and brings each language to the pivot's deviations, deviation_L / deviation_pivot; both sides of
the comparison then have one spread, and languages are judged each by itself. The paper's scale (`scale: unit`, every
language to variance one) is this one and a common division by the pivot's deviations, which no language's
criterion can judge; it is there to reproduce the paper, unjudged, and the law above does not hold for it.

Scale can still gain for the wrong reason: deviations by dimension mean nothing between spaces that are turned against
each other, but their division gives both one spectrum. So a scale that gains by itself must also lead to the higher
criterion once a rotation was found with it and without it. (Two samples of one distribution, one turned by a random map
of 16 dimensions: scale took the criterion from 0.594 to 0.768, and no rotation of that space came above 0.796; one of
the shifted space reaches 0.98.) The adversarial start is searched for once, in the shifted space.

Languages are fitted beside each other on threads (`threads`), 60 MB each at 5,000 rows of 384 dimensions. The cosines
of two languages' halves grow with the square of the rows (25 MB of these), so there are no more threads than keep them
below a GiB in all. With an adversarial start it is one by one, as torch's random numbers are the process's.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccp_ray.calibration import Calibration, Judgement, unit
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.errors import CollapseError, DataError, TooFewRowsError, UsageError
from ccp_ray.moments import Moments
from ccp_ray.rotation import FloatArray, Rotation, Sides, improves, learn_rotation, mutual_neighbours
from ccp_ray.threads import map_threads

_FLOAT32 = 1e-6  # a spread below this share of the mean is rounding
_TINY = 1e-30
_COSINES = 1 << 30  # bytes of float32, all threads'


def fit(vectors_by_language: Mapping[str, NDArray[Any]], config: CalibrationConfig | None = None) -> Calibration:
    """Fit on vectors [N, D] of each language; nothing joins a row of one language to a row of another.

    Scale and rotation are fitted on the first half of the sampled rows and judged on the second: rows in document
    order make that two sets of documents. Raises DataError for too few rows or vectors without variance.
    """
    config = config or CalibrationConfig()
    counts = {lang: len(rows_ND) for lang, rows_ND in vectors_by_language.items()}
    check_languages(counts, config)
    moments = {lang: Moments.of(rows_ND) for lang, rows_ND in vectors_by_language.items()}
    samples = {
        lang: vectors_by_language[lang][sample_rows(lang, count, config)].astype(np.float32)
        for lang, count in counts.items()
    }
    return fit_from(moments, samples, config)


def fit_from(
    moments: Mapping[str, Moments], samples: Mapping[str, FloatArray], config: CalibrationConfig
) -> Calibration:
    """Fit from the moments of all rows and some of these rows, at least four of each language."""
    pivot = choose_pivot(moments, config)
    for lang, all_rows in moments.items():
        _check_spread(lang, all_rows)
    target = _Pivot.of(_halve(moments[pivot], samples[pivot], config), config)
    others = [lang for lang in sorted(moments) if lang != pivot]

    def judge(lang: str) -> Judgement:
        return _judge(lang, _halve(moments[lang], samples[lang], config), target, config)

    one_by_one = config.rotate and config.start != "identity"
    half = -(-max(len(rows_ND) for rows_ND in samples.values()) // 2)
    found = map(judge, others) if one_by_one else map_threads(judge, others, max(1, _COSINES // (4 * half * half)))
    judged = dict(zip(others, found, strict=True))
    final = {lang: _deviation(all_rows, config) for lang, all_rows in moments.items()}
    identity_DD = np.eye(len(final[pivot]), dtype=np.float32)
    steps = {}
    for lang, all_rows in moments.items():
        judgement = judged.get(lang)
        scale_D = _divisor(final[lang], final[pivot], config)
        if judgement and judgement.scale == "rejected":
            scale_D = np.ones_like(scale_D)
        rotation_DD = judgement.rotation.matrix_DD if judgement and judgement.rotation else identity_DD
        steps[lang] = (all_rows.mean_D.astype(np.float32), scale_D, rotation_DD)
    calibration = Calibration(pivot, steps)
    calibration.judgements = judged
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
    """Raises DataError where there is no language, TooFewRowsError for one with too few rows."""
    if not rows:
        raise DataError("no vectors to calibrate; embed some texts first")
    short = {lang: count for lang, count in sorted(rows.items()) if count < config.minimum_rows}
    if short:
        listed = ", ".join(f"{lang} ({count})" for lang, count in short.items())
        raise TooFewRowsError(
            f"too few rows to calibrate {listed}: expected {config.minimum_rows} and more of each language; "
            "add text, leave the language out, or lower minimum_rows"
        )


def sample_rows(lang: str, count: int, config: CalibrationConfig) -> NDArray[np.int64]:
    """Numbers of the rows that fit and judge, ascending; a function of (seed, language, count) alone."""
    if count <= config.fit_rows:
        return np.arange(count)
    rng = np.random.default_rng([config.seed, zlib.crc32(lang.encode())])
    return np.sort(rng.choice(count, size=config.fit_rows, replace=False, shuffle=False))


_Halves = tuple[FloatArray, FloatArray]
"""The rows that fit and those that judge, after the same steps, of unit length."""


class _Sampled(NamedTuple):
    """A language's sampled rows in halves, and the moments of all its rows but those that judge."""

    fit_nD: FloatArray
    judge_nD: FloatArray
    mean_D: FloatArray
    deviation_D: FloatArray

    def placed(self, scale_D: FloatArray) -> _Halves:
        """After shift and scale."""
        fit_nD, judge_nD = (unit((rows_nD - self.mean_D) / scale_D) for rows_nD in (self.fit_nD, self.judge_nD))
        return fit_nD, judge_nD


def _halve(moments: Moments, sample_ND: FloatArray, config: CalibrationConfig) -> _Sampled:
    fit_nD, judge_nD = np.array_split(sample_ND, 2)
    seen = moments.without(Moments.of(judge_nD))
    return _Sampled(fit_nD, judge_nD, seen.mean_D.astype(np.float32), _deviation(seen, config))


class _Pivot(NamedTuple):
    """The pivot's rows after shift alone and after shift and scale: the same for every language."""

    deviation_D: FloatArray
    shifted: _Halves
    scaled: _Halves

    @classmethod
    def of(cls, rows: _Sampled, config: CalibrationConfig) -> _Pivot:
        shifted = rows.placed(np.ones_like(rows.deviation_D))
        return cls(rows.deviation_D, shifted, rows.placed(rows.deviation_D) if config.scale == "unit" else shifted)


class _Space(NamedTuple):
    """Both languages after the same steps, in the halves that fit and judge, with the rotation that was found."""

    fitted: Sides
    judged: Sides
    criterion: float
    rotation: Rotation | None = None

    @property
    def best(self) -> float:
        return self.rotation.after if self.rotation and self.rotation.accepted else self.criterion


def _judge(lang: str, source: _Sampled, pivot: _Pivot, config: CalibrationConfig) -> Judgement:
    """Shift alone against shift and scale, each with its rotation; the higher criterion wins."""
    plain = _space(source.placed(np.ones_like(source.deviation_D)), pivot.shifted, config)
    scaled = _space(source.placed(_divisor(source.deviation_D, pivot.deviation_D, config)), pivot.scaled, config)
    before, after = plain.criterion, scaled.criterion
    if config.scale == "unit":
        scaled = _rotated(scaled, _starts(lang, scaled, config), config)
        return Judgement("unit", before, after, scaled.rotation)
    starts = _starts(lang, plain, config)
    plain = _rotated(plain, starts, config)
    if improves(before, after, config.minimum_scale_gain):
        scaled = _rotated(scaled, starts, config)
        if scaled.best >= plain.best:
            return Judgement("accepted", before, after, scaled.rotation)
    return Judgement("rejected", before, after, plain.rotation)


def _space(source: _Halves, pivot: _Halves, config: CalibrationConfig) -> _Space:
    judged = Sides(source[1], pivot[1])
    return _Space(Sides(source[0], pivot[0]), judged, mutual_neighbours(*judged, config.csls_k).criterion)


def _starts(lang: str, space: _Space, config: CalibrationConfig) -> dict[str, FloatArray]:
    """Where rotations begin; none where they are switched off."""
    starts: dict[str, FloatArray] = {}
    if not config.rotate:
        return starts
    if config.start != "adversarial":
        starts["identity"] = np.eye(space.fitted.source_ND.shape[1], dtype=np.float32)
    if config.start != "identity":
        from ccp_ray.adversarial import adversarial_start  # torch, which nothing else here needs

        seed = zlib.crc32(f"{config.seed}/{lang}".encode())
        found = adversarial_start(space.fitted, space.judged, config.adversarial, config.csls_k, seed)
        starts["adversarial"] = found.matrix_DD
    return starts


def _rotated(space: _Space, starts: Mapping[str, FloatArray], config: CalibrationConfig) -> _Space:
    if not starts:
        return space
    rotation = learn_rotation(
        space.fitted,
        space.judged,
        starts,
        before=space.criterion,
        iterations=config.refine,
        neighbours=config.csls_k,
        damping=config.damping,
        minimum_gain=config.minimum_gain,
    )
    return space._replace(rotation=rotation)


def _divisor(deviation_D: FloatArray, pivot_D: FloatArray, config: CalibrationConfig) -> FloatArray:
    """What to divide a language by, from its deviations and the pivot's; the pivot itself, too."""
    return deviation_D if config.scale == "unit" else deviation_D / pivot_D


def _deviation(moments: Moments, config: CalibrationConfig) -> FloatArray:
    """Deviation by dimension. The floor keeps a dead dimension from becoming noise at full strength."""
    deviation_D = moments.deviation_D
    floor = max(config.scale_floor * float(np.sqrt(np.mean(deviation_D**2))), _TINY)
    return np.maximum(deviation_D, floor).astype(np.float32)


def _check_spread(lang: str, moments: Moments) -> None:
    overall = float(np.sqrt(np.mean(moments.deviation_D**2)))
    size = float(np.sqrt(np.mean(moments.mean_D**2)))
    if not overall > _FLOAT32 * size:
        raise CollapseError(f"all {moments.rows} vectors of {lang!r} are equal: the encoder has collapsed")
