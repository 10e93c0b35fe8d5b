"""prepare: documents in any of the input formats become a corpus that training reads by position.

Four passes, each a plan of pieces under the ledger, so a killed run continues where it was:

1. sentences   one task a split of the input: read, split, write parquet parts
2. repeats     one task a language: repeated ids and repeated sentences, from 64-bit hashes
3. tokenizer   one task: train a Unigram on a sample (a given encoder's tokenizer is copied instead)
4. tokens      one task a part: drop repeated documents, write the token shard

Memory a task: four parts of `part_rows` sentences (about 200 MB with the defaults) or 16 million hashes (about 600 MB
while they are sorted), whatever the corpus's size. The driver keeps one record a part, 65,536 sentences each.
"""

from __future__ import annotations

import functools
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq
from pydantic import Field

from ccp_ray.artifact import Artifact, InputRef, Output, Request, open_output
from ccp_ray.config import StrictModel, semantic
from ccp_ray.corpus import PARTS, TOKENIZER, Part
from ccp_ray.documents import SPLIT_BYTES, find_documents, fingerprint, plan_splits
from ccp_ray.duplicates import find_repeats
from ccp_ray.errors import DataError, UsageError
from ccp_ray.ledger import Entry, Ledger, put_bytes
from ccp_ray.lines import SourceFile
from ccp_ray.pieces import run_pieces
from ccp_ray.records import FREE_BAD_ROWS, BadRow, Split, check_bad_rows
from ccp_ray.sentences import SPLITTER, RawPart, SentencesConfig, make_sentences
from ccp_ray.session import ray_session
from ccp_ray.storage import absolute_uri, open_store
from ccp_ray.tokenizer import GivenTokenizer, TokenizerConfig, store_trained
from ccp_ray.tokens import make_tokens

_SAMPLED_PARTS = 64


class PrepareResources(StrictModel):
    """How the work is run; never part of a fingerprint."""

    cpus_per_task: float = Field(default=1, gt=0)


class PrepareConfig(SentencesConfig):
    """Everything that decides what the corpus holds."""

    min_documents: int = Field(default=2, ge=1, description="training documents that a language must have")
    max_tokens: int = Field(default=64, ge=1, description="a sentence, without special tokens; longer ones are cut")
    max_bad_share: float = Field(
        default=0.01, ge=0, le=1, description="of rows; more than this and than 10 is an error"
    )
    split_bytes: int = Field(default=SPLIT_BYTES, ge=1, description="of a large file that one task reads")
    tokenizer: TokenizerConfig = TokenizerConfig()
    resources: PrepareResources = PrepareResources()


def prepare(documents: Sequence[str], output: str, config: PrepareConfig | None = None) -> Artifact:
    """Make a corpus of the documents that the inputs name, or return it if it is there already.

    Runs in the current Ray session, or in a local Ray of its own. Raises UsageError for inputs that are missing or
    of an unknown format, DriftError if the output holds something else, DataError for an empty corpus, too many bad
    rows or a language with too few documents; then nothing stays in the output.
    """
    config = config or PrepareConfig()
    _check_apart(documents, output)
    files = find_documents(documents)
    given = GivenTokenizer(config.tokenizer.source) if config.tokenizer.source else None
    where = " ".join(map(absolute_uri, documents))
    inputs = [InputRef(role="documents", uri=where, fingerprint=fingerprint(files))]
    asked = semantic(config)
    asked["tokenizer"]["source"] = "given" if given else None  # its place may change; the input's fingerprint holds it
    request = Request(kind="corpus", config=asked, inputs=inputs + ([given.reference()] if given else []))
    opened = open_output(output, request)
    if isinstance(opened, Artifact):
        return opened
    with opened.unless_refused(), ray_session():
        return _Run(opened, config).run(files, given)


def _check_apart(documents: Sequence[str], output: str) -> None:
    """A corpus inside its own input would be read as documents the next time, and seem to have drifted."""
    for uri in documents:
        if f"{absolute_uri(output)}/".startswith(f"{absolute_uri(uri)}/"):
            raise UsageError(f"--output {output}: lies inside the input {uri}; choose a folder beside it")


