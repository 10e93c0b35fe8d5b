"""Expected values: which verdict, what is said of it, and which files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.errors import UsageError
from eval.expected import Expected, check, load_expected, write_expected

VALUES = {
    "tatoeba": {
        "raw": {"macro.mean": 0.31, "macro.forward": 0.30, "averages.36.mean": 0.4, "pairs.fr-en.mean": 0.5},
        "shift": {"macro.mean": 0.35, "margin.macro.mean": 0.37},
    },
    "xquad_r": {"raw": {"macro.map": 0.2, "macro.same_language@10": 0.5, "languages.ar.map": 0.1}},
}


def expect(name: str, value: float, tolerance: float, benchmark: str = "tatoeba", variant: str = "raw") -> Expected:
    return Expected.model_validate(
        {"benchmarks": {benchmark: {variant: {name: {"value": value, "tolerance": tolerance}}}}}
    )


@pytest.mark.parametrize(
    ("value", "tolerance", "verdict"),
    [(0.31, 0.0, "met"), (0.32, 0.01, "met"), (0.30, 0.01, "met"), (0.33, 0.01, "short"), (0.29, 0.01, "better")],
)
def test_verdicts(value: float, tolerance: float, verdict: str):
    (finding,) = check(expect("macro.mean", value, tolerance), "run", VALUES)
    assert finding.verdict == verdict
    assert finding.found == 0.31
    assert finding.failed() == (verdict == "short")


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_exactly_what_lies_below_the_tolerance_falls_short(found: float, value: float, tolerance: float):
    (finding,) = check(expect("macro.mean", value, tolerance), "run", {"tatoeba": {"raw": {"macro.mean": found}}})
    distance = found - value
    if abs(abs(distance) - tolerance) < 1e-6:  # at the edge the verdict is either
        return
    assert finding.failed() == (distance < -tolerance)
    assert (finding.verdict == "better") == (distance > tolerance)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (("tatoeba", "raw", "macro.maen"), "not in the run (expected 0.5000 ± 0.1000); nearest: macro.mean"),
        (("tatoeba", "rotate", "macro.mean"), "no 'rotate'; the run has raw, shift"),
        (("mrtydi", "raw", "macro.mrr@100"), "no 'mrtydi'; the run has tatoeba, xquad_r"),
    ],
)
def test_what_the_run_has_not_is_a_failure_and_says_what_is_there(place: tuple[str, str, str], words: str):
    benchmark, variant, name = place
    (finding,) = check(expect(name, 0.5, 0.1, benchmark, variant), "run", VALUES)
    assert finding.verdict == "missing"
    assert finding.failed()
    assert str(finding).startswith(f"run: {benchmark} {variant} {name}: ")
    assert words in str(finding)


@pytest.mark.parametrize(
    ("name", "said"), [("macro.mean", True), ("averages.36.mean", True), ("pairs.fr-en.mean", False)]
)
def test_an_incomplete_average_is_never_compared_in_silence(name: str, said: bool):
    lacking = {"tatoeba": {"macro": "lacks te", "36": "lacks te"}}
    (finding,) = check(expect(name, 0.3, 0.5), "run", VALUES, lacking)
    assert ("lacks te" in str(finding)) == said


def test_a_written_file_is_met_by_the_run_and_holds_averages_of_what_is_better_high(tmp_path: Path):
    file = tmp_path / "expected.yaml"
    file.write_text(write_expected(VALUES, 0.01))
    expected = load_expected(str(file))
    assert set(expected.benchmarks["tatoeba"]["raw"]) == {"macro.mean", "averages.36.mean"}
    assert set(expected.benchmarks["tatoeba"]["shift"]) == {"macro.mean", "margin.macro.mean"}
    assert set(expected.benchmarks["xquad_r"]["raw"]) == {"macro.map"}
    assert {finding.verdict for finding in check(expected, "run", VALUES)} == {"met"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expects nothing"),
        ("tatoeba: {}", "expects nothing"),
        ("tatoeba: {raw: {macro.mean: 0.3}}", "tatoeba.raw.macro.mean"),
        ("tatoeba: {raw: {macro.mean: {value: 0.3}}}", "tatoeba.raw.macro.mean.tolerance: required"),
        ("tatoeba: {raw: {macro.mean: {value: 31, tolerance: 1}}}", "less than or equal to 1"),
        ("tatoeba: {raw: {macro.mean: {value: 0.3, tolerance: -0.1}}}", "greater than or equal to 0"),
        ("tatoeba: {raw: {macro.mean: {value: .nan, tolerance: 0.1}}}", "finite"),
        ("tatoeba: {raw: {macro.mean: {value: 0.3, tolerence: 0.1}}}", "did you mean 'tolerance'"),
        ("- a", "expected keys and values"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str, words: str, tmp_path: Path):
    file = tmp_path / "expected.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_expected(str(file))
    assert str(file) in str(caught.value)
    assert words in str(caught.value)


def test_no_file(tmp_path: Path):
    with pytest.raises(UsageError, match="no such file"):
        load_expected(str(tmp_path / "nothing.yaml"))
