"""`--run`: score ranked lists that another system, or an earlier evaluation, has left in files.

    LANG.trec, NAME.LANG.trec   a TREC run of one language's questions
    NAME.trec                   a TREC run of all questions, where no id stands for two languages' questions
    NAME.json                   predictions in XOR-Retrieve's official format, with the passages' texts
    FOLDER                      LANG.trec for each language (as `runs/BENCHMARK/VARIANT` of an evaluation)

The result is an evaluation like any other, with the one variant "run". Nothing is embedded, and of the benchmark's data
only questions and what is expected are read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence

from ccp_ray.artifact import Artifact, InputRef, Request, digest_json, open_output
from ccp_ray.errors import DataError, UsageError
from ccp_ray.ledger import put_bytes
from ccp_ray.progress import say
from ccp_ray.storage import absolute_uri, split_uri
from eval.evaluate import RESULTS, EvaluateConfig, load_any, results_json, settings_of
from eval.ranked import Hit, RankedBenchmark, Run
from eval.run_reader import read_predictions, read_run, read_runs
from eval.scores import ranked_entry, summary_of

VARIANT = "run"
_PREDICTIONS = ".json"
Lists = dict[str, dict[str, Sequence[Hit]]]


def score_runs(
    runs: Sequence[str],
    benchmarks: Sequence[str],
    data: str | Mapping[str, str],
    output: str,
    config: EvaluateConfig | None = None,
) -> Artifact:
    """Score run files against one benchmark that ranks a collection. Returns the artifact (kind "evaluation").

    Raises UsageError for another kind of benchmark, or several; DataError for files that cannot be read as runs, a
    question that two files answer, and runs that answer none of the benchmark's questions.
    """
    config = config or EvaluateConfig()
    loaded = load_any(benchmarks, data, config, collections=False)
    ranked = loaded.ranked()
    if len(loaded.benchmarks) != 1 or not ranked:
        raise UsageError(f"--run scores one benchmark with a collection at a time, not {', '.join(benchmarks)}")
    name, benchmark = next(iter(ranked.items()))
    started = time.monotonic()
    run = read_all(runs, benchmark)
    inputs = [
        loaded.reference(name, {"key": benchmark.key()}),
        InputRef(role="runs", uri=absolute_uri(runs[0]), fingerprint=_digest(run)),
    ]
    _tell_what_is_left_out(run, benchmark)
    settings = settings_of(config, loaded, encoded=False)
    target = open_output(output, Request(kind="evaluation", config=settings, inputs=inputs))
    if isinstance(target, Artifact):
        return target
    with target.unless_refused():
        results = {name: ranked_entry(benchmark, False, {VARIANT: benchmark.score(run)})}
    files = [put_bytes(target.store, RESULTS, results_json(results))]
    return target.finish(files, summary_of(results), {"seconds": time.monotonic() - started})


def read_all(runs: Sequence[str], benchmark: RankedBenchmark) -> Run:
    """The runs of some files and folders together, by language and question."""
    if not runs:
        raise UsageError("no run file given")
    asked = _asked(benchmark)
    found: Lists = {}
    for uri in runs:
        for lang, questions in _read(uri, benchmark, asked).items():
            mine = found.setdefault(lang, {})
            for question, hits in questions.items():
                if question in mine:
                    raise DataError(f"{uri}: question {question!r} ({lang}) is answered in another run file too")
                mine[question] = hits
    if not any(question in asked.get(lang, ()) for lang, questions in found.items() for question in questions):
        raise DataError(
            f"{', '.join(runs)}: answers none of the questions of {benchmark.name}; is it of another split or version?"
        )
    return found


def _read(
    uri: str, benchmark: RankedBenchmark, asked: Mapping[str, set[str]]
) -> Mapping[str, Mapping[str, Sequence[Hit]]]:
    if uri.endswith(_PREDICTIONS):
        if not benchmark.needs_text:
            raise UsageError(f"{uri}: {benchmark.name} scores document ids, which a .json has not; give a TREC run")
        return read_predictions(uri)
    if benchmark.needs_text:
        raise UsageError(
            f"{uri}: {benchmark.name} scores the passages' texts, which a TREC run has not; give predictions (.json)"
        )
    store, key = split_uri(uri)
    if store.size(key) is None:
        return read_runs(uri, asked)
    run, lang = read_run(uri), _language(key, asked)
    return {lang: run} if lang is not None else _by_question(uri, run, asked)


def _asked(benchmark: RankedBenchmark) -> dict[str, set[str]]:
    """Ids of the questions by language."""
    asked: dict[str, set[str]] = {}
    for question in benchmark.questions():
        asked.setdefault(question.lang, set()).add(question.id)
    return asked


def _language(name: str, asked: Mapping[str, set[str]]) -> str | None:
    """The language that a file is named for: of the parts of its name, the only one that is a language."""
    named = {part for part in re.split(r"[._-]", name) if part in asked}
    return named.pop() if len(named) == 1 else None


def _by_question(uri: str, run: Mapping[str, Sequence[Hit]], asked: Mapping[str, set[str]]) -> Lists:
    """Each question under its language; those that the benchmark does not ask are told and left out."""
    found: Lists = {}
    for question, hits in run.items():
        owners = sorted(lang for lang, ids in asked.items() if question in ids)
        if len(owners) > 1:
            raise DataError(
                f"{uri}: question {question!r} is one of {' and of '.join(owners)}; give a run file for each language "
                "and name it LANG.trec"
            )
        if owners:
            found.setdefault(owners[0], {})[question] = hits
    unknown = [question for question in run if not any(question in ids for ids in asked.values())]
    if found and unknown:
        say(f"{uri}: left out: questions that are not asked ({len(unknown):,} of {len(run):,}: {unknown[0]!r}, …)")
    return found


def _tell_what_is_left_out(run: Run, benchmark: RankedBenchmark) -> None:
    """A run of another version answers a part of the questions, which would look like a bad system."""
    asked = _asked(benchmark)
    without = [lang for lang in asked if lang not in run]
    if without:
        say(f"{benchmark.name}: no run of {', '.join(without)}")
    expected = [(lang, name) for lang, ids in asked.items() if lang in run for name in sorted(ids)]
    silent = [name for lang, name in expected if name not in run[lang]]
    if silent:
        say(f"{benchmark.name}: no hits for {len(silent):,} of {len(expected):,} questions ({silent[0]!r}, …)")
    strange = [name for lang, lists in run.items() for name in lists if name not in asked.get(lang, ())]
    if strange:
        say(
            f"{benchmark.name}: left out of the run: questions that are not asked ({len(strange):,}: {strange[0]!r}, …)"
        )


def _digest(run: Run) -> str:
    """Of what is scored, wherever the files lie and however they are cut."""
    return digest_json({lang: {name: list(hits) for name, hits in lists.items()} for lang, lists in run.items()})