class _Run:
    def __init__(self, output: Output, config: PrepareConfig) -> None:
        self.output, self.config = output, config
        self.start = time.monotonic()

    def run(self, files: Sequence[SourceFile], given: GivenTokenizer | None) -> Artifact:
        config, uri = self.config, self.output.uri
        splits = {f"{i:05d}": split for i, split in enumerate(plan_splits(files, config.split_bytes))}
        read = self._pieces(
            "sentences",
            {name: split.model_dump_json() for name, split in splits.items()},
            functools.partial(make_sentences, uri, SentencesConfig(**_only(SentencesConfig, config))),
            check=functools.partial(_stop_early, len(splits), config.max_bad_share),
        )
        raw = sorted(
            (RawPart.model_validate(part) for entry in read.values() for part in entry.info["parts"]), key=_part_order
        )
        self._check_rows(read, raw)
        repeats = self._pieces(
            "repeats",
            {lang: _json([part for part in raw if part.lang == lang]) for lang in _languages(raw)},
            functools.partial(find_repeats, uri),
        )
        drop: dict[str, list[int]] = {}
        for entry in repeats.values():
            drop |= entry.info["drop"]
        self._check_languages(read, raw, drop)
        tokenizer = self._tokenizer(given, [part for part in raw if part.split == "train"])
        tokens = self._tokens(raw, drop, splits, tokenizer)
        parts = [_final(part, tokens) for part in raw]
        return self._finish(read, repeats, tokenizer, tokens, [part for part in parts if part.rows])

    def _pieces(self, stage: str, plan: Mapping[str, str], work: Any, check: Any = None) -> dict[str, Entry]:
        return run_pieces(self.output, stage, plan, work, check=check, cpus=self.config.resources.cpus_per_task)

    def _tokenizer(self, given: GivenTokenizer | None, parts: Sequence[RawPart]) -> Entry:
        if given is None:
            settings, uri = self.config.tokenizer, self.output.uri

            def train(name: str, payload: str) -> Entry:
                del name
                chosen = [RawPart.model_validate(part) for part in json.loads(payload)]
                return store_trained(uri, _sample(uri, chosen, settings.sample_characters), settings.vocabulary)

            return self._pieces("tokenizer", {"tokenizer": _json(_sampled_parts(parts))}, train)["tokenizer"]
        ledger = Ledger(self.output.store, "_ledger/tokenizer")
        if "tokenizer" not in ledger.committed():
            ledger.commit("tokenizer", given.put(self.output.store))
        return ledger.read("tokenizer")

    def _tokens(
        self, raw: Sequence[RawPart], drop: Mapping[str, list[int]], splits: Mapping[str, Split], tokenizer: Entry
    ) -> dict[str, Entry]:
        plan = {
            part.name: json.dumps(
                {
                    "part": part.model_dump(),
                    "drop": drop.get(part.name, []),
                    "source": splits[part.piece].files[0].name,
                }
            )
            for part in raw
            if part.split == "train" or part.name in drop
        }
        sha256 = next(file.sha256 for file in tokenizer.files if file.path == f"{TOKENIZER}/tokenizer.json")
        work = functools.partial(make_tokens, self.output.uri, self.config.max_tokens, sha256)
        return self._pieces("tokens", plan, work)

    def _check_rows(self, read: Mapping[str, Entry], raw: Sequence[RawPart]) -> None:
        total = sum(entry.rows + entry.quarantined + entry.info["left_out"] for entry in read.values())
        bad = sum(entry.quarantined for entry in read.values())
        check_bad_rows(bad, total, self.config.max_bad_share, _first_bad(read))
        if not raw:
            first = _first_bad(read)
            why = f"; the first is {first.source}, {first.row}: {first.reason}" if first else ""
            left_out = sum(entry.info["left_out"] for entry in read.values())
            raise DataError(
                f"no sentence in {total:,} rows ({bad:,} cannot be used, {left_out:,} are of other languages){why}"
            )

    def _check_languages(
        self, read: Mapping[str, Entry], raw: Sequence[RawPart], drop: Mapping[str, list[int]]
    ) -> None:
        repeated, total = sum(map(len, drop.values())), sum(entry.rows for entry in read.values())
        bad = sum(entry.quarantined for entry in read.values()) + repeated
        if repeated:
            first = BadRow(f"part {next(iter(drop))}", "an id", "an earlier document has this id", "")
            check_bad_rows(bad, total, self.config.max_bad_share, first)
        counts = dict.fromkeys([*_languages(raw), *(self.config.languages or [])], 0)
        for part in raw:
            if part.split == "train":
                counts[part.lang] += part.documents - len(drop.get(part.name, []))
        least = self.config.min_documents
        few = [f"{lang} has {count}" for lang, count in sorted(counts.items()) if count < least]
        if few:
            raise DataError(
                f"too few training documents: {', '.join(few)}, expected {least} and more (min_documents). "
                "Add text in these languages, or name only the others in `languages`"
            )

    def _finish(
        self,
        read: Mapping[str, Entry],
        repeats: Mapping[str, Entry],
        tokenizer: Entry,
        tokens: Mapping[str, Entry],
        parts: Sequence[Part],
    ) -> Artifact:
        store = self.output.store
        listing = json.dumps([part.model_dump() for part in parts], indent=1).encode()
        entries = [*read.values(), *repeats.values(), tokenizer, *tokens.values()]
        known = {part.sentences for part in parts}
        files = [put_bytes(store, PARTS, listing)]
        for record in (record for entry in entries for record in entry.files):
            if record.path.startswith("sentences/") and record.path not in known:
                store.delete(record.path)  # replaced by its -unique twin
            else:
                files.append(record)
        for info in list(store.list("_work/")):
            store.delete(info.key)
        summary = {
            "languages": {lang: _statistics(lang, parts, repeats[lang]) for lang in _languages(parts)},
            "quarantined": sum(entry.quarantined for entry in entries),
            "left_out": sum(entry.info["left_out"] for entry in read.values()),
            "sentences_too_short": sum(entry.info["short"] for entry in read.values()),
            "sentences_shortened": sum(entry.info["long"] for entry in read.values()),
            "sentences_cut_at_max_tokens": sum(entry.info["cut"] for entry in tokens.values()),
            "splitter": SPLITTER,
            "tokenizer": tokenizer.info,
        }
        return self.output.finish(files, summary, {"seconds": round(time.monotonic() - self.start, 2)})


