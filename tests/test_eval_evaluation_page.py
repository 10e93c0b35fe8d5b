"""A report of evaluations: the same in all formats, safe, alone in one file."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from evaluation_factory import TYDI, fitted_on_itself, mrtydi, tatoeba, write_evaluation, xor, xquad_r
from html_page import Page

from ccp_ray.ledger import check_file
from ccp_ray.storage import open_store
from eval.evaluation_blocks import Block, Titled, blocks, result_sentence
from eval.evaluation_model import EvaluationReport, Scored
from eval.evaluation_page import render_html, render_markdown, write_evaluation_report
from eval.evaluation_read import read_runs, values_of
from eval.evaluation_tables import overview, points
from eval.expected import check, load_expected, write_expected
from eval.latex_widths import column_parts, head_lines
from eval.published import load_published
from eval.report_curves import EvaluationRow, from_evaluations
from eval.report_latex import escape, latex_table, render_latex
from eval.report_tables import Cell, Table

NASTY = r"50%_{\danger} <b>&#$^~|x* `y`"


@pytest.fixture
def report(tmp_path: Path) -> EvaluationReport:
    """Two runs, one of them incomplete, with a check and curves."""
    whole = {"mrtydi": mrtydi(), "tatoeba": tatoeba(), "xor_retrieve": xor(), "xquad_r": xquad_r()}
    part = {"mrtydi": mrtydi(TYDI[:9], 0.7), "tatoeba": tatoeba(("fr", "de"), missing=("ar",))}
    artifacts = [
        write_evaluation(str(tmp_path / "a"), whole),
        write_evaluation(str(tmp_path / "b"), part, ("encoder", f"runs/{NASTY}")),
    ]
    runs = read_runs(artifacts, ["first", NASTY])
    (tmp_path / "e.yaml").write_text(write_expected(values_of(runs[0]), 0.02))
    findings = [f for run in runs for f in check(load_expected(str(tmp_path / "e.yaml")), run.name, values_of(run))]
    rows = [EvaluationRow(step=s, benchmark="tatoeba", variant="raw", metric="mean", value=s / 100) for s in (0, 50)]
    return EvaluationReport(
        title=f"Report of {NASTY}",
        runs=runs,
        published=load_published().tables,
        against=["CCP"],
        findings=findings,
        curves=from_evaluations(rows),
    )


def test_the_page_is_well_formed_and_asks_for_nothing(report: EvaluationReport):
    page = Page(render_html(report))
    assert page.sections == page.anchors == [block.id for block in blocks(report)]
    assert all(address.startswith("#") for address in page.addresses)
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert page.tags.count("b") == sum(
        cell.best for block in blocks(report) for t in block.tables for row in t.table.rows for cell in row
    )
    assert any(NASTY in text for text in page.text)  # as text, not as markup


def test_all_formats_have_the_same_tables(report: EvaluationReport):
    tables = [titled.table for block in blocks(report) for titled in block.tables]
    html, markdown = render_html(report), render_markdown(report)
    latex = render_latex(report.title, blocks(report))
    assert html.count("<table>") == len(tables)
    assert len(re.findall(r"^\|(?: -+:? \|)+$", markdown, flags=re.MULTILINE)) == len(tables)
    set_apart = [line for line in latex.splitlines() if re.search(r"\\caption\{.*\(\d+ of \d+\)", line)]
    first_parts = [line for line in set_apart if re.search(r"\(1 of \d+\)", line)]
    assert latex.count(r"\bottomrule") - len(set_apart) + len(first_parts) == len(tables)
    for cell in ("−0.8", "75.8"):  # noqa: RUF001 - the minus sign
        assert cell in html
        assert cell in markdown
        assert escape(cell) in latex


def test_json_reads_back(report: EvaluationReport, tmp_path: Path):
    store = open_store(str(tmp_path / "out"))
    files = write_evaluation_report(report, store)
    assert {record.path for record in files} == {"report.html", "report.md", "report.tex", "report.json"}
    assert not [problem for record in files if (problem := check_file(store, record))]
    again = EvaluationReport.model_validate_json(store.read("report.json"))
    assert again == report
    assert render_html(again).encode() == store.read("report.html")


def test_incomplete_averages_are_marked_and_never_the_best(report: EvaluationReport):
    table = overview(report)
    column = next(i for i, name in enumerate(table.columns) if name == f"{NASTY} + rotate")
    found = {(row[0].text, row[1].text): row[column] for row in table.rows}
    assert found[("Mr. TyDi", "recall@100")].text.endswith("†")  # the other run has two languages more
    assert found[("Tatoeba", "mean, the 36")].text.endswith("†")
    assert not any(row[column].best for row in table.rows)
    xquad = next(row for row in table.rows if row[0].text == "XQuAD-R")
    assert xquad[2].text == "20.0†"
    text = render_markdown(report)
    assert "lacks te, th" in text
    assert "lacks el, es" in text


def test_a_star_is_explained_in_every_format_where_it_stands(tmp_path: Path):
    artifact = write_evaluation(str(tmp_path / "a"), {"tatoeba": fitted_on_itself(tatoeba()), "mrtydi": mrtydi()})
    report = EvaluationReport(title="t", runs=read_runs([artifact], ["run"]), published=load_published().tables)
    footnote = "With a star the calibration is fitted on the benchmark's own sentences, each language alone"
    found = {block.id: " ".join(block.notes) for block in blocks(report)}
    assert footnote in found["overview"]
    assert footnote in found["benchmark-tatoeba"]
    assert footnote not in found["benchmark-mrtydi"]
    beside = next(
        block for block in blocks(report) if block.id.startswith("published") and block.benchmark == "tatoeba"
    )
    assert [row[0].text for row in beside.tables[0].table.rows][-1] == "run raw"
    html = " ".join(Page(render_html(report)).text)
    for text in (html, render_markdown(report), render_latex(report.title, blocks(report))):
        assert text.count(footnote) == 2
        assert text.count("what has a star is fitted on the benchmark's own sentences; not compared.") == 1
    assert "+ rotate*" in html
    assert r"+ rotate\*" in render_markdown(report)


def test_which_languages_the_best_candidates_have_is_shown(report: EvaluationReport):
    (shown,) = [titled for block in blocks(report) for titled in block.tables if "best candidates" in titled.title]
    assert shown.title == "Languages of the best candidates, first raw"
    assert shown.table.columns == ["question", "ar", "de", "en"]
    rows = [[cell.text for cell in row] for row in shown.table.rows]
    assert rows[1:] == [
        ["de", "25.0", "50.0", "25.0"],
        ["en", "25.0", "25.0", "50.0"],
        ["mean", "33.3", "33.3", "33.3"],
    ]
    assert "| de | 25.0 | 50.0 | 25.0 |" in render_markdown(report)
    assert shown.title in Page(render_html(report)).text


def test_of_several_variants_the_first_and_the_last_show_their_best_candidates(tmp_path: Path):
    own = xquad_r()
    own["variants"] = dict.fromkeys(("raw", "shift", "scale", "rotate"), own["variants"]["raw"])
    runs = read_runs([write_evaluation(str(tmp_path / name), {"xquad_r": own}) for name in "ab"], ["a", "b"])
    titles = [t.title for block in blocks(EvaluationReport(title="t", runs=runs)) for t in block.tables]
    assert [title.rpartition(", ")[2] for title in titles if "best candidates" in title] == [
        *("a raw", "a + rotate", "b raw", "b + rotate")
    ]


def test_pairs_stand_beside_their_lines(tmp_path: Path):
    short = tatoeba()
    short["data"]["joined"]["pairs"]["de-fr"] = 100
    runs = read_runs([write_evaluation(str(tmp_path / "a"), {"tatoeba": tatoeba()})], ["a"])
    both = [*runs, *read_runs([write_evaluation(str(tmp_path / "b"), {"tatoeba": short})], ["b"])]
    found = {}
    for number, own in enumerate((runs, both)):
        for block in blocks(EvaluationReport(title="t", runs=own)):
            found |= {(number, titled.title): titled.table for titled in block.tables}
    joined, margin, several = (found[0, "joined: mean"], found[0, "margin, joined: mean"], found[1, "joined: mean"])
    assert joined.columns[:3] == ["pair", "lines", "raw"]
    assert [row[1].text for row in joined.rows] == [row[1].text for row in margin.rows] == ["228", ""]
    assert [cell.text for cell in several.rows[0][:2]] == ["de-fr", "228 / 100"]
    assert found[0, "mean"].rows[0][1].text == "1,000"


def tatoeba_only(report: EvaluationReport) -> dict[str, Scored]:
    return {"tatoeba": report.runs[1].benchmarks["tatoeba"]}


def test_the_sentence_says_the_check_then_the_difference_then_the_averages(report: EvaluationReport):
    failed = sum(finding.failed() for finding in report.findings)
    assert result_sentence(report).startswith(f"{failed} of {len(report.findings)} expected values are not reached")
    unchecked = report.model_copy(update={"findings": []})
    assert result_sentence(unchecked) == (
        "Mr. TyDi, recall@100, points to CCP: first raw −0.8, first + rotate +2.2."  # noqa: RUF001
    )
    alone = unchecked.model_copy(update={"published": [], "runs": report.runs[:1]})
    part = alone.model_copy(update={"runs": [report.runs[1].model_copy(update={"benchmarks": tatoeba_only(report)})]})
    assert result_sentence(part).endswith("+ rotate* 42.1 % (the mean lacks ar).")
    assert result_sentence(alone) == "Mr. TyDi, mrr@100: raw 40.0 %, + shift 40.0 %, + scale 40.0 %, + rotate 40.0 %."
    named = [report.runs[0].model_copy(update={"name": name}) for name in ("one", "two")]
    several = alone.model_copy(update={"runs": named})
    assert result_sentence(several) == "Mr. TyDi, mrr@100: one raw 40.0 %, one + rotate 40.0 %, two + rotate 40.0 %."


def test_a_benchmark_with_a_mean_alone_needs_no_languages(tmp_path: Path):
    own = {"n": 1, "data": {}, "calibration": "none", "variants": {"raw": {"macro": {"hits": 0.25}}}}
    runs = read_runs([write_evaluation(str(tmp_path / "a"), {"my_own": own})], ["run"])
    page = Page(render_html(EvaluationReport(title="t", runs=runs)))
    assert page.sections == ["overview", "benchmark-my_own", "runs"]
    assert "my_own, hits: raw 25.0 %." in page.text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0104, "+1.0"), (-0.0104, "−1.0"), (0.0004, "0.0"), (-0.0004, "0.0")],  # noqa: RUF001
)
def test_points(value: float, text: str):
    assert points(value) == text


# LaTeX


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & c%", r"a\_b \& c\%"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("$x^2$ #1 ~", r"\$x\textasciicircum{}2\$ \#1 \textasciitilde{}"),
        ("a<b>c|d", r"a\textless{}b\textgreater{}c\textbar{}d"),
        ("−1.0 ± 2† –", r"$-$1.0 $\pm$ 2\dag{} --"),  # noqa: RUF001
        ("two\nlines", "two lines"),
        ("Größe", "Größe"),
    ],
)
def test_latex_escapes(text: str, latex: str):
    assert escape(text) == latex


def columns_of(row: str) -> int:
    return len(re.findall(r"(?<!\\)&", row)) + 1


def test_latex_tables_are_balanced_and_as_wide_as_they_say(report: EvaluationReport):
    """Structure only: what a compiler would stumble over first."""
    latex = render_latex(report.title, blocks(report))
    for name in ("table", "tabular", "longtable"):
        assert latex.count(rf"\begin{{{name}}}") == latex.count(rf"\end{{{name}}}")
    unescaped = re.sub(r"\\[\\{}$&#%_]", "", latex.split("\n\n", 1)[1])  # after comments and the macro
    assert unescaped.count("{") == unescaped.count("}")
    assert unescaped.count("$") % 2 == 0
    assert not re.search(r"[%#^~<>|](?!\{\\raggedright)", unescaped)
    labels = re.findall(r"\\label\{(.*?)\}", latex)
    assert len(labels) == len(set(labels))
    assert all(re.fullmatch(r"[A-Za-z0-9:@.-]+", label) for label in labels)
    tables = re.findall(r"\\begin\{(?:tabular|longtable)\}\{([^\n]*)\}\n(.*?)\\bottomrule", latex, flags=re.DOTALL)
    assert len(tables) == latex.count(r"\bottomrule")
    for columns, table in tables:
        rows = [line for line in table.splitlines() if line.endswith(r" \\") and not line.startswith(r"\caption")]
        said = len(re.sub(r">\{\\raggedright\\arraybackslash\}p\{2.5cm\}", "l", columns))
        assert {columns_of(row) for row in rows} == {said}


def test_a_long_table_may_break_and_a_total_stands_apart():
    rows = [[Cell(f"l{i}"), Cell("1.0", best=i == 0)] for i in range(60)]
    long = latex_table(Table(["language", "raw"], rows, total=True), "All.", "tab:all")
    assert r"\begin{longtable}{lr}" in long
    assert r"l0 & \textbf{1.0} \\" in long
    assert long.splitlines()[-5:-1] == [r"\midrule", r"l59 & 1.0 \\", r"\bottomrule", r"\end{longtable}"]
    first, again = long.split(r"\endhead")[0].split(r"\endfirsthead")
    assert (first.count(r"\label"), again.count(r"\label")) == (1, 0)  # the second head is there on each page
    assert first.count("language & raw") == again.count("language & raw") == 1
    assert r"\begin{tabular}{lr}" in latex_table(Table(["language", "raw"], rows[:3]), "Some.", "tab:some")


def test_heads_are_set_in_lines_and_a_wide_table_is_parted_by_columns():
    names = [f"{run} {variant}" for run in ("MiniLM, ours", "XLM-R") for variant in ("raw", "+ shift", "+ rotate*")]
    rows = [[Cell("de-en"), *(Cell(f"{10 * row + i}.5", best=i == 2) for i in range(6))] for row in range(50)]
    table = Table(["pair", *names], rows)
    assert [head_lines(table, number) for number in (0, 1, 3, 4)] == [
        ["pair"],
        ["MiniLM,", "ours", "raw"],
        ["MiniLM,", "ours", "+ rotate*"],
        ["XLM-R", "raw"],
    ]
    assert column_parts(table, 200) == [table]
    first, second = column_parts(table, 45)
    assert (first.columns, second.columns) == (["pair", *names[:3]], ["pair", *names[3:]])
    assert [cell.text for cell in second.rows[7]] == ["de-en", "73.5", "74.5", "75.5"]
    assert [len(part.columns) for part in column_parts(table, 1)] == [2] * 6
    wide = table._replace(columns=["pair", *(f"{'w' * 30} {n}" for n in range(6))])
    latex = latex_table(wide, "All.", "tab:all", "A note.")
    captions = re.findall(r"\\caption\{(.*?)\}\\label\{(.*?)\}", latex)
    assert captions[0] == (f"All (1 of {len(captions)}). A note.", "tab:all-part-1")
    assert captions[1] == (f"All (2 of {len(captions)}).", "tab:all-part-2")
    assert latex.count(r"\textbf{") == 50


def test_a_row_that_begins_like_an_option_is_none():
    table = latex_table(Table(["a", "b"], [[Cell("[x]"), Cell("1")], [Cell("*"), Cell("2")]]), "c", "l")
    assert r"{}[x] & 1 \\" in table
    assert r"{}* & 2 \\" in table


def test_latex_compiles(report: EvaluationReport, tmp_path: Path):
    compiler = next((path for name in ("pdflatex", "lualatex", "tectonic") if (path := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no LaTeX here: only the structure was checked")
    packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs,longtable,array,graphicx}"
    body = render_latex(report.title, blocks(report))
    file = tmp_path / "main.tex"
    file.write_text(rf"\documentclass{{article}}{packages}\begin{{document}}{chr(10)}{body}\end{{document}}")
    batch = [] if "tectonic" in compiler else ["-interaction=nonstopmode", "-halt-on-error"]
    told = subprocess.run([compiler, *batch, file.name], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    assert b"Overfull" not in told.stdout
    assert b"multiply" not in told.stdout


def test_a_title_stays_in_its_comment():
    block = Block("b", "B", [], [Titled("", Table(["a"], [[Cell("x")]]))])
    assert "\n\\input" not in render_latex("t\n\\input{x}", [block])


def test_an_average_that_lacks_languages_gets_no_table_of_differences(tmp_path: Path):
    runs = read_runs([write_evaluation(str(tmp_path / "a"), {"tatoeba": tatoeba(missing=("ja",))})], ["run"])
    tables = load_published().tables
    text = render_markdown(EvaluationReport(title="t", runs=runs, published=tables, against=["LaBSE"]))
    assert "Difference to" not in text
    assert "No difference is taken: the averages are not over the same languages." in text
