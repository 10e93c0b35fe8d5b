"""From ranked benchmarks to runs: questions and collections embedded, every question answered, for each variant.

    questions ─┐  embed ──► vectors by (id, language) ──► calibrated ─┐
    collection ┴─ embed ──► pieces ───────────────────────────────────┴─► exact search ──► Run ──► score

A collection that several benchmarks share is embedded once, and searched once for the questions and variants of all.
Its rows that name no language are of the one that the collection is named for (Mr.TyDi's and XOR-Retrieve's files name
none). Scores of hits are rounded to the six decimals that a TREC file has, so that a run file scored elsewhere, or by
`--run`, has the same ties. Memory: vectors of the questions, one piece of a collection, and the hits (questions x
depth, with texts where a benchmark scores them: each text once).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ccp_ray.artifact import Output
from ccp_ray.calibration import Calibration
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DataError
from ccp_ray.ledger import FileRecord, put_bytes
from ccp_ray.ranking import places
from ccp_ray.storage import Store
from eval.collection_texts import texts_of
from eval.exact import UNNAMED, Asked, Similarity, Space, placed
from eval.exact_job import Search, run_search
from eval.kept_embeddings import Encoding, Keeper
from eval.loading import question_text
from eval.protocol import VARIANTS, Text, Vectors, distinct, to_json_lines
from eval.ranked import Collection, Hit, Judged, Question, RankedBenchmark, Run
from eval.run_reader import to_predictions, to_trec

_DECIMALS = 6
_TAG = "ccp-ray"


class Asking(NamedTuple):
    """How questions and passages become vectors and are compared. calibration: URI."""

    questions: Encoding
    passages: Encoding
    calibration: str | None
    similarity: Similarity


class Answers:
    """Hits of all questions of some benchmarks. Everything is embedded and searched when it is made."""

    def __init__(self, target: Output, keeper: Keeper, benchmarks: Mapping[str, RankedBenchmark], how: Asking) -> None:
        self._target, self._keeper, self._benchmarks, self._how = target, keeper, benchmarks, how
        self.calibration = Calibration.open(how.calibration) if how.calibration else None
        self.variants = list(VARIANTS) if self.calibration else ["raw"]
        self.files: list[FileRecord] = []
        self.passages: dict[str, int] = {}
        """Rows by URI of the collection."""
        self._rows: dict[str, dict[str, int]] = {}
        self._hits: dict[str, dict[str, pa.Table]] = {}
        vectors = self._question_vectors()
        for number, (uri, collection) in enumerate(self._collections().items()):
            self._answer(number, uri, collection, vectors)

    def run(self, benchmark: RankedBenchmark, variant: str) -> dict[str, dict[str, list[Hit]]]:
        """The hits of a benchmark's questions, its depth at most: a `Run`."""
        uris = {one.name: one.uri for one in benchmark.collections()}
        lists = {uri: _lists(self._hits[uri][variant], len(self._rows[uri]), benchmark) for uri in uris.values()}
        found: dict[str, dict[str, list[Hit]]] = {}
        for question in benchmark.questions():
            uri = uris[question.collection]
            found.setdefault(question.lang, {})[question.id] = lists[uri][self._rows[uri][question_text(question).id]]
        return found

    def _question_vectors(self) -> Vectors:
        keys = []
        for name, benchmark in self._benchmarks.items():
            data = to_json_lines(distinct(map(question_text, benchmark.questions())))
            keys.append(f"questions/{name}.jsonl.gz")
            self.files.append(put_bytes(self._target.store, keys[-1], data))
        uris = [self._target.store.uri(key) for key in (keys if self._keeper.cached else ["questions"])]
        found = [self._keeper.embedded(uri, self._how.questions, "question_embeddings") for uri in uris]
        return Vectors.read(*(Embeddings.open(artifact.uri) for artifact in found))

    def _collections(self) -> dict[str, Collection]:
        """By URI; the first name counts."""
        found: dict[str, Collection] = {}
        for benchmark in self._benchmarks.values():
            for collection in benchmark.collections():
                found.setdefault(collection.uri, collection)
        return found

    def _asking(self, uri: str) -> Iterator[tuple[RankedBenchmark, list[Question]]]:
        """Benchmarks with questions of a collection."""
        for benchmark in self._benchmarks.values():
            names = {one.name for one in benchmark.collections() if one.uri == uri}
            chosen = [question for question in benchmark.questions() if question.collection in names]
            if chosen:
                yield benchmark, chosen

    def _answer(self, number: int, uri: str, collection: Collection, vectors: Vectors) -> None:
        asking = list(self._asking(uri))
        embedded = self._keeper.embedded(uri, self._how.passages, f"passages/{number:02d}-{collection.name}")
        embeddings = Embeddings.open(embedded.uri)
        if self.calibration is not None:
            check_passages(collection, embeddings.languages, self.calibration, str(self._how.calibration))
        for benchmark in self._benchmarks.values():
            if isinstance(benchmark, Judged) and collection in benchmark.collections():
                benchmark.check_documents(collection.name, _ids(embeddings))
        texts = distinct(question_text(question) for _, chosen in asking for question in chosen)
        depth = max((benchmark.depth for benchmark, _ in asking), default=1)
        asked = {variant: self._asked(variant, texts, vectors) for variant in self.variants}
        how = self._how
        name, space = f"search-{number:02d}", (how.calibration, how.similarity, collection.name)
        hits = run_search(self._target, Search(name, embedded.uri, asked, depth, *space))
        if any(benchmark.needs_text for benchmark, _ in asking):
            hits = _with_texts(uri, hits)
        self._hits[uri], self.passages[uri] = hits, embeddings.rows
        self._rows[uri] = {text.id: row for row, text in enumerate(texts)}

    def _asked(self, variant: str, texts: Sequence[Text], vectors: Vectors) -> Asked:
        steps = VARIANTS[variant]
        rows_QD = np.concatenate([vectors.get([text.id], text.lang) for text in texts])
        languages = [text.lang for text in texts]
        return Asked(steps, placed(rows_QD, languages, steps, Space(self.calibration, self._how.similarity)))


