"""The command line in this process, and a small run of every stage made with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from jobs.cli import VERBS
from jobs.command import build_app

APP = build_app(*VERBS)
SETTINGS = {
    "generate": ["count=2", "concepts=60", "documents=12", "dev_documents=3", "sentences=8", "test_sentences=20"],
    "prepare": ["tokenizer.vocabulary=400"],
    "embed": ["resources.workers=1"],
    "index": ["dtype=float32"],
}


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The last line of standard output."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def error(self) -> str:
        """The one line of an error. Fails where there is another line, or a word on standard output."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("ccp-ray: error: "), self.err
        assert self.out == ""
        return lines[0].removeprefix("ccp-ray: error: ")


def ccp(*arguments: object) -> Result:
    """`ccp-ray ARGUMENTS` in this process. An exception that is not a clean end is raised."""
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments], prog_name="ccp-ray")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


def settings(verb: str) -> list[str]:
    return [part for value in SETTINGS.get(verb, []) for part in ("--set", value)]


@dataclass(frozen=True)
class SmallRun:
    """Artifacts of every stage in one folder, and what the verbs printed when they made them."""

    folder: Path
    results: dict[str, Result] = field(default_factory=dict)

    def make(self, verb: str, name: str, *arguments: object) -> None:
        result = ccp(verb, *arguments, "--output", self.folder / name, "--json", *settings(verb))
        assert result.code == 0, result.err
        self.results[verb] = result

    def __getattr__(self, name: str) -> str:
        return str(self.folder / name)


def small_run(folder: Path) -> SmallRun:
    """Documents, corpus, an untrained encoder, embeddings, calibration, index. Needs a Ray session."""
    from ccp_ray.encoder_config import ArchitectureConfig, EncoderConfig
    from ccp_ray.pretrain_config import PretrainConfig
    from ccp_ray.pretrain_job import initial_encoder

    run = SmallRun(folder)
    run.make("generate", "documents")
    run.make("prepare", "corpus", run.documents)
    shape = ArchitectureConfig(layers=1, hidden=32, heads=2, intermediate=64, positions=40)
    initial_encoder(run.corpus, run.encoder, PretrainConfig(encoder=EncoderConfig(architecture=shape)))
    run.make("embed", "embeddings", run.encoder, run.corpus)
    run.make("calibrate", "calibration", run.embeddings)
    run.make("index", "index", run.embeddings, "--calibration", run.calibration)
    return run


def flip(path: Path) -> None:
    """Turn one bit of the file's middle byte."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
