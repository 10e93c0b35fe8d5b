"""ccp-ray calibrate EMBEDDINGS --output URI: embeddings in, calibration (shift, scale, rotate) out."""

from __future__ import annotations

from ccp_ray.artifact import open_artifact
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.calibration_job import calibrate as fit_calibration
from ccp_ray.config import load_config
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
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
        run(lambda: fit_calibration(embeddings, output, settings), address=address, as_json=as_json)


def plan_calibrate(embeddings: str, config: CalibrationConfig) -> Plan:
    """The plan of fitting on these embeddings."""
    facts = open_artifact(embeddings, "embeddings").summary
    languages, width = facts["languages"], int(facts["dimensions"])
    sampled = sum(min(rows, config.fit_rows) for rows in languages.values())
    # Measured: 1 to 3 s a language at 4,000 rows of 384 (ccp_ray/rotation.py), quadratic in the rows.
    each = (min(rows, config.fit_rows) for rows in languages.values())
    seconds = sum(3.0 * (rows / 4000) ** 2 * width / 384 for rows in each) if config.rotate else 0.0
    lines = [
        ("languages", ", ".join(f"{lang} {rows:,}" for lang, rows in languages.items())),
        ("rows for rotations", f"{sampled:,}"),
        ("memory", megabytes(4.0 * width * sampled + 4.0 * config.fit_rows * 1024)),
        ("time", f"reading the vectors, and about {duration(seconds)} for rotations"),
        ("output bytes", megabytes(4 * len(languages) * width * (width + 2))),
    ]
    return Plan(stage="calibrate", lines=lines, figures={"rows": facts["rows"], "sampled": sampled, "seconds": seconds})


if __name__ == "__main__":
    main(calibrate)
