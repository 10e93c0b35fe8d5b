"""Passage sets in the exact formats of Mr.TyDi and XOR-Retrieve, of any size, from what is at hand.

    mrtydi/mrtydi-v1.1-LANG/collection/docs.jsonl.gz, mrtydi/{topics,qrels}.mrtydi-v1.1-LANG.test.txt
    xor_retrieve/passages.tsv, xor_retrieve/xor_dev_retrieve_eng_span_v1_1.jsonl

The questions and the passages that answer them come from SQuAD's JSON in several languages (`eval.squad`):

- Mr.TyDi: each language's questions to its own paragraphs; the question's paragraph is the relevant one.
- XOR-Retrieve: the questions of all other languages to the English paragraphs, cut into passages of 100 words;
  the answers are those of the English question.

All other passages are distractors: documents of generated languages, the same in every set. So the sets test the
whole path at any size with true gold, and say little about quality: no distractor is in the question's language.

Distractors are written by pieces (2,000 passages of 9 sentences in 5 s on one core) and joined as members of one gzip
file. Memory: one set's packed passages, 25 MB for 100,000; XOR-Retrieve's, which are not packed, go through a file.
"""

from __future__ import annotations

import functools
import gzip
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field

from ccp_ray.artifact import Artifact, InputRef, Output, Request, digest_json, open_output
from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError
from ccp_ray.languages import LanguageFamily, LanguagesConfig
from ccp_ray.ledger import Entry, FileRecord, put_bytes, put_file
from ccp_ray.lines import pack_lines
from ccp_ray.passages import tsv_line
from ccp_ray.pieces import run_pieces
from ccp_ray.session import ray_session
from ccp_ray.storage import Store, absolute_uri, open_store
from eval.squad import Squad, read_squad

_PIECE = 2000
_WORDS = 100  # a passage, as DPR and XOR-Retrieve cut Wikipedia
_SENTENCES = 9  # of a generated language: about 100 words
_PIVOT = "en"


class PassagesConfig(StrictModel):
    """How large the sets are."""

    distractors: int = Field(default=1000, ge=0, description="generated passages in each set")
    languages: int = Field(default=4, ge=1, description="generated languages that they are in")
    seed: int = Field(default=0, ge=0)


def make_passages(squad: str, output: str, config: PassagesConfig | None = None) -> Artifact:
    """Write the sets as an artifact of kind "passages". The same request gives the same bytes.

    Runs in the current Ray session, or in a local Ray of its own. Raises UsageError where there is no SQuAD file,
    DataError where there is no English one, DriftError if the output holds something else.
    """
    config = config or PassagesConfig()
    content = read_squad(squad)
    check_pivot(squad, content)
    mark = digest_json({lang: [list(map(list, part)) for part in own] for lang, own in sorted(content.items())})
    source = InputRef(role="squad", uri=absolute_uri(squad), fingerprint=mark)
    opened = open_output(output, Request(kind="passages", config=config.model_dump(mode="json"), inputs=[source]))
    if isinstance(opened, Artifact):
        return opened
    pool = _distractors(opened, config)
    files = [record for lang, own in content.items() for record in _write_mrtydi(opened.store, lang, own, pool)]
    files += _write_xor(opened.store, content, pool)
    summary = {
        "mrtydi": {
            lang: {"passages": len(own.paragraphs) + config.distractors, "questions": len(own.questions)}
            for lang, own in content.items()
        },
        "distractors": config.distractors,
    }
    return opened.finish(files, summary)


def check_pivot(squad: str, content: Mapping[str, Squad]) -> None:
    """Raises DataError where there is no English file."""
    if _PIVOT not in content:
        raise DataError(f"{squad}: no English file (NAME.en.json); XOR-Retrieve's passages are English")


def _distractors(output: Output, config: PassagesConfig) -> list[str]:
    """Keys of packed lines in Mr.TyDi's format; working files, no part of the artifact."""
    starts = range(0, config.distractors, _PIECE)
    plan = {f"{start // _PIECE:05d}": [start, min(start + _PIECE, config.distractors)] for start in starts}
    with ray_session():
        entries = run_pieces(output, "distractors", plan, functools.partial(_generate, output.uri, config))
    return [entry.info["key"] for entry in entries.values()]


