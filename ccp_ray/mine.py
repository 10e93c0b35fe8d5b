"""Mine hard negatives: passages that an encoder ranks high for a question, and that do not answer it.

    passages ──embed──► embeddings ──index──► index ──search──► ranks `first` to `last` of each question
                                                                   │ less its positives, less those with an answer
                                                                   └──► pairs.jsonl.gz, DPR's form, for `finetune`

A hit is a positive by its id, or by its text (case, width and blanks aside, with the title or without). It has an
answer where one of the answers stands in its text, title included, be it within longer words. Search is that of
`ccp_ray.search`, so the outcome is the same at any number of shards. The negatives that the sources had are replaced.

Questions that come with answers alone (XOR's train set) get a positive by distant supervision, as DPR's do: of ranks 1
to `last` the highest hit whose text, without its title, holds an answer (`ccp_ray.answers`). Some of these passages
name the answer and say something else; that is the price of data that nobody judged. Questions that no hit answers,
and those that only yes or no answers, are left out and counted.

Memory: the questions with their positives and answers (1 to 2 kB each, where passages have 100 words), the hits of one
block, and the index as search holds it. The output goes to a file row by row.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ccp_ray.answers import Answers
from ccp_ray.artifact import Artifact, InputRef, Request, open_artifact, open_output
from ccp_ray.config import StrictModel
from ccp_ray.documents import fingerprint
from ccp_ray.embed import embed
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.errors import DataError
from ccp_ray.index import index
from ccp_ray.index_config import IndexConfig
from ccp_ray.ledger import put_file
from ccp_ray.lines import write_packed
from ccp_ray.model_source import model_reference
from ccp_ray.pair_sources import Asked, Passage, SourceConfig, read_source
from ccp_ray.passages import TITLE_END
from ccp_ray.progress import Meter
from ccp_ray.records import BadRow, check_bad_rows
from ccp_ray.search import Hit, Index
from ccp_ray.sentences import Quarantine, text_hash

_BLOCK = 1024
_YES_OR_NO, _BY_ANSWER, _NOT_FOUND = "questions_of_yes_or_no", "questions_by_answer", "questions_without_passage"


class MineConfig(StrictModel):
    """Which questions, and which of the hits become negatives."""

    sources: list[SourceConfig] = Field(min_length=1)
    first: int = Field(default=1, ge=1, description="rank of the first hit that is looked at")
    last: int = Field(default=100, ge=1, description="and of the last")
    keep: int = Field(default=8, ge=1, description="negatives a question, the highest ranked")
    max_bad_share: float = Field(default=0.01, ge=0, le=1, description="rows that may be unusable")
    question_encoder: str | None = Field(default=None, description="of two encoders; None: that of the passages")
    question_tokens: int | None = Field(default=None, ge=4, description="None: as many as the encoder reads")
    question_prompt: str | None = Field(default=None, description="None: that of the passages, or the folder's own")
    embed: EmbedConfig = EmbedConfig()
    index: IndexConfig = IndexConfig()

    @model_validator(mode="after")
    def _consistent(self) -> MineConfig:
        if self.first > self.last:
            raise ValueError(f"first={self.first} is more than last={self.last}")
        return self

    def request(self) -> dict[str, Any]:
        """What decides the result of a search: neither places, nor how the index was made."""
        dumped = self.model_dump(mode="json", exclude={"embed", "index", "sources", "question_encoder"})
        return dumped | {"sources": [{"lang": source.lang} for source in self.sources]}


def mine_passages(encoder: str, passages: str, output: str, config: MineConfig) -> Artifact:
    """Embed and index the passages, then search: artifacts `embeddings`, `index` and `pairs` below the output.

    passages: JSON lines or parquet with `id` and `text`, or a corpus, as `embed` takes them. Returns the pairs.
    """
    vectors = embed(encoder, passages, f"{output}/embeddings", config.embed)
    made = index(vectors.uri, f"{output}/index", config.index)
    return mine(made.uri, f"{output}/pairs", config)


def mine(index_uri: str, output: str, config: MineConfig) -> Artifact:
    """Search an index for every question of the sources. Returns the finished artifact (kind "pairs").

    Raises UsageError for a source or index that is not there, DataError for too many bad rows or no question.
    """
    started = time.monotonic()
    inputs = [open_artifact(index_uri, "index").ref("index")]
    if config.question_encoder is not None:
        inputs.append(model_reference("question_encoder", config.question_encoder))
    for number, source in enumerate(config.sources):
        read = source.files()
        inputs.append(InputRef(role=f"source-{number}", uri=read[0].uri, fingerprint=fingerprint(read)))
    target = open_output(output, Request(kind="pairs", config=config.request(), inputs=inputs))
    if isinstance(target, Artifact):
        return target
    with target.unless_refused(), tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        quarantine = Quarantine(Path(scratch, "rows.jsonl"))
        told = Counter({_BY_ANSWER: 0, _NOT_FOUND: 0, _YES_OR_NO: 0})
        asked = list(_usable(config, quarantine, told))
        rows = quarantine.rows + told[_YES_OR_NO] + len(asked)
        check_bad_rows(quarantine.rows, rows, config.max_bad_share, quarantine.first)
        if not asked:
            raise DataError(f"{config.sources[0].files()[0].uri}: no question that could be used")
        path = Path(scratch, "pairs.jsonl.gz")
        counts = _write_rows(path, _mined(index_uri, asked, config, told))
        if not counts:
            raise DataError(
                f"{config.sources[0].files()[0].uri}: no passage among ranks 1 to {config.last} holds an answer; "
                "raise last, or search passages that answer these questions"
            )
        written = [*quarantine.put(target.uri, "quarantine/rows.jsonl"), put_file(target.store, path.name, path)]
    summary = {
        "questions": len(counts),
        "negatives": sum(counts),
        "questions_with_fewer": sum(count < config.keep for count in counts),
        "quarantined": quarantine.rows,
        **told,
    }
    return target.finish(written, summary, {"seconds": time.monotonic() - started})


def _write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> list[int]:
    """Write the rows as they come. Returns how many negatives each has."""
    counts: list[int] = []

    def counted() -> Iterator[dict[str, Any]]:
        for row in rows:
            counts.append(len(row["hard_negative_ctxs"]))
            yield row

    with open(path, "wb") as file:
        write_packed(file, counted())
    return counts


def _usable(config: MineConfig, quarantine: Quarantine, told: Counter[str]) -> Iterator[Asked]:
    """The questions, without the negatives that their sources have: they are to be replaced."""
    for source in config.sources:
        for row in read_source(source, answers_suffice=True):
            if isinstance(row, BadRow):
                quarantine.add(row)
            elif not row.positives and not Answers(row.answers):
                told[_YES_OR_NO] += 1
            else:
                yield row._replace(negatives=[])


def _mined(index_uri: str, asked: Sequence[Asked], config: MineConfig, told: Counter[str]) -> Iterator[dict[str, Any]]:
    """The questions as DPR's rows, each with its negatives; without those that no passage answers."""
    waiting = iter(asked)
    with Index.open(index_uri) as opened, Meter("mine", len(asked), "questions") as meter:
        encode = _question_encoder(opened, config)
        while block := list(islice(waiting, _BLOCK)):
            found = opened.search(encode(block), config.last)
            for one, hits in zip(block, found, strict=True):
                if not one.positives:
                    one = one._replace(positives=answering(one, hits))
                    told[_BY_ANSWER if one.positives else _NOT_FOUND] += 1
                if one.positives:
                    yield _row(one, list(islice(hard_negatives(one, hits[config.first - 1 :]), config.keep)))
            meter.update(len(block))


