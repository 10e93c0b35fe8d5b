"""The report: sections where there is data, the same in all three forms, safe, and alone in one file."""

from __future__ import annotations

import json
import re

import pytest
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from report_data import full, metrics

from ccp_ray.ledger import check_file
from ccp_ray.storage import open_store
from eval import report_tables
from eval.report import ReportData, from_metrics, render_html, render_markdown, result_sentence, write_report
from eval.report_model import Context, Curve, Projection, RetrievalTable, Series

SECTIONS = {
    "retrieval": ("retrieval", "Retrieval by language pair"),
    "context": ("context", "Context retrieval"),
    "projections": ("projection", "Embeddings in the plane"),
    "stages": ("throughput", "Throughput"),
    "artifacts": ("artifacts", "Artifacts"),
    "config_yaml": ("configuration", "Configuration"),
    "environment": ("environment", "Environment"),
}


def markdown_sections(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, flags=re.MULTILINE)


def test_a_full_report_has_every_section_in_order():
    page = Page(render_html(full()))
    expected = ["retrieval", "context", "projection", "training", "health"]
    expected += ["throughput", "artifacts", "configuration", "environment"]
    assert page.sections == expected == page.anchors
    assert markdown_sections(render_markdown(full())) == page.headings


def test_an_empty_report_has_no_section():
    data = ReportData(title="Nothing yet")
    page = Page(render_html(data))
    assert page.sections == page.anchors == page.headings == []
    assert page.tags.count("h1") == 1
    assert not {"table", "svg", "dl", "figure"} & set(page.tags)
    assert render_markdown(data) == "# Nothing yet\n"


@pytest.mark.parametrize("field", SECTIONS)
def test_a_section_appears_exactly_when_its_data_is_there(field):
    section, heading = SECTIONS[field]
    alone = ReportData.model_validate({"title": "t", field: getattr(full(), field)})
    assert Page(render_html(alone)).sections == [section]
    assert markdown_sections(render_markdown(alone)) == [heading]
    without = ReportData.model_validate(
        dict(full()) | {field: type(alone).model_fields[field].get_default(call_default_factory=True)}
    )
    assert section not in Page(render_html(without)).sections
    assert heading not in markdown_sections(render_markdown(without))


@pytest.mark.parametrize("section", ["training", "health"])
def test_curves_stand_in_their_section(section):
    curves = [curve for curve in full().curves if curve.section == section]
    data = ReportData(title="t", curves=curves)
    page = Page(render_html(data))
    assert page.sections == [section]
    assert page.tags.count("figure") == len(curves)


def test_a_verdict_alone_makes_the_health_section():
    data = ReportData(title="t", verdict="collapse of fr at step 300", healthy=False)
    text = render_html(data)
    assert Page(text).sections == ["health"]
    assert 'class="verdict bad"' in text
    assert "collapse of fr at step 300" in render_markdown(data)


def test_an_empty_context_or_curve_without_points_leaves_no_trace():
    data = ReportData(title="t", context=Context(), curves=[Curve(title="c", series=[Series(name="s", points=[])])])
    assert Page(render_html(data)).sections == []
    assert markdown_sections(render_markdown(data)) == []


def test_parts_of_a_section_may_be_absent():
    data = ReportData.model_validate(
        {
            "title": "t",
            "retrieval": [{"name": "A", "columns": ["raw"], "rows": [{"pair": "x-y", "values": {}}]}],
            "context": {"rows": [{"lang": "en"}]},
            "stages": [{"stage": "s", "seconds": 1.0}],
            "projections": [{"title": "p", "points": [{"lang": "en", "x": 0.0, "y": 0.0}]}],
        }
    )
    assert Page(render_html(data)).sections == ["retrieval", "context", "projection", "throughput"]
    assert "| x-y | – |" in render_markdown(data)  # noqa: RUF001


def test_json_reads_back_as_the_same_report():
    data = full()
    assert ReportData.model_validate_json(data.model_dump_json()) == data
    assert render_html(ReportData.model_validate_json(data.model_dump_json())) == render_html(data)