def check_passages(collection: Collection, languages: Iterable[str], calibration: Calibration, uri: str) -> None:
    """Raises DataError where a calibration (and its URI, for the message) lacks a language of a collection's rows."""
    named = {collection.name if lang == UNNAMED else lang for lang in languages}
    lacking = sorted(named - set(calibration.languages))
    if lacking:
        raise DataError(
            f"{collection.uri}: passages in {', '.join(lacking)}, which the calibration {uri} lacks; it knows "
            f"{', '.join(calibration.languages)}. Restrict the benchmark's languages, or leave out the calibration"
        )


def _ids(embeddings: Embeddings) -> Iterator[str]:
    """Of all passages, piece after piece."""
    start = 0
    for piece in embeddings.pieces:
        yield from embeddings.ids(start, start + piece.rows)
        start += piece.rows


def write_runs(store: Store, benchmark: RankedBenchmark, variant: str, run: Run) -> list[FileRecord]:
    """runs/NAME/VARIANT/LANG.trec for each language, and predictions.json where texts are scored: what `--run` reads.

    Raises DataError for an id that a TREC run cannot hold.
    """
    folder = f"runs/{benchmark.name}/{variant}"
    records = [put_bytes(store, f"{folder}/{lang}.trec", to_trec(questions, _TAG)) for lang, questions in run.items()]
    if benchmark.needs_text:
        records.append(put_bytes(store, f"{folder}/predictions.json", to_predictions(run)))
    return records


def _with_texts(uri: str, hits: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """The hits of all variants with their texts as distributed (embedded ones have their titles before them)."""
    names = {variant: table.column("id").to_pylist() for variant, table in hits.items()}
    texts = texts_of(uri, {name for each in names.values() for name in each})
    return {
        variant: table.append_column("text", pa.array([texts[name] for name in names[variant]], pa.large_string()))
        for variant, table in hits.items()
    }


def _lists(hits: pa.Table, queries: int, benchmark: RankedBenchmark) -> list[list[Hit]]:
    """Hits of each query number, down to the benchmark's depth."""
    kept = hits.filter(pa.array(places(hits.column("query").to_numpy()) < benchmark.depth))
    names = ("id", "score", "text") if benchmark.needs_text else ("id", "score")
    kept = kept.set_column(1, "score", pa.array(np.round(kept.column("score").to_numpy(), _DECIMALS) + 0.0))
    rows = list(map(Hit, *(kept.column(name).to_pylist() for name in names)))
    bounds = np.searchsorted(kept.column("query").to_numpy(), np.arange(queries + 1)).tolist()
    return [rows[low:high] for low, high in pairwise(bounds)]
