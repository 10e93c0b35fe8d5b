"""generate: a family of generated languages as a `documents` artifact, of any size.

    documents/LANG/00000.jsonl.gz   1,000 documents a file, training documents first, then the held-out ones
    translations/LANG.txt           the test sentences; line i means the same in every file
    dev_translations/LANG.txt       the dev sentences, if there are any: the same with other meanings

One task a file; every document is a function of (seed, language, number), so memory is one file's (about
1.5 MB) and any file can be made anywhere. 1,000 documents of 20 sentences take 5 s on one core.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

from ccp_ray.artifact import Artifact, Request, open_output
from ccp_ray.config import semantic
from ccp_ray.languages import LanguageFamily, LanguagesConfig
from ccp_ray.ledger import Entry, put_bytes
from ccp_ray.lines import pack_lines
from ccp_ray.pieces import run_pieces
from ccp_ray.session import ray_session
from ccp_ray.storage import open_store

FILE_DOCUMENTS = 1000


def generate(output: str, config: LanguagesConfig | None = None) -> Artifact:
    """Write the family's documents and translations, or return them if they are there already.

    Runs in the current Ray session, or in a local Ray of its own. Raises DriftError if the output holds something else.
    """
    config = config or LanguagesConfig()
    opened = open_output(output, Request(kind="documents", config=semantic(config)))
    if isinstance(opened, Artifact):
        return opened
    with ray_session():
        entries = run_pieces(opened, "generate", dict(_plan(config)), functools.partial(_make, opened.uri, config))
    each = config.documents + config.dev_documents
    summary = {
        "languages": dict.fromkeys(LanguageFamily(config).codes, each),
        "documents": each * config.count,
        "sentences": each * config.count * config.sentences,
        "translations": config.test_sentences,
    }
    if config.dev_sentences:
        summary["dev_translations"] = config.dev_sentences
    return opened.finish([file for entry in entries.values() for file in entry.files], summary)


def _plan(config: LanguagesConfig) -> Iterator[tuple[str, str]]:
    total = config.documents + config.dev_documents
    for code in LanguageFamily(config).codes:
        for number, start in enumerate(range(0, total, FILE_DOCUMENTS)):
            yield f"{code}-{number:05d}", json.dumps([code, number, start, min(start + FILE_DOCUMENTS, total)])
    yield "translations", json.dumps("test")
    if config.dev_sentences:
        yield "dev_translations", json.dumps("dev")


def _make(store_uri: str, config: LanguagesConfig, name: str, payload: str) -> Entry:
    store, family = open_store(store_uri), LanguageFamily(config)
    if name in ("translations", "dev_translations"):
        lines_by_code = family.translations(json.loads(payload))
        texts = {code: "".join(f"{line}\n" for line in lines) for code, lines in lines_by_code.items()}
        files = [put_bytes(store, f"{name}/{code}.txt", text.encode()) for code, text in texts.items()]
        return Entry(rows=sum(map(len, lines_by_code.values())), files=files)
    code, number, start, stop = json.loads(payload)
    packed = pack_lines(family.numbered(code, i) for i in range(start, stop))
    return Entry(rows=stop - start, files=[put_bytes(store, f"documents/{code}/{number:05d}.jsonl.gz", packed)])
