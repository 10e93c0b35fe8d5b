"""From names to loaded benchmarks, of both kinds, built in or in a file of the user's own.

One URI for all benchmarks: one whose data are not there is named on the screen and in the result, and the others run,
for a long evaluation should not fail at its end for a folder that is missing. A place for each benchmark: each must be
there, as the caller said where. Broken data (DataError) are never passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from typing_extensions import TypeIs

from ccp_ray.artifact import InputRef, digest_json
from ccp_ray.errors import UsageError
from ccp_ray.progress import say
from ccp_ray.rows import texts_reference
from ccp_ray.storage import absolute_uri
from eval.plugin import is_plugin, load_plugin, plugin_digest, plugin_name
from eval.protocol import Benchmark, Text, text_of
from eval.ranked import Parted, Question, RankedBenchmark

AnyBenchmark = Benchmark | RankedBenchmark
Load = Callable[[str], AnyBenchmark]


class Loaded(NamedTuple):
    """Benchmarks by name, where their data lie, and what these are known by; `missing` are names without data.

    content: digests by what they are of: the collections of those that rank one, the code of a plug-in.
    """

    benchmarks: dict[str, AnyBenchmark]
    places: dict[str, str]
    content: dict[str, dict[str, str]]
    missing: list[str]

    def texts(self) -> dict[str, Benchmark]:
        """Those that score vectors."""
        return {name: one for name, one in self.benchmarks.items() if not is_ranked(one)}

    def ranked(self) -> dict[str, RankedBenchmark]:
        """Those that score ranked lists."""
        return {name: one for name, one in self.benchmarks.items() if is_ranked(one)}

    def reference(self, name: str, content: Mapping[str, str]) -> InputRef:
        """The data as they are used: the same content has one fingerprint wherever it lies."""
        made_of = {**self.content[name], **content}
        return InputRef(role=f"data.{name}", uri=absolute_uri(self.places[name]), fingerprint=digest_json(made_of))


def refuse_for_sentences(loaded: Loaded, query_encoder: bool, similarity: str) -> None:
    """Raises UsageError naming the benchmarks of sentences where what only collections have is asked for.

    One encoder reads sentences, and they are compared by cosine: a second one or another similarity would not count.
    """
    sentences = ", ".join(loaded.texts())
    if sentences and query_encoder:
        raise UsageError(
            "an encoder for questions (--query-encoder, or a run's second): only benchmarks with a collection have "
            f"questions of their own; evaluate {sentences} apart, with one encoder"
        )
    if sentences and similarity != "cosine":
        raise UsageError(
            f"similarity={similarity}: only of benchmarks with a collection; evaluate {sentences} apart, with "
            "similarity=cosine"
        )


def is_ranked(benchmark: AnyBenchmark) -> TypeIs[RankedBenchmark]:
    """Whether the benchmark scores ranked lists; else it scores vectors."""
    return hasattr(benchmark, "collections")


def load_all(
    names: Sequence[str], data: str | Mapping[str, str], known: Mapping[str, Load], collections: bool = True
) -> Loaded:
    """Load benchmarks by name or file; `known` loads the built-in ones, which come first and in its order.

    collections: whether those that rank a collection must have it; scoring a run needs none.

    Raises UsageError for unknown names and where no data are there for any, DataError for broken data.
    """
    loads = _loads(names, known, collections)
    places = _places(loads, data)
    code = {plugin_name(name): {"code": plugin_digest(name)} for name in names if is_plugin(name)}
    loaded = Loaded({}, {}, {}, [])
    failures: list[UsageError] = []
    for name, load in loads.items():
        found = _tried(load, places[name], collections)
        if not isinstance(found, UsageError):
            loaded.benchmarks[name], loaded.places[name] = found[0], places[name]
            loaded.content[name] = found[1] | code.get(name, {})
        elif isinstance(data, str) and len(loads) > 1:
            loaded.missing.append(name)
            failures.append(found)
        else:
            raise found
    if not loaded.benchmarks:
        raise failures[0]
    for name, failure in zip(loaded.missing, failures, strict=True):
        say(f"evaluate: {name} left out: {failure}")
    return loaded


def _tried(load: Load, place: str, collections: bool) -> tuple[AnyBenchmark, dict[str, str]] | UsageError:
    """A benchmark and the digests of its collections, or why it cannot run."""
    try:
        benchmark = load(place)
        if not collections or not is_ranked(benchmark):
            return benchmark, {}
        whole = benchmark.at_hand() if isinstance(benchmark, Parted) else benchmark
        return whole, _fingerprints(whole)
    except UsageError as error:
        return error


def _fingerprints(benchmark: RankedBenchmark) -> dict[str, str]:
    """Of each collection. Raises UsageError for one that is not there."""
    return {f"collection.{one.name}": texts_reference(one.uri).fingerprint for one in benchmark.collections()}


def _loads(names: Sequence[str], known: Mapping[str, Load], collections: bool) -> dict[str, Load]:
    """Name -> what loads it. Raises UsageError."""
    unknown = [name for name in names if name not in known and not is_plugin(name)]
    if unknown or not names:
        found = f"unknown benchmark {unknown[0]!r}" if unknown else "no benchmark chosen"
        raise UsageError(f"{found}; known: {', '.join(known)}, or a file of your own (mine.py)")
    loads = {name: load for name, load in known.items() if name in names}
    for path in dict.fromkeys(name for name in names if is_plugin(name)):
        name = plugin_name(path)
        if name in known or name in loads:
            raise UsageError(f"{path}: there is a benchmark {name!r} already; give the file another name")
        loads[name] = lambda place, path=path: load_plugin(path, place, collections)  # type: ignore[misc]
    return loads


def _places(names: Mapping[str, Load], data: str | Mapping[str, str]) -> dict[str, str]:
    if isinstance(data, str):
        return dict.fromkeys(names, data)
    missing = [name for name in names if name not in data]
    if missing:
        raise UsageError(f"no data for benchmark {missing[0]!r}; give one URI for all, or one for each benchmark")
    return {name: data[name] for name in names}


def question_text(question: Question) -> Text:
    """A question as a text to embed: the same question in the same language is embedded once."""
    return text_of(question.lang, question.text)


def languages_of(benchmark: AnyBenchmark) -> set[str]:
    """Languages that a calibration must know: of the texts, or of the questions."""
    if is_ranked(benchmark):
        return {question.lang for question in benchmark.questions()}
    return {text.lang for text in benchmark.texts()}
