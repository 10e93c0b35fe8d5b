"""ccp-ray calibrate EMBEDDINGS --output URI: embeddings in, calibration (shift, scale, rotate) out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ccp_ray.artifact import Artifact, open_artifact
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.calibration_job import calibrate as fit_calibration
from ccp_ray.config import load_config
from jobs.columns import columns
from jobs.command import (
    Address,
    AsJson,
    ConfigFiles,
    Output,
    Overrides,
    PlanOnly,
    headline,
    main,
    print_json,
    reported,
    run,
    show_plan,
)
from jobs.plan import Plan, duration, megabytes


def calibrate(
    embeddings: str,
    output: Output,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Fit the calibration of each language, without translations."""
    with reported():
        settings = load_config(CalibrationConfig, config or (), overrides or ())
    if plan:
        show_plan(lambda: plan_calibrate(embeddings, settings), as_json)
    else:
        run(
            lambda: fit_calibration(embeddings, output, settings),
            output=output,
            address=address,
            as_json=as_json,
            show=show_calibration,
        )


def show_calibration(artifact: Artifact, as_json: bool) -> None:
    """What became of each language's steps, as a table."""
    if as_json:
        print_json(headline(artifact))
        return
    print(f"{artifact.kind} {artifact.fingerprint[:12]} at {artifact.uri}")
    for line in calibration_lines(artifact.summary, artifact.config):
        print(f"  {line}")


def calibration_lines(summary: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """The summary of a calibration artifact, for people: the criterion after each step and its verdict."""
    pivot = summary["pivot"]
    yield f"pivot {pivot}, {summary['dimensions']:,} dimensions, {summary['rows']:,} rows"
    judged = {lang: told for lang, told in summary["languages"].items() if lang != pivot}
    if not judged:
        yield "there is no other language to bring to the pivot"
        return
    yield "mean cosine of CSLS neighbours to the pivot, on rows that no step was fitted to (higher is better):"
    yield from columns([("", "shift", "+ scale", "", "+ rotate", "", "result"), *map(_row, judged.items())])
    scale, rotation = (f"{100 * config[name]:g} %" for name in ("minimum_scale_gain", "minimum_gain"))
    yield (
        f"kept is what takes enough off the distance (1 - cosine): a rotation {rotation}; scale {scale}, "
        "and with its rotation no less than without it"
    )
    for step in ("scale", "rotation"):
        rejected = [lang for lang, told in judged.items() if told[step] == "rejected"]
        if rejected:
            yield f"{step} rejected, so not applied: {', '.join(rejected)}"


def _row(item: tuple[str, Mapping[str, Any]]) -> tuple[str, ...]:
    lang, told = item
    scale = {"unit": "not judged"}.get(told["scale"], told["scale"])
    figures = (_figure(told["criterion_shift"]), _figure(told["criterion_scale"]), scale)
    result = _figure(told["criterion_result"])
    if told["rotation"] == "off":
        return (lang, *figures, "", "off", result)
    starts = ", ".join(f"{name} {_figure(value)}" for name, value in told["starts"].items())
    return (lang, *figures, _figure(told["criterion_rotate"]), f"{told['rotation']} (from {starts})", result)


def _figure(value: float) -> str:
    return f"{value:.4f}"


def plan_calibrate(embeddings: str, config: CalibrationConfig) -> Plan:
    """The plan of fitting on these embeddings."""
    facts = open_artifact(embeddings, "embeddings").summary
    languages, width = facts["languages"], int(facts["dimensions"])
    sampled = sum(min(rows, config.fit_rows) for rows in languages.values())
    seconds = _expected(list(languages.values()), width, config)
    about = "about" if config.start == "identity" else "at most about"
    lines = [
        ("languages", ", ".join(f"{lang} {rows:,}" for lang, rows in languages.items())),
        ("rows that fit and judge", f"{sampled:,}"),
        ("memory", megabytes(4.0 * width * sampled + 4.0 * config.fit_rows * 1024)),
        ("time", f"reading the vectors, and {about} {duration(seconds)} for rotations"),
        ("output bytes", megabytes(4 * len(languages) * width * (width + 2))),
    ]
    return Plan(stage="calibrate", lines=lines, figures={"rows": facts["rows"], "sampled": sampled, "seconds": seconds})


def _expected(rows: list[int], width: int, config: CalibrationConfig) -> float:
    """Seconds for the rotations; with the adversarial start as many as it takes if no run is good enough."""
    if not config.rotate:
        return 0.0
    # Measured: 1 to 3 s a language and start at 4,000 rows of 384 (ccp_ray/rotation.py), quadratic in the rows.
    starts = 2 if config.start == "best" else 1
    seconds = starts * sum(3.0 * (min(count, config.fit_rows) / 4000) ** 2 * width / 384 for count in rows)
    if config.start != "identity":
        # Measured: 2 ms an update at 32 dimensions, 9 ms at 384 (ccp_ray/adversarial.py).
        game = config.adversarial
        seconds += (len(rows) - 1) * game.restarts * game.epochs * game.steps * (0.0014 + 0.00002 * width)
    return seconds


if __name__ == "__main__":
    main(calibrate)
