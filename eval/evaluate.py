"""Evaluate an encoder: embed each benchmark's sentences once, score them raw and after each calibration step.

    texts/BENCHMARK.jsonl.gz     what was embedded: id, lang, text
    embeddings/                  an embeddings artifact of its own, of all benchmarks at once
    results.json                 the scores; all accuracies are fractions of 1

    {"benchmarks": {NAME: {
        "n": distinct sentences embedded,
        "calibration": "corpus" (given) or "benchmark" (fitted on the benchmark's sentences, each language alone),
        "scale": {LANG: "pivot" | "accepted" | "rejected" | "unit"},      only where it was fitted here
        "rotation": {LANG: "pivot" | "accepted" | "rejected" | "off"},   the same
        "own": {"scale", "rotation", "variants"},   where a calibration was given: fitted here besides
        "data": {"pairs": {"fr-en": lines}} or {"window": w, "languages": {LANG: {sentences, documents}}},
        "variants": {"raw" | "shift" | "scale" | "rotate": SCORE}}}}

    SCORE of tatoeba, translations, question_bitext:
                         {"macro": {forward, backward, mean}, "pairs": {"fr-en": {forward, backward, mean}}}; "margin"
                         with the same by margin where asked for; tatoeba: "averages" and "joined" (`eval.tatoeba`)
    SCORE of xquad_r:    {"macro": {map, ...}, "languages": {LANG: {map, ...}}, "answers", "top"} (`eval.xquad_r`)
    SCORE of context:                {"macro": {accuracy, chance}, "languages": {LANG: {accuracy, chance}}}

A variant holds all steps up to its name. Forward queries with the first language of the pair. Within one language
a rotation changes no cosine: for context, "rotate" equals "scale" but for rounding.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from ccp_ray.artifact import Artifact, InputRef, Request, digest_json, open_artifact, open_output
from ccp_ray.calibration import Calibration
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.config import StrictModel
from ccp_ray.embed import embed
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DataError, UsageError
from ccp_ray.ledger import put_bytes
from ccp_ray.model_source import model_reference
from ccp_ray.storage import absolute_uri
from eval.context import ContextConfig, load_context
from eval.headline import headline
from eval.protocol import VARIANTS, Benchmark, Vectors, score_variants, to_json_lines
from eval.question_bitext import QuestionBitextConfig, load_question_bitext
from eval.tatoeba import TatoebaConfig, load_tatoeba
from eval.translations import TranslationsConfig, load_translations
from eval.xquad_r import XquadRConfig, load_xquad_r

RESULTS = "results.json"


class EvaluateConfig(StrictModel):
    """What each benchmark reads, and how vectors are made and calibrated."""

    tatoeba: TatoebaConfig = TatoebaConfig()
    translations: TranslationsConfig = TranslationsConfig()
    context: ContextConfig = ContextConfig()
    question_bitext: QuestionBitextConfig = QuestionBitextConfig()
    xquad_r: XquadRConfig = XquadRConfig()
    calibration: CalibrationConfig = Field(
        default=CalibrationConfig(), description="fit on the benchmark's sentences, where no calibration is given"
    )
    embed: EmbedConfig = EmbedConfig(dtype="float32")


_LOADERS: dict[str, Callable[[str, EvaluateConfig], Benchmark]] = {
    "context": lambda data, config: load_context(data, config.context),
    "tatoeba": lambda data, config: load_tatoeba(data, config.tatoeba),
    "translations": lambda data, config: load_translations(data, config.translations),
    "question_bitext": lambda data, config: load_question_bitext(data, config.question_bitext),
    "xquad_r": lambda data, config: load_xquad_r(data, config.xquad_r),
}
BENCHMARKS = tuple(_LOADERS)


def evaluate(
    encoder: str,
    benchmarks: Sequence[str],
    data: str | Mapping[str, str],
    output: str,
    calibration: str | None = None,
    config: EvaluateConfig | None = None,
) -> Artifact:
    """Evaluate an encoder folder or artifact. Returns the finished artifact (kind "evaluation").

    `data` is one URI for all benchmarks, or one by benchmark: files for tatoeba and translations, a corpus artifact
    for context. Raises UsageError or DataError, before anything is embedded, for an unknown benchmark, missing or
    broken data, and a calibration that lacks a language.
    """
    config = config or EvaluateConfig()
    places = _places(benchmarks, data)
    loaded = load_benchmarks(benchmarks, data, config)
    given = _open_calibration(calibration, loaded)
    texts = {name: to_json_lines(benchmark.texts()) for name, benchmark in loaded.items()}
    inputs = [model_reference("encoder", encoder)]
    inputs += [_data_reference(benchmark, places[name], texts[name]) for name, benchmark in loaded.items()]
    if calibration is not None:
        inputs.append(open_artifact(calibration, "calibration").ref("calibration"))
    target = open_output(output, Request(kind="evaluation", config=_semantic(config, loaded), inputs=inputs))
    if isinstance(target, Artifact):
        return target
    started = time.monotonic()
    results: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    with target.unless_refused():
        files = [put_bytes(target.store, f"texts/{name}.jsonl.gz", texts[name]) for name in loaded]
        embedded = embed(encoder, target.store.uri("texts"), target.store.uri("embeddings"), config.embed)
        vectors = Vectors.read(Embeddings.open(embedded.uri))
        for name, benchmark in loaded.items():
            scoring = time.monotonic()
            results[name] = score_benchmark(benchmark, vectors.of(benchmark), given, config.calibration)
            seconds[name] = time.monotonic() - scoring
    body = json.dumps({"benchmarks": results}, indent=1, ensure_ascii=False, sort_keys=True).encode()
    files.append(put_bytes(target.store, RESULTS, body))
    measured = {"seconds": time.monotonic() - started, "scoring_seconds": seconds}
    return target.finish(files, _summary(results), measured)


def load_benchmarks(
    benchmarks: Sequence[str], data: str | Mapping[str, str], config: EvaluateConfig
) -> dict[str, Benchmark]:
    """The benchmarks with their texts. Raises UsageError or DataError for unknown names and unusable data."""
    return {name: _LOADERS[name](place, config) for name, place in _places(benchmarks, data).items()}


def score_benchmark(
    benchmark: Benchmark, vectors: Vectors, given: Calibration | None, config: CalibrationConfig
) -> dict[str, Any]:
    """One benchmark's entry in results.json, from its vectors alone. `config` is used where none is `given`."""
    result = {"n": len(benchmark.texts()), "data": benchmark.describe()}
    if given is None:
        return result | {"calibration": "benchmark"} | _own(benchmark, vectors, config)
    result |= {"calibration": "corpus", "variants": score_variants(benchmark, vectors, given)}
    if benchmark.name != "context":
        result["own"] = _own(benchmark, vectors, config)
    return result


