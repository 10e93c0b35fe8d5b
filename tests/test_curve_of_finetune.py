"""A curve over a fine-tuning: its steps are what its questions make them, and of two encoders one asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pair_files
import pytest
import tiny_models

from ccp_ray.artifact import JOB, Artifact, Output, Request, open_output
from ccp_ray.checkpoints import checkpoint_name
from ccp_ray.config import build_config
from ccp_ray.encoder import Encoder
from ccp_ray.errors import UsageError
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.finetune_job import finetune
from ccp_ray.ledger import put_bytes
from eval import curve as module
from eval.curve import CurveConfig, curve
from eval.evaluate import RESULTS

pytestmark = pytest.mark.timeout(300)


def test_two_encoders_are_followed_step_by_step(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def evaluated(encoder: str, benchmarks: Any, data: Any, output: str, config: Any, query_encoder: str) -> Artifact:
        """A score of its own: the first number of a question's vector."""
        asked.append((Path(output).name, encoder.startswith(run.uri)))
        assert (Path(encoder).name, Path(query_encoder).name) == ("passage", "question")
        assert (Encoder.load(encoder).max_tokens, Encoder.load(query_encoder).max_tokens) == (20, 12)
        value = float(Encoder.load(query_encoder).encode(["abc"])[0, 0])
        target = open_output(output, Request(kind="evaluation", config={}))
        assert isinstance(target, Output)
        text = f'{{"benchmarks": {{"b": {{"variants": {{"raw": {{"macro": {{"mrr": {value}}}}}}}}}}}}}'
        summary = {"benchmarks": {"b": {"raw": {"mrr": value}}}}
        return target.finish([put_bytes(target.store, RESULTS, text.encode())], summary)

    monkeypatch.setattr(module, "evaluate", evaluated)
    source = str(tiny_models.plain_folder(tmp_path / "start"))
    settings: dict[str, Any] = {
        "encoder": {"source": source, "pooling": "mean"},
        "tied": False,
        "train": [{"file": pair_files.write_dpr(tmp_path / "train.json", pair_files.rows(40))}],
        "question_tokens": 12,
        "passage_tokens": 20,
        "groups_per_step": 2,
        "questions_per_group": 4,
        "epochs": 1,
        "optimizer": {"lr": 3e-3, "warmup_steps": 2},
        "resources": {"checkpoint_every": 2, "checkpoint_keep_every": 2, "workers": 1},
    }
    run = finetune(str(tmp_path / "run"), build_config(FinetuneConfig, settings))
    scores = curve(run.uri, ["b"], "data", str(tmp_path / "curve"), CurveConfig(every=2))
    assert scores.summary["steps"] == [0, 2, 4, 5]
    assert asked == [(checkpoint_name(step), step == 5) for step in (0, 2, 4, 5)]
    rows = scores.read(module.EVALUATIONS).decode().splitlines()
    assert len(set(rows)) == 4
    start = float(Encoder.load(source, pooling="mean").encode(["abc"])[0, 0])
    assert f'"value":{round(start, 6)}}}' in rows[0]


def test_a_run_that_has_read_no_question_yet_is_not_followed(tmp_path: Path) -> None:
    config = build_config(FinetuneConfig, {"encoder": {"source": "x"}, "train": [{"file": "y"}]})
    (tmp_path / "run").mkdir()
    request = Request(kind="encoder", config=config.request())
    (tmp_path / "run" / JOB).write_text(request.model_dump_json())
    with pytest.raises(UsageError, match="its questions are not read yet; run again once it trains"):
        curve(str(tmp_path / "run"), ["b"], "data", str(tmp_path / "curve"), CurveConfig(every=2))
    assert not (tmp_path / "curve" / "artifact.json").exists()
