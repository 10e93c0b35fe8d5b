"""A curve over a fine-tuning: its steps follow from its questions, each is measured as it was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pair_files
import pytest
import tiny_models
from without_ray import forked_training

from ccp_ray.artifact import JOB, Artifact, InputRef, Output, Request, open_output
from ccp_ray.config import build_config
from ccp_ray.encoder import Encoder
from ccp_ray.errors import UsageError
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.finetune_job import finetune
from ccp_ray.kept_checkpoints import checkpoint_name
from ccp_ray.ledger import put_bytes
from eval import curve as module
from eval.curve import CurveConfig, curve
from eval.evaluate import RESULTS, EvaluateConfig
from jobs.curve_plan import plan_curve

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.plain_folder(tmp_path_factory.mktemp("start") / "encoder"))


@pytest.fixture(scope="module")
def run(ray_local: None, source: str, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Two encoders trained for five steps."""
    folder = tmp_path_factory.mktemp("run")
    settings: dict[str, Any] = {
        "encoder": {"source": source, "pooling": "mean"},
        "tied": False,
        "train": [{"file": pair_files.write_dpr(folder / "train.json", pair_files.rows(40))}],
        "question_tokens": 12,
        "passage_tokens": 20,
        "passage_prompt": "p",
        "groups_per_step": 2,
        "questions_per_group": 4,
        "epochs": 1,
        "optimizer": {"lr": 3e-3, "warmup_steps": 2},
        "resources": {"checkpoint_every": 2, "checkpoint_keep_every": 2, "workers": 1},
    }
    with forked_training():
        return finetune(str(folder / "encoder"), build_config(FinetuneConfig, settings))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two translated lines, and Mr.TyDi with one question."""
    folder = tmp_path_factory.mktemp("data")
    for lang, line in (("de", "ab"), ("en", "cd")):
        (folder / "lines").mkdir(exist_ok=True)
        (folder / "lines" / f"{lang}.txt").write_text(f"{line}\nzz\n")
    docs = folder / "mrtydi-v1.1-en" / "collection"
    docs.mkdir(parents=True)
    (docs / "docs.jsonl").write_text(json.dumps({"id": "0#0", "contents": "T\n\nabc"}) + "\n")
    (folder / "topics.mrtydi-v1.1-en.test.txt").write_text("1\tabc\n")
    (folder / "qrels.mrtydi-v1.1-en.test.txt").write_text("1 Q0 0#0 1\n")
    return str(folder)


class Asked:
    """In place of `evaluate`: keeps what it was asked; a score is the first number of a question's vector."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.asking: list[str | None] = []
        self.configs: list[EvaluateConfig] = []

    def __call__(
        self, encoder: str, benchmarks: Any, data: Any, output: str, config: EvaluateConfig, query_encoder: str | None
    ) -> Artifact:
        self.steps.append(Path(output).name)
        self.asking.append(query_encoder and Path(query_encoder).name)
        self.configs.append(config)
        assert Path(encoder).name == "passage"
        assert Encoder.load(encoder).max_tokens == 20
        value = float(Encoder.load(str(Path(encoder).with_name("question"))).encode(["abc"])[0, 0])
        target = open_output(output, Request(kind="evaluation", config={}))
        assert isinstance(target, Output)
        scored = {"benchmarks": {"b": {"variants": {"raw": {"macro": {"mrr": value}}}}}}
        summary = {"benchmarks": {"b": {"raw": {"mrr": value}}}}
        return target.finish([put_bytes(target.store, RESULTS, json.dumps(scored).encode())], summary)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    made = Asked()
    monkeypatch.setattr(module, "evaluate", made)
    return made


def test_each_step_is_measured_as_it_was_trained(
    run: Artifact, source: str, data: str, asked: Asked, tmp_path: Path
) -> None:
    scores = curve(run.uri, ["mrtydi"], data, str(tmp_path / "curve"), CurveConfig(every=2))
    assert scores.summary["steps"] == [0, 2, 4, 5]
    assert asked.steps == [checkpoint_name(step) for step in (0, 2, 4, 5)]
    assert set(asked.asking) == {"question"}
    config = asked.configs[0]
    assert config.similarity == "dot"
    assert (config.questions.prompt, config.passages.prompt) == ("", "p")
    assert (config.questions.max_tokens, config.passages.max_tokens) == (12, 20)
    rows = [json.loads(line) for line in scores.read(module.EVALUATIONS).splitlines()]
    assert len({row["value"] for row in rows}) == 4
    start = float(Encoder.load(source, pooling="mean").encode(["abc"])[0, 0])
    assert rows[0]["value"] == round(start, 6)


def test_sentences_are_read_by_the_passages_encoder_and_what_is_asked_for_stays(
    run: Artifact, data: str, asked: Asked, tmp_path: Path
) -> None:
    own = build_config(CurveConfig, {"every": 5, "evaluate": {"similarity": "cosine", "questions": {"prompt": "mine"}}})
    curve(run.uri, ["translations"], f"{data}/lines", str(tmp_path / "curve"), own)
    assert asked.steps == [checkpoint_name(step) for step in (0, 5)]
    assert set(asked.asking) == {None}
    assert asked.configs[0].similarity == "cosine"
    assert asked.configs[0].questions.prompt == "mine"


def test_sentences_need_no_setting_and_have_a_curve_of_their_own(
    run: Artifact, data: str, asked: Asked, tmp_path: Path
) -> None:
    """The run's dot product is of its collections."""
    both = str(shutil.copytree(data, tmp_path / "data"))
    shutil.copytree(f"{data}/lines", both, dirs_exist_ok=True)
    config = build_config(CurveConfig, {"every": 5, "evaluate": {"translations": {"languages": ["de", "en"]}}})
    curve(run.uri, ["translations"], both, str(tmp_path / "curve"), config)
    assert asked.configs[0].similarity == "cosine"
    with pytest.raises(UsageError, match="evaluate translations apart, with one encoder"):
        curve(run.uri, ["mrtydi", "translations"], both, str(tmp_path / "mixed"), config)
    with pytest.raises(UsageError, match="evaluate translations apart, with one encoder"):
        plan_curve(run.uri, ["mrtydi", "translations"], both, config)
    assert not (tmp_path / "mixed").exists()


def test_a_run_that_has_read_no_question_yet_is_not_followed(data: str, tmp_path: Path) -> None:
    config = build_config(FinetuneConfig, {"encoder": {"source": "x"}, "train": [{"file": "y"}]})
    (tmp_path / "run").mkdir()
    request = Request(
        kind="encoder", config=config.request(), inputs=[InputRef(role="encoder", uri="x", fingerprint="0")]
    )
    (tmp_path / "run" / JOB).write_text(request.model_dump_json())
    with pytest.raises(UsageError, match="its questions are not read yet; run again once it trains"):
        curve(str(tmp_path / "run"), ["translations"], f"{data}/lines", str(tmp_path / "curve"), CurveConfig(every=2))
    assert not (tmp_path / "curve" / "artifact.json").exists()
