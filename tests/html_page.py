"""A page of ours taken apart, for tests."""

from __future__ import annotations

import html.parser


class Page(html.parser.HTMLParser):
    """What a page is made of: sections, tags, links, text; checks that tags close in order."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.anchors: list[str] = []
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.open += [] if tag in self.VOID else [tag]
        self.sections += [values["id"]] if tag == "section" else []
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data", "xlink:href")]
        self.anchors += [values["href"][1:]] if tag == "a" else []

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        self.headings += [data] if self.open and self.open[-1] == "h2" else []
