"""ccp-ray report EVALUATION [EVALUATION ...] --output URI: evaluations side by side and beside published values.

    report.html, report.md, report.tex, report.json

Exit codes: 0; 2 for wrong usage, a wrong --check file or an unknown published row; 1 where a run falls short of what
--check expects or has not all of it (each such value is named, and the report is written nevertheless), or where an
evaluation is damaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer

from ccp_ray.artifact import Artifact, Request, digest_json, open_artifact, open_output
from ccp_ray.errors import UsageError
from ccp_ray.progress import say
from ccp_ray.storage import split_uri
from eval.evaluation_blocks import result_sentence
from eval.evaluation_model import EvaluationReport, Run
from eval.evaluation_page import write_evaluation_report
from eval.evaluation_read import default_names, read_runs, values_of
from eval.expected import Expected, Finding, ShortfallError, check, load_expected, write_expected
from eval.published import Published, load_published
from eval.report_curves import EVALUATIONS, curves_of
from eval.report_model import Curve
from jobs.command import AsJson, Output, main, reported, show_artifact

Evaluations = Annotated[list[str], typer.Argument(metavar="EVALUATION...", help="Artifacts of `evaluate`.")]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", help="Of each evaluation, in order; evaluations under one name are one run."),
]
Against = Annotated[
    list[str] | None,
    typer.Option(help="Published row to take the difference to; of several the first that a table has. Else CCP."),
]
Check = Annotated[str | None, typer.Option("--check", help="YAML of expected values; exit code 1 where one is missed.")]
Write = Annotated[str | None, typer.Option("--write-expected", help="Write what the run has as a file for --check.")]
Tolerance = Annotated[float, typer.Option(min=0, max=1, help="Of --write-expected, a fraction.")]
Curves = Annotated[
    list[str] | None, typer.Option("--curve", help=f"Artifact with {EVALUATIONS}: a training run's. Repeatable.")
]
Title = Annotated[str, typer.Option(help="Of the report.")]
_CCP = "CCP"


def report(
    evaluations: Evaluations,
    output: Output,
    name: Names = None,
    against: Against = None,
    check: Check = None,
    write_expected: Write = None,
    tolerance: Tolerance = 0.005,
    curve: Curves = None,
    title: Title = "Evaluation",
    as_json: AsJson = False,
) -> None:
    """Put evaluations side by side and beside published values: HTML, Markdown, LaTeX and JSON."""
    with reported():
        published = load_published()
        published.require(against or [])
        expected = load_expected(check) if check else None
        names = run_names(evaluations, name)
        if write_expected is not None and len(set(names)) != 1:
            raise UsageError(f"--write-expected: {len(set(names))} runs; give the evaluations of one")
        made = make_report(evaluations, names, output, title, published, against or [_CCP], expected, curve or [])
        if write_expected is not None:
            _write(made.content.runs[0], write_expected, tolerance)
        show_artifact(made.artifact, as_json)
        _judge(made)


class Made(NamedTuple):
    """A finished report, and what it was made from."""

    artifact: Artifact
    content: EvaluationReport


def make_report(
    uris: Sequence[str],
    names: Sequence[str],
    output: str,
    title: str,
    published: Published,
    against: Sequence[str],
    expected: Expected | None = None,
    curves: Sequence[str] = (),
) -> Made:
    """Write the report of these evaluations under these names, or return it if it is there.

    Raises UsageError for what is no evaluation and for a benchmark that stands twice in a run, DataError for damage.
    """
    opened = [open_artifact(uri, "evaluation") for uri in uris]
    trained = [open_artifact(uri) for uri in curves]
    runs = read_runs(opened, names)
    findings = [found for run in runs for found in _checked(expected, run)] if expected else []
    content = EvaluationReport(
        title=title,
        runs=runs,
        published=published.tables,
        against=list(against),
        findings=findings,
        curves=[curve for run, of in zip(trained, _labels(curves), strict=True) for curve in _curves(run, of)],
    )
    inputs = [artifact.ref(f"evaluation.{number}") for number, artifact in enumerate(opened)]
    inputs += [artifact.ref(f"curve.{number}") for number, artifact in enumerate(trained)]
    asked: dict[str, Any] = {"title": title, "names": list(names), "against": list(against)}
    asked |= {"published": digest_json(published.model_dump(mode="json"))}
    asked |= {"expected": expected.model_dump(mode="json")} if expected else {}
    target = open_output(output, Request(kind="evaluation-report", config=asked, inputs=inputs))
    if isinstance(target, Artifact):
        return Made(target, content)
    # Not in the fingerprint: they say where the evaluations lie and when they were made.
    files = [found.model_copy(update={"measured": True}) for found in write_evaluation_report(content, target.store)]
    summary = {
        "result": result_sentence(content),
        "runs": [run.name for run in runs],
        "missed": [str(finding) for finding in findings if finding.failed()],
        "report": target.store.uri("report.html"),
    }
    return Made(target.finish(files, summary), content)


def run_names(uris: Sequence[str], names: Sequence[str] | None = None) -> list[str]:
    """The run of each evaluation: as given, else the last parts of its URI. Raises UsageError where they do not fit."""
    if not names:
        return default_names(uris)
    if len(names) != len(uris):
        raise UsageError(f"--name: {len(names)} for {len(uris)} evaluations; give one for each, in their order")
    empty = next((name for name in names if not name.strip()), None)
    if empty is not None:
        raise UsageError("--name: empty; give each evaluation a name")
    return list(names)


def _checked(expected: Expected, run: Run) -> list[Finding]:
    incomplete = {name: scored.incomplete for name, scored in run.benchmarks.items()}
    return check(expected, run.name, values_of(run), incomplete)


def _labels(uris: Sequence[str]) -> list[str]:
    """What tells curves of several training runs apart; nothing for one."""
    return default_names(uris) if len(uris) > 1 else [""] * len(uris)


def _curves(artifact: Artifact, of: str) -> list[Curve]:
    found = curves_of(artifact, of)
    if not found:
        raise UsageError(
            f"--curve {artifact.uri}: this {artifact.kind} artifact has no {EVALUATIONS}; give one of `curve`"
        )
    return found


def _write(run: Run, uri: str, tolerance: float) -> None:
    store, key = split_uri(uri)
    store.write(key, write_expected(values_of(run), tolerance).encode())
    say(f"report: expected values written to {uri}")


def _judge(made: Made) -> None:
    """Names what is better and what is missed. Raises ShortfallError where something is missed."""
    findings = made.content.findings
    for finding in findings:
        if finding.verdict != "met":
            say(f"report: {finding}")
    missed, place = sum(finding.failed() for finding in findings), made.artifact.summary["report"]
    if missed:
        raise ShortfallError(f"{missed} of {len(findings)} expected values are not reached (named above); see {place}")


if __name__ == "__main__":
    main(report)
