"""Questions and passages as token ids that are read by position: what fine-tuning draws batches from.

    _data/train/questions-tokens.npy    uint16 or uint32: ids without special tokens, all questions end to end
    _data/train/questions-starts.npy    int64 [Q+1], where each begins
    _data/train/passages-….npy          the same of the passages, each text once however many questions name it
    _data/train/positives.npy, positives-starts.npy     int64: passages of question q are [starts[q], starts[q+1])
    _data/train/negatives.npy, negatives-starts.npy     the same, hardest first
    _data/train/languages.npy           int64 [Q], numbers of the languages in the ledger's entry
    _data/train/hashes.npy              uint64 [Q], of the questions' texts: copies of one question are known by it

One pass over the sources writes them, in the order of the sources, so the same sources give the same bytes. Passages
are known by `text_hash` (case, width and blanks aside), so one that two questions share is one row, and a batch sees
it. Cost: a core tokenises 3 to 5 MB of text a second; of each question the first `negatives` hard negatives are kept.

A question may stand in several rows, of several sources: what answers it in one row answers it in all, and is a
negative of none. What a later copy takes from an earlier one is not made up for, so that one may keep fewer.

Arrays are memory-mapped by the workers, beside 16 bytes a question in memory, by which copies are found. They are
working files of the run and no part of its artifact.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccp_ray.batching import Tokens
from ccp_ray.errors import DataError
from ccp_ray.ledger import Entry, FileRecord, put_bytes, verified_copy
from ccp_ray.model_source import cache_folder
from ccp_ray.pair_sources import Asked, Passage, SourceConfig, read_source
from ccp_ray.records import BadRow, check_bad_rows
from ccp_ray.sentences import Quarantine, array_bytes, text_hash
from ccp_ray.storage import Store, open_store
from ccp_ray.text_reader import TextReader, special_tokens

_BATCH = 1024
_HEADER = 128  # bytes of a .npy file before its numbers
_TEXTS = ("questions", "passages")
_LISTS = ("positives", "negatives")

Numbers = NDArray[np.int64]


class Readers(NamedTuple):
    """How each side's texts become tokens."""

    question: TextReader
    passage: TextReader


class _Texts:
    """Token ids end to end, as they come; texts wait until there are enough to tokenise at once."""

    def __init__(self, reader: TextReader) -> None:
        self.reader = reader
        prefix, suffix = special_tokens(reader.tokenizer)
        self._around = len(prefix), len(suffix)
        self._dtype = np.uint16 if len(reader.tokenizer) <= 1 << 16 else np.uint32
        self._waiting: list[str] = []
        self._rows: list[NDArray[Any]] = []
        self.count = self.cut = 0

    def add(self, text: str) -> int:
        """The text's number."""
        self._waiting.append(text)
        self.count += 1
        if len(self._waiting) == _BATCH:
            self._tokenise()
        return self.count - 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        self._tokenise()
        lengths = np.fromiter(map(len, self._rows), dtype=np.int64, count=len(self._rows))
        tokens = np.concatenate(self._rows) if self._rows else np.zeros(0, self._dtype)
        return {"tokens": tokens, "starts": np.concatenate([[0], np.cumsum(lengths)])}

    def _tokenise(self) -> None:
        if not self._waiting:
            return
        rows, cut = self.reader.tokenize(self._waiting)
        before, after = self._around
        self._rows += [row[before : len(row) - after].astype(self._dtype) for row in rows]
        self.cut += cut
        self._waiting.clear()


class _Builder:
    """Takes questions in, one by one."""

    def __init__(self, readers: Readers, negatives: int) -> None:
        self.texts = {"questions": _Texts(readers.question), "passages": _Texts(readers.passage)}
        self.negatives = negatives
        self._known: dict[int, int] = {}
        self._lists: dict[str, list[list[int]]] = {name: [] for name in _LISTS}
        self._languages: dict[str, int] = {}
        self._language_of: list[int] = []
        self._hashes: list[int] = []
        self._answers: dict[int, list[int]] = {}  # by the question's hash: the positives of all its copies
        self.contradictions = 0

    def add(self, asked: Asked) -> None:
        self.texts["questions"].add(asked.question)
        self._hashes.append(text_hash(asked.question))
        answers = self._answers.setdefault(self._hashes[-1], [])
        self._language_of.append(self._languages.setdefault(asked.lang, len(self._languages)))
        positives = list(dict.fromkeys(map(self._passage, asked.positives)))
        answers += [passage for passage in positives if passage not in answers]
        chosen: list[int] = []
        for passage in asked.negatives:
            if len(chosen) == self.negatives:
                break
            if self._known.get(text_hash(passage.whole)) in answers:
                self.contradictions += 1
            else:
                chosen.append(self._passage(passage))
        self._lists["positives"].append(positives)
        self._lists["negatives"].append(list(dict.fromkeys(chosen)))

    def settle(self) -> None:
        """After the last question: take back the negatives that a later copy of their question names as an answer."""
        for key, negatives in zip(self._hashes, self._lists["negatives"], strict=True):
            kept = [passage for passage in negatives if passage not in self._answers[key]]
            self.contradictions += len(negatives) - len(kept)
            negatives[:] = kept

    def arrays(self) -> dict[str, NDArray[Any]]:
        found = {f"{name}-{part}": array for name in _TEXTS for part, array in self.texts[name].arrays().items()}
        for name, lists in self._lists.items():
            found[name] = np.array([number for each in lists for number in each], dtype=np.int64)
            found[f"{name}-starts"] = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        found["languages"] = np.array(self._language_of, dtype=np.int64)
        return found | {"hashes": np.array(self._hashes, dtype=np.uint64)}

    def info(self) -> dict[str, Any]:
        counts = np.bincount(self._language_of, minlength=len(self._languages)).tolist()
        return {
            "questions": len(self._hashes),
            "passages": self.texts["passages"].count,
            "languages": dict(zip(self._languages, counts, strict=True)),
            "negatives": sum(map(len, self._lists["negatives"])),
            "contradictions": self.contradictions,
            "cut_questions": self.texts["questions"].cut,
            "cut_passages": self.texts["passages"].cut,
        }

    def _passage(self, passage: Passage) -> int:
        key = text_hash(passage.whole)
        if key not in self._known:
            self._known[key] = self.texts["passages"].add(passage.whole)
        return self._known[key]