def _only(model: type[StrictModel], config: StrictModel) -> dict[str, Any]:
    return {name: getattr(config, name) for name in model.model_fields}


def _stop_early(splits: int, max_share: float, done: Mapping[str, Entry]) -> None:
    """Stop while pieces are left only if so many rows are bad that clean ones cannot make up for them."""
    rows = sum(entry.rows + entry.quarantined + entry.info["left_out"] for entry in done.values())
    bad = sum(entry.quarantined for entry in done.values())
    if bad > FREE_BAD_ROWS and bad > max_share * rows * splits / len(done):
        check_bad_rows(bad, rows, max_share, _first_bad(dict(sorted(done.items()))))


def _first_bad(entries: Mapping[str, Entry]) -> BadRow | None:
    return next((BadRow(*e.info["first_bad"]) for e in entries.values() if e.info["first_bad"]), None)


def _part_order(part: RawPart) -> tuple[str, bool, str, int]:
    return part.lang, part.split == "dev", part.piece, part.number


def _languages(parts: Sequence[RawPart] | Sequence[Part]) -> list[str]:
    return sorted({part.lang for part in parts})


def _json(parts: Sequence[RawPart]) -> str:
    return json.dumps([part.model_dump() for part in parts])


def _sampled_parts(parts: Sequence[RawPart]) -> list[RawPart]:
    """At most 64 parts a language, evenly spaced: what the tokenizer's sample is drawn from."""
    out: list[RawPart] = []
    for lang in _languages(parts):
        mine = [part for part in parts if part.lang == lang]
        step = max(1, -(-len(mine) // _SAMPLED_PARTS))
        out += mine[::step]
    return out


def _sample(store_uri: str, parts: Sequence[RawPart], characters: int) -> Iterator[str]:
    """Sentences for the tokenizer: the same number of characters of every language, evenly spaced in each part.

    A language with less than its share gives all it has.
    """
    store = open_store(store_uri)
    languages = _languages(parts)
    for lang in languages:
        mine = [part for part in parts if part.lang == lang]
        quota = max(1, characters // len(languages) // len(mine))
        for part in mine:
            texts = pq.read_table(io.BytesIO(store.read(part.sentences)), columns=["text"])["text"].to_pylist()
            step = max(1, -(-sum(map(len, texts)) // quota))
            yield from texts[::step]


def _final(part: RawPart, tokens: Mapping[str, Entry]) -> Part:
    if part.name in tokens:
        return Part.model_validate(tokens[part.name].info["part"])
    return Part.model_validate(part.model_dump(exclude={"piece", "number", "ids"}) | {"tokens": None, "token_count": 0})


def _statistics(lang: str, parts: Sequence[Part], repeats: Entry) -> dict[str, int]:
    mine = [part for part in parts if part.lang == lang]
    train, dev = (sum(part.rows for part in mine if part.split == split) for split in ("train", "dev"))
    return {
        "documents": sum(part.documents for part in mine),
        "sentences": train + dev,
        "train_sentences": train,
        "dev_sentences": dev,
        "tokens": sum(part.token_count for part in mine),
        "duplicates": repeats.info["duplicates"],
    }