def test_the_report_is_written_with_its_checksums_and_the_same_again(tmp_path):
    store = open_store(str(tmp_path / "report"))
    records = write_report(full(), store)
    assert [record.path for record in records] == ["report.html", "report.md", "report.json"]
    assert [check_file(store, record) for record in records] == [None] * 3
    assert write_report(full(), open_store(str(tmp_path / "again"))) == records
    assert ReportData.model_validate_json(store.read("report.json")) == full()
    assert json.loads(store.read("report.json"))["curves"][0]["series"][0]["points"][0] == [10.0, 3.9]


def test_the_page_needs_nothing_from_outside():
    text = render_html(full())
    page = Page(text)
    assert all(address.startswith("#") for address in page.addresses)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"s3://bucket", "", text))
    assert "default-src 'none'" in text


def test_four_languages_of_400_points_stay_a_small_page():
    data = full(400, ("qaa", "qab", "qac", "qad"))
    long = data.model_copy(update={"curves": from_metrics(metrics(20_000))})
    assert len(render_html(data)) < 200_000
    assert len(render_html(long)) < 400_000


EVIL = "</title><script>alert('1')</script>\"'&|`*_[x](javascript:1)\n| --- |\n# head <img src=x onerror=y>"


def evil_report() -> ReportData:
    """Every text of a report replaced by something malicious."""

    def spoil(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            texts = key in ("environment", "values", "macro")
            return {EVIL + name if texts else name: spoil(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [spoil(item, key) for item in value]
        return (
            EVIL + (value if key in ("columns", "lang", "name") else "")
            if isinstance(value, str) and key != "section"
            else value
        )

    return ReportData.model_validate_json(json.dumps(spoil(json.loads(full().model_dump_json()))))


def test_no_text_becomes_markup_in_the_page():
    page, honest = Page(render_html(evil_report())), Page(render_html(full()))
    assert not {"script", "img"} & set(page.tags)
    assert set(page.tags) == set(honest.tags)
    assert page.addresses == honest.addresses
    assert "alert('1')" in "".join(page.text)


def table_lines(markdown: str) -> list[list[str]]:
    """The tables of a Markdown text, each a list of its lines; none from within a fenced block."""
    found: list[list[str]] = []
    inside = ""
    previous = ""
    for line in markdown.split("\n"):
        fence = re.match(r"`{3,}", line)
        if fence and not inside:
            inside = fence[0]
        elif inside and line == inside:
            inside = ""
        elif not inside and line.startswith("|"):
            if not previous.startswith("|"):
                found.append([])
            found[-1].append(line)
        previous = "" if inside else line
    return found


@pytest.mark.parametrize("data", [full(), evil_report()], ids=["honest", "evil"])
def test_markdown_tables_are_well_formed(data):
    tables = table_lines(render_markdown(data))
    assert len(tables) == 8
    for lines in tables:
        cells = [re.findall(r"(?<!\\)\|", line) for line in lines]
        assert len({len(row) for row in cells}) == 1
        assert re.fullmatch(r"\|( ---:? \|)+", lines[1])
        assert len(lines) >= 3


def test_no_text_becomes_markup_in_markdown():
    text = render_markdown(evil_report())
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    outside = re.sub(r"(?<!\\)(`+)( .*? |[^`|]+)\1(?!`)", "", outside)
    assert "<" not in outside
    assert not re.search(r"(?<!\\)\[", outside)
    assert [line for line in outside.split("\n") if line.startswith("# ")] == outside.split("\n")[:1]


def test_a_configuration_with_a_fence_stays_in_its_block():
    data = ReportData(title="t", config_yaml="a: |\n  ```\n  # head\n```\n")
    assert render_markdown(data).endswith("````yaml\na: |\n  ```\n  # head\n```\n````\n")


def test_the_retrieval_table_by_example():
    lines = table_lines(render_markdown(full()))[0]
    assert lines == [
        "| pair | before | trained | + shift |",
        "| --- | ---: | ---: | ---: |",
        "| fr-en | 10.0 | 30.0 | 40.0 ★ |",
        "| de-en | 20.0 | 50.0 ★ | 45.0 |",
        "| **mean** | **15.0** | **40.0** | **42.5** ★ |",
    ]
    page = render_html(full())
    assert page.count('<b class="best" title="best of the row">42.5</b>') == 1
    assert '<tr class="total">' in page


def test_both_directions_are_there_on_demand():
    assert "| fr-en | 11.0 / 9.0 | 31.0 / 29.0 | 41.0 / 39.0 |" in render_markdown(full())
    assert '<td class="n">11.0 / 9.0</td>' in render_html(full())
    only_means = {"name": "A", "columns": ["raw"], "rows": [{"pair": "x-y", "values": {"raw": {"mean": 0.5}}}]}
    assert report_tables.directions(RetrievalTable.model_validate(only_means)) is None


@given(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=6))
def test_the_best_of_a_row_are_those_that_show_the_highest_figure(values):
    columns = [str(i) for i in range(len(values))]
    scores = {name: {"mean": value} for name, value in zip(columns, values, strict=True) if value is not None}
    row = {"name": "t", "columns": columns, "rows": [{"pair": "p", "values": scores}]}
    cells = report_tables.retrieval(RetrievalTable.model_validate(row)).rows[0][1:]
    shown = [float(cell.text) for cell in cells if cell.text != report_tables.MISSING]
    marked = [float(cell.text) for cell in cells if cell.best]
    assert marked == ([value for value in shown if value == max(shown)] if len(set(shown)) > 1 else [])


def test_the_result_compares_the_first_variant_with_the_best():
    sentence = result_sentence(full())
    assert sentence == (
        "Tatoeba: top-1 accuracy rises from 15.0 % (before) to 42.5 % (+ shift), 2.8 times as much "
        "(mean of 2 language pairs)."
    )
    assert sentence in render_markdown(full())
    own = full().model_copy(update={"result": "It works."})
    assert "It works." in render_html(own)
    assert sentence not in render_html(own)


def test_the_result_does_not_claim_a_rise_where_there_is_none():
    table = full().retrieval[0]
    worse = table.model_copy(
        update={"macro": {**table.macro, "before": table.macro["+ shift"].model_copy(update={"mean": 0.9})}}
    )
    sentence = result_sentence(full().model_copy(update={"retrieval": [worse]}))
    assert sentence == "Tatoeba: 90.0 % top-1 accuracy (before, mean of 2 language pairs)."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (2 << 40, "2.0 TiB"),
    ],
)
def test_sizes(value, text):
    assert report_tables.size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (75.4, "1 min 15 s"), (7_620, "2 h 07 min")]
)
def test_durations(seconds, text):
    assert report_tables.duration(seconds) == text


