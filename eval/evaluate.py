"""Evaluate an encoder: embed what benchmarks need, each text once; score it raw and after each calibration step.

    texts/BENCHMARK.jsonl.gz     sentences that were embedded: id, lang, text (benchmarks that score vectors)
    questions/BENCHMARK.jsonl.gz the same for questions (benchmarks that score ranked lists)
    embeddings/, question_embeddings/, passages/NAME/     embeddings artifacts of their own; with a cache they lie there
    runs/BENCHMARK/VARIANT/LANG.trec   the ranked lists, as trec_eval and `--run` read them
    results.json                 the scores; all accuracies are fractions of 1

    {"benchmarks": {NAME: {
        "n": distinct sentences embedded, or questions,
        "calibration": "corpus" (given), "benchmark" (fitted on the benchmark's sentences, each language alone), "none"
        "scale": {LANG: "pivot" | "accepted" | "rejected" | "unit"},      only where it was fitted here
        "rotation": {LANG: "pivot" | "accepted" | "rejected" | "off"},   the same
        "own": {"scale", "rotation", "variants"},   where a calibration was given: fitted here besides
        (with too few sentences of a language to fit on: no "own", and "none" with raw alone where none was given)
        "data": {"pairs": {"fr-en": lines}} or {"window": w, "languages": {LANG: {sentences, documents}}},
        "passages": {COLLECTION: rows}, "similarity": "cosine" | "dot",     of ranked lists
        "variants": {"raw" | "shift" | "scale" | "rotate": SCORE}}},
     "missing": [NAME]}             benchmarks without data, only where there are some

    SCORE of tatoeba, translations, question_bitext:
                         {"macro": {forward, backward, mean}, "pairs": {"fr-en": {forward, backward, mean}}}; "margin"
                         with the same by margin where asked for; tatoeba: "averages" and "joined" (`eval.tatoeba`)
    SCORE of xquad_r:    {"macro": {map, ...}, "languages": {LANG: {map, ...}}, "answers", "top"} (`eval.xquad_r`)
    SCORE of context:                {"macro": {accuracy, chance}, "languages": {LANG: {accuracy, chance}}}
    SCORE of mrtydi, xor_retrieve:   {"macro", "languages": {LANG: ...}} with mrr@100, recall@100; r@2kt, r@5kt

A variant holds all steps up to its name. Forward queries with the first language of the pair. Within one language
a rotation changes no cosine: for context, "rotate" equals "scale" but for rounding.

Ranked lists without a given calibration are raw alone. One could be fitted without labels on a collection and its
questions, but where a language's texts are questions on one side and passages on the other, their mean tells these
apart and not the language; and it would take another pass over millions of vectors. `ccp-ray calibrate` on a corpus, or
on the embeddings of the collections in the cache, is the way to one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from ccp_ray.artifact import Artifact, InputRef, Output, Request, open_artifact, open_output
from ccp_ray.calibration import Calibration
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.config import StrictModel
from ccp_ray.embed import embed
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DataError, UsageError
from ccp_ray.ledger import FileRecord, put_bytes
from ccp_ray.model_source import model_reference
from eval.collection_texts import first_language
from eval.context import ContextConfig, load_context
from eval.exact import Similarity
from eval.kept_embeddings import SENTENCES_A_PIECE, Encoding, Keeper, SentencesEmbedConfig
from eval.loading import AnyBenchmark, Load, Loaded, is_ranked, languages_of, load_all, refuse_for_sentences
from eval.mrtydi import MrTydiConfig, load_mrtydi
from eval.protocol import Benchmark, Vectors, to_json_lines
from eval.question_bitext import QuestionBitextConfig, load_question_bitext
from eval.ranked import RankedBenchmark
from eval.ranked_runs import Answers, Asking, check_passages, write_runs
from eval.scores import ranked_entry, score_benchmark, summary_of
from eval.tatoeba import TatoebaConfig, load_tatoeba
from eval.translations import TranslationsConfig, load_translations
from eval.xor_retrieve import XorRetrieveConfig, load_xor_retrieve
from eval.xquad_r import XquadRConfig, load_xquad_r

RESULTS = "results.json"
_TEXTS = ("embed", "calibration")
_RANKED = ("questions", "passages", "similarity")


class EvaluateConfig(StrictModel):
    """What each benchmark reads, and how vectors are made and calibrated."""

    tatoeba: TatoebaConfig = TatoebaConfig()
    translations: TranslationsConfig = TranslationsConfig()
    context: ContextConfig = ContextConfig()
    question_bitext: QuestionBitextConfig = QuestionBitextConfig()
    xquad_r: XquadRConfig = XquadRConfig()
    mrtydi: MrTydiConfig = MrTydiConfig()
    xor_retrieve: XorRetrieveConfig = XorRetrieveConfig()
    calibration: CalibrationConfig = Field(
        default=CalibrationConfig(), description="fit on the benchmark's sentences, where no calibration is given"
    )
    embed: SentencesEmbedConfig = Field(
        default=EmbedConfig(dtype="float32", piece_rows=SENTENCES_A_PIECE), description="sentences"
    )
    questions: EmbedConfig = Field(default=EmbedConfig(dtype="float32"), description="of benchmarks with collections")
    passages: EmbedConfig = Field(default=EmbedConfig(), description="of collections")
    similarity: Similarity = Field(default="cosine", description="of questions and passages; dot: raw vectors' product")


_LOADERS: dict[str, Callable[[str, EvaluateConfig], AnyBenchmark]] = {
    "context": lambda data, config: load_context(data, config.context),
    "tatoeba": lambda data, config: load_tatoeba(data, config.tatoeba),
    "translations": lambda data, config: load_translations(data, config.translations),
    "question_bitext": lambda data, config: load_question_bitext(data, config.question_bitext),
    "xquad_r": lambda data, config: load_xquad_r(data, config.xquad_r),
    "mrtydi": lambda data, config: load_mrtydi(data, config.mrtydi),
    "xor_retrieve": lambda data, config: load_xor_retrieve(data, config.xor_retrieve),
}
BENCHMARKS = tuple(_LOADERS)


def evaluate(
    encoder: str,
    benchmarks: Sequence[str],
    data: str | Mapping[str, str],
    output: str,
    calibration: str | None = None,
    config: EvaluateConfig | None = None,
    *,
    query_encoder: str | None = None,
    cache: str | None = None,
) -> Artifact:
    """Evaluate an encoder folder or artifact. Returns the finished artifact (kind "evaluation").

    `benchmarks`: names, or Python files of one's own (`eval.plugin`). `data` is one URI for all benchmarks, or one by
    benchmark: files, a corpus artifact for context. `query_encoder` encodes the questions of benchmarks with
    collections; `cache` keeps embeddings for other evaluations (`eval.kept_embeddings`). Raises UsageError or
    DataError, before anything is embedded, for an unknown benchmark, missing or broken data, a calibration that lacks
    a language, and for benchmarks of sentences beside a query encoder or another similarity than cosine.
    """
    config = config or EvaluateConfig()
    loaded = load_any(benchmarks, data, config)
    refuse_for_sentences(loaded, query_encoder is not None, config.similarity)
    given = _open_calibration(calibration, loaded.benchmarks)
    texts = texts_of(loaded)
    inputs = _inputs(encoder, query_encoder, loaded, texts)
    if calibration is not None:
        inputs.append(open_artifact(calibration, "calibration").ref("calibration"))
        _check_encoders(calibration, inputs, loaded)
    target = open_output(output, Request(kind="evaluation", config=settings_of(config, loaded), inputs=inputs))
    if isinstance(target, Artifact):
        return target
    started = time.monotonic()
    seconds: dict[str, float] = {}
    results: dict[str, Any] = {}
    keeper = Keeper(embed, target.store.root, cache)
    with target.unless_refused():
        files = [put_bytes(target.store, f"texts/{name}.jsonl.gz", texts[name]) for name in texts]
        encoding = Encoding(inputs[0], config.embed)
        vectors = _text_vectors(target, keeper, encoding, [record.path for record in files])
        for name, benchmark in loaded.texts().items():
            scoring = time.monotonic()
            results[name] = score_benchmark(benchmark, vectors.of(benchmark), given, config.calibration)
            seconds[name] = time.monotonic() - scoring
    # What is embedded of a collection is dear: a refusal from here on leaves it where it is.
    if loaded.ranked():
        asking = next((ref for ref in inputs if ref.role == "query_encoder"), inputs[0])
        how = Asking(
            Encoding(asking, config.questions), Encoding(inputs[0], config.passages), calibration, config.similarity
        )
        files += _score_ranked(target, keeper, loaded.ranked(), how, results, seconds)
    files.append(put_bytes(target.store, RESULTS, results_json(results, loaded.missing)))
    measured = {"seconds": time.monotonic() - started, "scoring_seconds": seconds}
    summary = summary_of(results) | ({"missing": loaded.missing} if loaded.missing else {})
    artifact = target.finish(files, summary, measured)
    _tidy(target)
    return artifact


def load_any(
    benchmarks: Sequence[str], data: str | Mapping[str, str], config: EvaluateConfig, collections: bool = True
) -> Loaded:
    """Benchmarks of both kinds (`eval.loading.load_all`)."""
    return load_all(benchmarks, data, {name: _loader(name, config) for name in BENCHMARKS}, collections)


def load_benchmarks(
    benchmarks: Sequence[str], data: str | Mapping[str, str], config: EvaluateConfig
) -> dict[str, Benchmark]:
    """The benchmarks that score vectors, with their texts. Raises UsageError for one that scores ranked lists too."""
    loaded = load_any(benchmarks, data, config)
    refuse_for_sentences(loaded, False, config.similarity)
    for name in loaded.ranked():
        raise UsageError(f"benchmark {name} ranks a collection of passages; only `ccp-ray evaluate` runs it")
    return loaded.texts()


def results_json(results: Mapping[str, Any], missing: Sequence[str] = ()) -> bytes:
    """results.json."""
    body = {"benchmarks": results} | ({"missing": list(missing)} if missing else {})
    return json.dumps(body, indent=1, ensure_ascii=False, sort_keys=True).encode()


def settings_of(config: EvaluateConfig, loaded: Loaded, encoded: bool = True) -> dict[str, Any]:
    """What decides the result, without the settings of what does not run. encoded: whether anything is embedded."""
    without = {key: {"resources": True} for key in ("embed", "calibration", "questions", "passages")}
    values = config.model_dump(mode="json", exclude=without)
    unused = {name for name in BENCHMARKS if name not in loaded.benchmarks}
    unused |= set(() if encoded and loaded.ranked() else _RANKED) | set(() if encoded and loaded.texts() else _TEXTS)
    return {key: value for key, value in values.items() if key not in unused}


def _loader(name: str, config: EvaluateConfig) -> Load:
    return lambda place: _LOADERS[name](place, config)


def _text_vectors(target: Output, keeper: Keeper, encoding: Encoding, keys: Sequence[str]) -> Vectors:
    """Of all sentences: one embeddings artifact, or one a benchmark where they are cached."""
    sources = (list(keys) if keeper.cached else ["texts"]) if keys else []
    found = [keeper.embedded(target.store.uri(source), encoding, "embeddings") for source in sources]
    return Vectors.read(*(Embeddings.open(artifact.uri) for artifact in found))


def _score_ranked(
    target: Output,
    keeper: Keeper,
    benchmarks: Mapping[str, RankedBenchmark],
    how: Asking,
    results: dict[str, Any],
    seconds: dict[str, float],
) -> list[FileRecord]:
    """Adds the entries of benchmarks with collections. Returns the files that were written: questions and runs."""
    answers = Answers(target, keeper, benchmarks, how)
    files = list(answers.files)
    for name, benchmark in benchmarks.items():
        scoring = time.monotonic()
        variants: dict[str, Any] = {}
        for variant in answers.variants:
            run = answers.run(benchmark, variant)
            files += write_runs(target.store, benchmark, variant, run)
            variants[variant] = benchmark.score(run)
        passages = {one.name: answers.passages[one.uri] for one in benchmark.collections()}
        entry = ranked_entry(benchmark, how.calibration is not None, variants)
        results[name] = entry | {"passages": passages, "similarity": how.similarity}
        seconds[name] = time.monotonic() - scoring
    return files


def _tidy(target: Output) -> None:
    """Remove the working files of searches."""
    for info in list(target.store.list("_search/")):
        target.store.delete(info.key)


def _inputs(encoder: str, query_encoder: str | None, loaded: Loaded, texts: Mapping[str, bytes]) -> list[InputRef]:
    """The encoder first."""
    inputs = [model_reference("encoder", encoder)]
    if query_encoder is not None:
        inputs.append(model_reference("query_encoder", query_encoder))
    return inputs + benchmark_references(loaded, texts)


def texts_of(loaded: Loaded) -> dict[str, bytes]:
    """What is embedded of the benchmarks that score vectors, as JSON lines, by name."""
    return {name: to_json_lines(benchmark.texts()) for name, benchmark in loaded.texts().items()}


def benchmark_references(loaded: Loaded, texts: Mapping[str, bytes]) -> list[InputRef]:
    """The benchmarks as inputs, by their content. texts: of `texts_of`."""
    found = []
    for name, benchmark in loaded.benchmarks.items():
        content = {"key": benchmark.key()}
        if name in texts:
            content["texts"] = hashlib.sha256(texts[name]).hexdigest()
        found.append(loaded.reference(name, content))
    return found


def _open_calibration(uri: str | None, loaded: Mapping[str, AnyBenchmark]) -> Calibration | None:
    if uri is None:
        return None
    calibration = Calibration.open(uri)
    for name, benchmark in loaded.items():
        languages = languages_of(benchmark)
        missing = sorted(languages - set(calibration.languages))
        if missing:
            known = sorted(languages & set(calibration.languages))
            other = "for raw scores" if is_ranked(benchmark) else "to fit one on the benchmark"
            raise DataError(
                f"{uri}: the calibration lacks {', '.join(missing)} of benchmark {name}; set {name}.languages to what "
                f"both have ({', '.join(known) or 'nothing'}), or leave out the calibration {other}"
            )
        for collection in benchmark.collections() if is_ranked(benchmark) else ():
            first = first_language(collection.uri)
            check_passages(collection, [first] if first else [], calibration, uri)
    return calibration


def _check_encoders(calibration: str, inputs: Sequence[InputRef], loaded: Loaded) -> None:
    """A calibration is of one encoder's space. Raises UsageError, or DataError where it is of another's."""
    if not loaded.ranked():
        return
    encoders = [ref.fingerprint for ref in inputs if ref.role in ("encoder", "query_encoder")]
    if len(set(encoders)) > 1:
        raise UsageError("--calibration is of one encoder, and --query-encoder is another; leave one of them out")
    fitted = open_artifact(calibration, "calibration").summary.get("encoder")
    if fitted is not None and fitted != encoders[0]:
        raise DataError(f"{calibration}: fitted on another encoder's embeddings; calibrate on this one's")
