"""Run files: trec_eval's order whatever the lines' order, predictions, and the line of what is wrong."""

from __future__ import annotations

import gzip
import json
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccp_ray.errors import DataError, UsageError
from eval.ranked import Hit
from eval.run_reader import read_predictions, read_run, read_runs, to_predictions, to_trec, trec_order
from eval.trec_measures import trec_scores

RUN = st.dictionaries(
    st.text("q12", min_size=1),
    st.dictionaries(st.text("d#12é", min_size=1), st.floats(-1e6, 1e6), min_size=1),
    min_size=1,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RUN)
def test_what_is_written_is_read_back_in_trec_evals_order(tmp_path, run):
    hits = {name: [Hit(doc, score) for doc, score in found.items()] for name, found in run.items()}
    (tmp_path / "a.trec").write_bytes(to_trec(hits, "x"))
    assert read_run(str(tmp_path / "a.trec")) == {name: trec_order(found) for name, found in hits.items()}


@pytest.mark.parametrize("name", ["r.trec", "r.run", "r.txt", "r.trec.gz"])
def test_tabs_blanks_ranks_and_ties(tmp_path, name):
    text = "q1 Q0 a 3 1.5 me\nq1\tQ0\tc\t1\t1.5\tme\nq1  Q0  b 9 7e0 me\r\n\nq2 Q0 a 1 -1 me\n"
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read_run(str(tmp_path / name)) == {
        "q1": [Hit("b", 7.0), Hit("c", 1.5), Hit("a", 1.5)],
        "q2": [Hit("a", -1.0)],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 a 1 1.0 me\nq a 1.0\n", "r.trec, line 2: 3 columns, expected six of a TREC run"),
        ("q Q0 a 1 high me\n", "line 1: score 'high' is not a number"),
        ("q Q0 a 1 nan me\n", "line 1: score 'nan' is not finite"),
        ("q Q0 a 1 1.0 me\nq Q0 a 2 0.5 me\n", "line 2: document 'a' comes twice for question 'q'"),
        ("\n", "no hits"),
        ('[{"id": "q"}]', "line 1: 2 columns, expected six"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    (tmp_path / "r.trec").write_text(text)
    with pytest.raises(DataError, match=message):
        read_run(str(tmp_path / "r.trec"))


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"r.csv: a run file ends in"):
        read_run(str(tmp_path / "r.csv"))
    with pytest.raises(UsageError, match=r"r.trec: no such file"):
        read_run(str(tmp_path / "r.trec"))
    (tmp_path / "r.trec").write_bytes(b"q Q0 a 1 1.0 me\nq Q0 \xff 1 1.0 me\n")
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        read_run(str(tmp_path / "r.trec"))


def test_runs_by_language(tmp_path):
    (tmp_path / "ar.trec").write_text("1 Q0 a 1 1 me\n")
    (tmp_path / "ko.run.gz").write_bytes(gzip.compress(b"1 Q0 b 1 2 me\n"))
    assert read_runs(str(tmp_path), ["ko", "ar", "te"]) == {"ar": {"1": [Hit("a", 1.0)]}, "ko": {"1": [Hit("b", 2.0)]}}
    with pytest.raises(UsageError, match=r"no run files LANG.trec, of none of te"):
        read_runs(str(tmp_path), ["te"])
    (tmp_path / "ar.txt").write_text("")
    with pytest.raises(UsageError, match=r"ar.trec and ar.txt are both runs of ar"):
        read_runs(str(tmp_path), ["ar"])


def test_predictions_are_written_and_read(tmp_path):
    uri = str(tmp_path / "p.json")
    written = to_predictions({"ar": {"1": [Hit("x", 9.0, "Eins"), Hit("y", 8.0, "zwei")], "2": []}})
    (tmp_path / "p.json").write_bytes(written)
    rows = [{"id": "1", "lang": "ar", "ctxs": ["Eins", "zwei"]}, {"id": "2", "lang": "ar", "ctxs": []}]
    assert json.loads((tmp_path / "p.json").read_text()) == rows
    assert read_predictions(uri) == {"ar": {"1": [Hit("1", -1.0, "Eins"), Hit("2", -2.0, "zwei")], "2": []}}
    (tmp_path / "p.json").write_text(json.dumps([rows[0] | {"lang": " ar"}]))
    assert list(read_predictions(uri)) == ["ar"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no predictions, the list is empty"),
        ('[\n{"id": }]', "line 2: not JSON"),
        ("{}", "a JSON dict; expected XOR-Retrieve's"),
        ('[{"id": "1", "lang": "ar", "ctxs": [{"text": "a"}]}]', "prediction 1: expected XOR-Retrieve's"),
        ('[{"q_id": "1", "lang": "ar", "ctxs": []}]', "prediction 1: expected XOR-Retrieve's"),
        (
            '[{"id": "1", "lang": "ar", "ctxs": []}, {"id": "1", "lang": "ar", "ctxs": []}]',
            "prediction 2: .* came before",
        ),
    ],
)
def test_wrong_predictions_are_named(tmp_path, text, message):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_predictions(str(tmp_path / "p.json"))


def test_ids_with_blanks_are_refused():
    with pytest.raises(DataError, match="a TREC run has no ids with blanks"):
        to_trec({"q": [Hit("a b", 1.0)]}, "x")


def test_a_run_of_700_questions_is_read_and_scored_in_a_moment(tmp_path):
    """A tenth of Mr.TyDi's size; the bound is ten times what it takes, for busy machines."""
    rng = np.random.default_rng(0)
    run = {f"q{i}": [Hit(f"{i + 7 * n}#{n}", float(rng.random())) for n in range(100)] for i in range(700)}
    (tmp_path / "r.trec").write_bytes(to_trec(run, "x"))
    judged = {name: {hits[7].id: 1} for name, hits in run.items()}
    start = time.process_time()
    trec_scores(judged, read_run(str(tmp_path / "r.trec")), 100)
    assert time.process_time() - start < 5