def _generate(store_uri: str, config: PassagesConfig, name: str, bounds: list[int]) -> Entry:
    start, stop = bounds
    packed = pack_lines(_generated(config, start, stop))
    record = put_bytes(open_store(store_uri), f"_distractors/{name}.jsonl.gz", packed)
    return Entry(rows=stop - start, files=[], info={"key": record.path})


def _generated(config: PassagesConfig, start: int, stop: int) -> Iterator[dict[str, str]]:
    family = LanguageFamily(LanguagesConfig(seed=config.seed, count=config.languages, sentences=_SENTENCES))
    for number in range(start, stop):
        document = family.document(family.codes[number % config.languages], "train", number // config.languages)
        yield {"id": f"{document['id']}#0", "contents": f"{document['title']}\n\n{document['text']}"}


def _write_mrtydi(store: Store, lang: str, own: Squad, pool: list[str]) -> list[FileRecord]:
    gold = pack_lines({"id": one.id, "contents": f"{one.title}\n\n{one.text}"} for one in own.paragraphs)
    packed = b"".join([gold, *(store.read(key) for key in pool)])
    topics = "".join(f"{one.id}\t{' '.join(one.text.split())}\n" for one in own.questions)
    qrels = "".join(f"{one.id} Q0 {one.paragraph} 1\n" for one in own.questions)
    return [
        put_bytes(store, f"mrtydi/mrtydi-v1.1-{lang}/collection/docs.jsonl.gz", packed),
        put_bytes(store, f"mrtydi/topics.mrtydi-v1.1-{lang}.test.txt", topics.encode()),
        put_bytes(store, f"mrtydi/qrels.mrtydi-v1.1-{lang}.test.txt", qrels.encode()),
    ]


def _write_xor(store: Store, content: Mapping[str, Squad], pool: list[str]) -> list[FileRecord]:
    passages = chain(_cut(content[_PIVOT]), _unpacked(store, pool))
    questions = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in _xor_questions(content))
    return [
        _put_tsv(store, "xor_retrieve/passages.tsv", passages),
        put_bytes(store, "xor_retrieve/xor_dev_retrieve_eng_span_v1_1.jsonl", questions.encode()),
    ]


def _put_tsv(store: Store, key: str, passages: Iterable[tuple[str, str]]) -> FileRecord:
    """Write (title, text) as numbered lines of DPR's format, one at a time."""
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        path = Path(scratch, "passages.tsv")
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write("id\ttext\ttitle\n")
            file.writelines(tsv_line(str(number), text, title) for number, (title, text) in enumerate(passages, 1))
        return put_file(store, key, path)


def _cut(own: Squad) -> Iterator[tuple[str, str]]:
    """(title, text) of passages of at most 100 words; a paragraph begins a new one."""
    for paragraph in own.paragraphs:
        words = paragraph.text.split()
        for start in range(0, len(words), _WORDS):
            yield paragraph.title, " ".join(words[start : start + _WORDS])


def _unpacked(store: Store, pool: list[str]) -> Iterator[tuple[str, str]]:
    for key in pool:
        for line in gzip.decompress(store.read(key)).decode().splitlines():
            title, _, text = json.loads(line)["contents"].partition("\n\n")
            yield title, text


def _xor_questions(content: Mapping[str, Squad]) -> Iterator[dict[str, Any]]:
    """The questions of all languages but English, with the answers of the English question of the same id."""
    answers = {one.id: one.answers for one in content[_PIVOT].questions}
    for lang, own in content.items():
        for one in own.questions if lang != _PIVOT else []:
            if one.id in answers:
                yield {
                    "id": f"{lang}-{one.id}",
                    "question": one.text,
                    "answers": answers[one.id],
                    "lang": lang,
                    "split": "dev",
                }