def test_figures_have_decimals_that_fit():
    shown = [report_tables.figure(value) for value in (0.0, 2e-5, 0.1234, 3.14159, 42.123, 123.45, 12345.6, -1.5)]
    minus = "\N{MINUS SIGN}"
    assert shown == ["0.000", f"2e{minus}5", "0.123", "3.142", "42.12", "123.5", "12,346", f"{minus}1.500"]


def test_a_time_is_shown_short_and_other_text_as_it_is():
    assert report_tables.moment("2030-01-02T03:04:05+00:00") == "2030-01-02 03:04 UTC"
    assert report_tables.moment("Tuesday") == "Tuesday"


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (RetrievalTable, {"name": "A", "columns": ["raw"], "rows": [], "macro": {"rwa": {"mean": 0.1}}}, "'rwa'"),
        (Projection, {"title": "p", "points": [{"lang": "en", "x": 0.0, "y": 0.0}], "links": [[0, 1]]}, "beyond the 1"),
        (Curve, {"title": "c", "log_y": True, "series": [{"name": "s", "points": [[0, 0]]}]}, "above 0"),
        (ReportData, {"title": "t", "tables": []}, "tables"),
    ],
)
def test_data_that_does_not_fit_together_is_refused(model, values, message):
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)


def test_the_language_share_is_one_apart_and_zero_together():
    apart = [{"lang": lang, "x": x, "y": 0.0} for lang, x in (("a", 0.0), ("a", 0.0), ("b", 1.0))]
    together = [{"lang": lang, "x": x, "y": 0.0} for lang in "ab" for x in (-1.0, 1.0)]
    shares = [
        report_tables.language_share(Projection.model_validate({"title": "t", "points": p})) for p in (apart, together)
    ]
    assert shares == pytest.approx([1, 0])