def write_pairs(
    store_uri: str, split: str, sources: Sequence[SourceConfig], readers: Readers, negatives: int, max_bad_share: float
) -> Entry:
    """Read the sources into arrays below `_data/SPLIT/`; rows that cannot be used go to `quarantine/SPLIT.jsonl`.

    negatives: hard negatives of a question that are kept, the first ones, without those that are positives of one of
    its copies ("contradictions"). Raises UsageError, DataError (too many bad rows, no question at all).
    """
    store, builder = open_store(store_uri), _Builder(readers, negatives)
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        quarantine = Quarantine(Path(scratch, "rows.jsonl"))
        for source in sources:
            for row in read_source(source):
                if isinstance(row, BadRow):
                    quarantine.add(row)
                else:
                    builder.add(row)
        builder.settle()
        info = builder.info()
        check_bad_rows(quarantine.rows, quarantine.rows + info["questions"], max_bad_share, quarantine.first)
        if not info["questions"]:
            first = quarantine.first
            reason = f"; the first row, {first.source}, {first.row}: {first.reason}" if first else ""
            raise DataError(f"{split}: no question that could be used{reason}")
        files = quarantine.put(store_uri, f"quarantine/{split}.jsonl")
    for name, array in builder.arrays().items():
        files.append(put_bytes(store, f"_data/{split}/{name}.npy", array_bytes(array)))
    return Entry(rows=info["questions"], quarantined=quarantine.rows, files=files, info=info)


class PairData:
    """The arrays that `write_pairs` left, memory-mapped."""

    def __init__(self, store: Store, entry: Entry, readers: Readers) -> None:
        """Raises DamagedError for an array that is not what was written."""
        records = {_name(record): record for record in entry.files if record.path.endswith(".npy")}
        self._arrays: Mapping[str, NDArray[Any]] = {
            name: _mapped(verified_copy(store, record, cache_folder() / "pairs")) for name, record in records.items()
        }
        self._around = {"questions": special_tokens(readers.question.tokenizer)}
        self._around["passages"] = special_tokens(readers.passage.tokenizer)
        self.languages = list(entry.info["languages"])
        self.language_Q: Numbers = self._arrays["languages"]
        self.hashes_Q: NDArray[np.uint64] = self._arrays["hashes"]
        self._copies_Q = np.argsort(self.hashes_Q, kind="stable")  # copies of a question side by side
        self._sorted_Q = self.hashes_Q[self._copies_Q]

    @property
    def questions(self) -> int:
        return len(self.language_Q)

    @property
    def passages(self) -> int:
        return len(self._arrays["passages-starts"]) - 1

    def question_tokens(self, numbers: Sequence[int] | Numbers) -> list[Tokens]:
        """Model inputs of these questions, special tokens included."""
        return [self._row("questions", int(number)) for number in numbers]

    def passage_tokens(self, numbers: Sequence[int] | Numbers) -> list[Tokens]:
        return [self._row("passages", int(number)) for number in numbers]

    def positives(self, question: int) -> Numbers:
        """Passages that its row names as its answers; one or more."""
        return self._list("positives", question)

    def answers(self, question: int) -> Numbers:
        """Passages that answer it: the positives of all its copies, in whichever rows."""
        key = self.hashes_Q[question]
        first, last = (int(np.searchsorted(self._sorted_Q, key, side)) for side in ("left", "right"))
        return np.unique(np.concatenate([self.positives(int(copy)) for copy in self._copies_Q[first:last]]))

    def negatives(self, question: int) -> Numbers:
        return self._list("negatives", question)

    def negative_counts(self) -> Numbers:
        """Hard negatives of each question [Q]."""
        return np.diff(self._arrays["negatives-starts"])

    def _row(self, side: str, number: int) -> Tokens:
        starts, (prefix, suffix) = self._arrays[f"{side}-starts"], self._around[side]
        return np.concatenate(
            [prefix, self._arrays[f"{side}-tokens"][starts[number] : starts[number + 1]], suffix]
        ).astype(np.int64)

    def _list(self, name: str, question: int) -> Numbers:
        starts = self._arrays[f"{name}-starts"]
        return np.asarray(self._arrays[name][starts[question] : starts[question + 1]])


def _mapped(path: Path) -> NDArray[Any]:
    """A plain array over the mapped file: np.memmap costs 6 microseconds a slice, and maps no empty array."""
    mapped: NDArray[Any] = np.load(path, "r" if path.stat().st_size > _HEADER else None, allow_pickle=False).view(
        np.ndarray
    )
    return mapped


def _name(record: FileRecord) -> str:
    return record.path.rpartition("/")[2].removesuffix(".npy")
