"""What `ccp-ray calibrate` prints: every verdict is there to be read."""

from __future__ import annotations

import numpy as np
from synthetic_spaces import sentences, turn

from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.calibration_fit import fit
from ccp_ray.config import semantic
from jobs.calibrate import calibration_lines
from jobs.pipeline_report import kept_steps

ROWS = {"en": sentences(1000, 8, 1), "de": sentences(1000, 8, 2), "xx": sentences(1000, 8, 3) @ turn(8, 45).T}


def lines(rows: dict[str, np.ndarray], config: CalibrationConfig) -> list[str]:
    summary = fit(rows, config).summary() | {"rows": sum(map(len, rows.values()))}
    return list(calibration_lines(summary, semantic(config)))


def test_a_line_a_language_with_the_criterion_and_the_verdict_of_each_step() -> None:
    shown = lines(ROWS, CalibrationConfig())
    told = fit(ROWS).summary()["languages"]
    assert shown[0] == "pivot en, 8 dimensions, 3,000 rows"
    assert shown[2].split() == ["shift", "+", "scale", "+", "rotate", "result"]
    german, other = (line.split() for line in shown[3:5])
    figure = {name: f"{value:.4f}" for name, value in told["xx"].items() if name.startswith("criterion")}
    assert other == [
        *("xx", figure["criterion_shift"], figure["criterion_scale"], "rejected", figure["criterion_rotate"]),
        *("accepted", "(from", "identity", f"{figure['criterion_rotate']})", figure["criterion_result"]),
    ]
    assert german[0] == "de"
    assert german[-1] == german[1] == f"{told['de']['criterion_shift']:.4f}"
    assert shown[-2:] == ["scale rejected, so not applied: de, xx", "rotation rejected, so not applied: de"]


def test_what_was_not_asked_for_is_not_called_rejected() -> None:
    shown = "\n".join(lines(ROWS, CalibrationConfig(rotate=False, scale="unit")))
    assert "rejected" not in shown
    assert "not judged" in shown
    assert " off " in shown


def test_a_single_language_has_nothing_to_judge() -> None:
    assert lines({"en": ROWS["en"]}, CalibrationConfig())[1] == "there is no other language to bring to the pivot"


def test_the_reports_sentence_names_every_language_once_a_step() -> None:
    assert kept_steps(fit(ROWS).summary()) == (
        "Calibration on the corpus, pivot en. Scale rejected: de, xx. Rotation accepted: xx; rejected: de."
    )