def _question_encoder(opened: Index, config: MineConfig) -> Any:
    """A function of questions: their vectors [Q, D]."""
    from ccp_ray.encoder import Encoder

    queries, prompt = opened.queries, config.question_prompt
    own = config.question_encoder
    encoder = queries.encoder if own is None else Encoder.load(own, prompt=prompt).packed()
    encoder.max_tokens = min(encoder.max_tokens, config.question_tokens or encoder.max_tokens)
    return lambda block: queries.calibrate(
        encoder.encode([one.question for one in block], prompt=prompt), [one.lang for one in block]
    )


def answering(asked: Asked, hits: Sequence[Hit]) -> list[Passage]:
    """The first hit that holds an answer, in its text and not in its title alone; none where there is none."""
    answers = Answers(asked.answers)
    found = (hit for hit in hits if answers.holds(hit.text.partition(TITLE_END)[2] or hit.text))
    return [Passage("", hit.text, hit.id) for hit in islice(found, 1)]


def hard_negatives(asked: Asked, hits: Sequence[Hit]) -> Iterator[Hit]:
    """The hits that do not answer the question, in their order, no text twice."""
    ids = {passage.id for passage in asked.positives if passage.id}
    known = {text_hash(text) for passage in asked.positives for text in (passage.whole, passage.text)}
    answers = Answers(asked.answers)
    for hit in hits:
        key = text_hash(hit.text)
        if hit.id not in ids and key not in known and not answers.touches(hit.text):
            yield hit
            known.add(key)


def _row(asked: Asked, negatives: Sequence[Hit]) -> dict[str, Any]:
    return {
        "id": asked.id,
        "lang": asked.lang,
        "question": asked.question,
        "answers": asked.answers,
        "positive_ctxs": [_context(passage) for passage in asked.positives],
        "hard_negative_ctxs": [{"title": "", "text": hit.text, "id": hit.id} for hit in negatives],
    }


def _context(passage: Passage) -> dict[str, str]:
    return {"title": passage.title, "text": passage.text} | ({"id": passage.id} if passage.id else {})