def _own(benchmark: Benchmark, vectors: Vectors, config: CalibrationConfig) -> dict[str, Any]:
    """Scores with a calibration fitted on the benchmark's own sentences, each language alone."""
    calibration = vectors.fit(_own_config(benchmark, config))
    languages = calibration.summary()["languages"]
    verdicts = {step: {lang: told[step] for lang, told in languages.items()} for step in ("scale", "rotation")}
    return {**verdicts, "variants": score_variants(benchmark, vectors, calibration)}


def _own_config(benchmark: Benchmark, config: CalibrationConfig) -> CalibrationConfig:
    """Context retrieval stays within a language, so a rotation would be learned for nothing."""
    return config.model_copy(update={"rotate": False}) if benchmark.name == "context" else config


def _places(benchmarks: Sequence[str], data: str | Mapping[str, str]) -> dict[str, str]:
    """Benchmark -> URI of its data, in the order of BENCHMARKS."""
    unknown = [name for name in benchmarks if name not in BENCHMARKS]
    if unknown or not benchmarks:
        found = f"unknown benchmark {unknown[0]!r}" if unknown else "no benchmark chosen"
        raise UsageError(f"{found}; known: {', '.join(BENCHMARKS)}")
    chosen = [name for name in BENCHMARKS if name in benchmarks]
    if isinstance(data, str):
        return dict.fromkeys(chosen, data)
    missing = [name for name in chosen if name not in data]
    if missing:
        raise UsageError(f"no data for benchmark {missing[0]!r}; give one URI for all, or one for each benchmark")
    return {name: data[name] for name in chosen}


def _open_calibration(uri: str | None, loaded: Mapping[str, Benchmark]) -> Calibration | None:
    if uri is None:
        return None
    calibration = Calibration.open(uri)
    for name, benchmark in loaded.items():
        languages = {text.lang for text in benchmark.texts()}
        missing = sorted(languages - set(calibration.languages))
        if missing:
            known = sorted(languages & set(calibration.languages))
            raise DataError(
                f"{uri}: the calibration lacks {', '.join(missing)} of benchmark {name}; set {name}.languages to what "
                f"both have ({', '.join(known) or 'nothing'}), or leave out the calibration to fit one on the benchmark"
            )
    return calibration


def _data_reference(benchmark: Benchmark, place: str, texts: bytes) -> InputRef:
    """The data as they are used: the same sentences and alignment have one fingerprint wherever they lie."""
    content = {"texts": hashlib.sha256(texts).hexdigest(), "key": benchmark.key()}
    return InputRef(role=f"data.{benchmark.name}", uri=absolute_uri(place), fingerprint=digest_json(content))


def _semantic(config: EvaluateConfig, loaded: Mapping[str, Benchmark]) -> dict[str, Any]:
    """What decides the result; the settings of benchmarks that do not run are left out."""
    resources = {"resources": True}
    values = config.model_dump(mode="json", exclude={"embed": resources, "calibration": resources})
    return {key: value for key, value in values.items() if key not in BENCHMARKS or key in loaded}


def _summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """{"benchmarks": {name: {variant: {number: value}}}} (`eval.headline`) and how each was calibrated."""
    benchmarks = {
        name: {variant: headline(result["variants"][variant], result["data"]) for variant in VARIANTS}
        for name, result in results.items()
    }
    own = {
        name: {variant: headline(result["own"]["variants"][variant], result["data"]) for variant in VARIANTS}
        for name, result in results.items()
        if "own" in result
    }
    calibration = {name: result["calibration"] for name, result in results.items()}
    return {"benchmarks": benchmarks, "calibration": calibration, "own_calibration": own}
