"""TEI to chapters: what is text and what is not, and pieces of near-equal length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.errors import DataError
from jobs.tei import cut, read_novel


def tei(body: str, title: str = "The Mill", extra: str = "") -> bytes:
    return f"""<?xml version="1.0" encoding="UTF-8"?>{extra}
<?xml-model href="eltec-1.rng" type="application/xml"?>
<TEI xmlns="http://www.tei-c.org/ns/1.0" xml:id="ENG1"><teiHeader><fileDesc>
 <titleStmt><title>{title}</title></titleStmt>
 <sourceDesc><bibl><title>another title</title></bibl></sourceDesc></fileDesc></teiHeader>
<text><front><div type="titlepage"><p>A TITLE PAGE</p></div></front><body>{body}</body>
<back><div type="notes"><note>a note at the end</note></div></back></text></TEI>""".encode()


TWO = '<div type="chapter"><p>Two.</p></div>'


def chapters(body: str) -> list[list[str]]:
    return read_novel(tei(body), "ENG1.xml").chapters


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"<div type='chapter'><head>I</head><p>One.</p></div>{TWO}", [["One."], ["Two."]]),
        (
            '<div type="group"><head>Book</head><p>a motto</p><div type="chapter"><p>One.</p></div></div>'
            f'<div type="group"><div type="part">{TWO}</div></div>',
            [["One."], ["Two."]],
        ),
        ("<div><div><p>One.</p></div><div><p>Two.</p></div></div>", [["One."], ["Two."]]),
        ("<p>One.</p><p>Two.</p>", [["One.", "Two."]]),
        # what stands within a chapter belongs to it; a dedication and notes between chapters do not belong to the novel
        ('<div type="chapter"><p>A.</p><div type="letter"><p>Dear.</p></div><p>B.</p></div>', [["A.", "Dear.", "B."]]),
        (f'<div type="liminal"><p>To Ann.</p></div>{TWO}<div type="notes"><p>N.</p></div>', [["Two."]]),
    ],
)  # fmt: skip
def test_chapters(body, expected):
    assert chapters(body) == expected


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("<p>  He\n   went\t<hi>out</hi>,\n then in. </p><p> </p>", ["He went out, then in."]),
        ('<p>the grass<pb n="4"/> and concentra-<pb n="5"/> tion</p>', ["the grass and concentra- tion"]),
        ("<head>II</head><p>A word<note>what it <p>means</p></note>, <ref>2</ref>here.</p>", ["A word, here."]),
        (
            "<quote><p><label>The Mill,</label> <label>Friday.</label></p><p>I like it.</p><p>Come.</p></quote>",
            ["I like it. Come."],
        ),
        ("<p>She sang:</p><l>One line,</l><pb/><l>two.</l><p>So.</p>", ["She sang:", "One line, two.", "So."]),
        ("<lg><l>One line,</l><l>two lines.</l></lg>", ["One line, two lines."]),
        ("<l>the end</l>", ["the end"]),
        ("<p>a<!-- no text -->b<?page 3?>c &amp; d&#x2014;e</p><gap/><trailer>THE END</trailer>", ["abc & d—e"]),
    ],
)  # fmt: skip
def test_paragraphs(inside, expected):
    assert chapters(f'<div type="chapter">{inside}</div>') == [expected]


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("The Mill : ELTeC edition", "The Mill"),
        ("The Mill: or, The Flood : ELTec edition : ELTeC edition", "The Mill: or, The Flood"),
        ("Le moulin :  édition ELTeC", "Le moulin"),
        ("O moinho: Edição para o\n ELTeC", "O moinho"),
        ("The Mill: a novel", "The Mill: a novel"),
    ],
)
def test_title(title, expected):
    assert read_novel(tei("<p>x</p>", title), "x").title == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tei("<p>One.</p>")[:-20], r"level1/ENG1\.xml: broken XML \(.*line \d+"),
        (b"not XML", r"level1/ENG1\.xml: broken XML"),
        (b"", r"level1/ENG1\.xml: broken XML"),
        (tei("<p>a&nbsp;b</p>"), r"level1/ENG1\.xml: broken XML \(undefined entity"),
        (tei("<p>&e;</p>", extra='<!DOCTYPE TEI [<!ENTITY e "x">]>'), r"level1/ENG1\.xml: it declares a document type"),
        (tei("<p>&e;</p>", extra='<!DOCTYPE TEI [<!ENTITY e SYSTEM "file:///etc/x">]>'), "declares a document type"),
        (tei("<p>x</p>", extra='<!DOCTYPE TEI SYSTEM "tei.dtd">'), "declares a document type"),
        (tei("<head>only a heading</head>"), r"level1/ENG1\.xml: holds no text"),
        (tei("<p>x</p>", title=" "), r"level1/ENG1\.xml: holds no title"),
    ],
)  # fmt: skip
def test_what_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        read_novel(data, "level1/ENG1.xml")


@given(st.lists(st.text(min_size=1, max_size=60), max_size=30), st.integers(1, 200))
def test_cut(paragraphs, most):
    pieces = cut(paragraphs, most)
    assert [paragraph for piece in pieces for paragraph in piece] == paragraphs
    assert all(pieces) or pieces == [[]]
    total = sum(map(len, paragraphs))
    wanted = max(1, -(-total // most))
    assert len(pieces) <= wanted
    for piece in pieces:
        assert sum(map(len, piece[:-1])) < total / wanted + 1


def test_cut_is_even():
    assert [len(piece) for piece in cut(["x" * 10] * 12, 50)] == [4, 4, 4]
    assert cut(["x" * 50], 50) == [["x" * 50]]
    assert [len(piece) for piece in cut(["x" * 51, "y", "z"], 20)] == [1, 2]
