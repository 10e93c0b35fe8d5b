"""cluster/README.md: its commands are ours, its files are there, its GPU-hours are what `--plan` works out."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from cluster_files import CLUSTER, ROOT, parsed, verbs

from ccp_ray.config import load_config
from jobs import plan
from jobs.memory import EncoderShape
from jobs.pipeline import PipelineConfig, recipe_file

TEXT = (CLUSTER / "README.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
XLMR_BASE = EncoderShape(12, 768, 3072, 12, 250_002, 514)
H100 = 989e12  # dense bf16, as the data sheet has it


def commands() -> list[str]:
    """Every ccp-ray command of a code block, its continuation lines joined, without a comment or what runs it."""
    lines = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
    found = [
        re.search(r"(?:^|\s)(?:\.venv/bin/|cluster/slurm/)?ccp-ray(?:\.sbatch)? +([a-z].*?)(?: +#.*)?$", x)
        for x in lines
    ]
    return [f"ccp-ray {each[1]}" for each in found if each]


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 8
    assert {command.split()[1] for command in commands()} >= {"pipeline", "submit", "status"}


@pytest.mark.parametrize("command", commands())
def test_commands_are_ours(command: str) -> None:
    verb = command.split()[1]
    sent = re.fullmatch(r"ccp-ray submit --address \S+ (?:--wait )?(.+)", command)
    if sent is not None:  # the job's own command, as it will run there
        verb, options = parsed(f"ccp-ray {sent[1]}")
    elif verb == "jobs":
        assert re.fullmatch(r"ccp-ray jobs --address \S+", command)
        return
    else:
        verb, options = parsed(command)
    if verb == "pipeline":
        load_config(PipelineConfig, [recipe_file(each) for each in options["config"]], options["overrides"] or ())


def test_verbs_that_are_named_exist_or_are_those_of_jobs() -> None:
    named = set(re.findall(r"`ccp-ray ([a-z]+)", TEXT))
    assert named <= verbs() | {"submit", "jobs", "logs", "stop"}


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"\bcluster/[\w./-]+\w", TEXT)) | {
        f"cluster/{x}" for x in re.findall(r"\]\(([\w./-]+)\)", TEXT)
    }
    missing = {name for name in named if not (ROOT / name).exists()} - {"cluster/metrics"}
    assert missing == set()
    assert {"cluster/aws/store-policy.json", "cluster/aws/head-policy.json", "cluster/kubernetes"} <= named


def test_every_section_that_is_linked_is_there() -> None:
    titles = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= titles


def test_gpu_hours_are_the_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "matmul_flops", lambda: H100)
    config = load_config(PipelineConfig, [recipe_file("xlmr_base_8xh100")]).pretrain
    planned = plan.pretrain_plan(config, XLMR_BASE, languages=108, workers=8, gpu=True)
    assert f"| {8 * planned.figures['seconds'] / 3600:.1f} GPU-hours | 0.33 x 989 TFLOP/s" in TEXT
    assert f"{config.steps:,} steps of {planned.figures['tokens'] / config.steps:,.0f} tokens" in TEXT
    assert f"{(XLMR_BASE.parameters - XLMR_BASE.embedding_parameters) / 1e6:.1f} M parameters" in TEXT
    assert f"| {8 * config.steps * 0.06 / 3600:.1f} GPU-hours | 8 GPUs x {config.steps:,} x 0.06 s" in TEXT
    seconds = plan.embed_plan(1_000_000, 16, XLMR_BASE, 2, 1).figures["seconds"]
    assert f"| {seconds:.0f} GPU-seconds |" in TEXT
    assert f"checkpoints are {dict(planned.lines)['checkpoints'].split(' each')[0]} each" in TEXT


def test_the_manifests_are_filled_in_as_told(tmp_path: Path) -> None:
    """The README's own `fill`, run: no placeholder is left, every image is the registry's, the rest as it was."""
    (line,) = [each for block in BLOCKS for each in block.splitlines() if each.startswith("fill() {")]
    for name in ("quickstart", "pretrain", "embed", "evaluate", "cluster", "access"):
        run = ["bash", "-euc", f"{line}\nfill {name}"]
        filled = subprocess.run(
            run, cwd=ROOT, env={"REGISTRY": "r.test/x", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
        )
        text = (CLUSTER / "kubernetes" / f"{name}.yaml").read_text()
        assert filled.returncode == 0, filled.stderr
        assert "s3://BUCKET" not in filled.stdout
        assert filled.stdout.count("image: r.test/x/ccp-ray:") == text.count("image: ccp-ray:")
        expected = text.replace("s3://BUCKET", "s3://my-bucket").replace("image: ccp-ray:", "image: r.test/x/ccp-ray:")
        assert list(yaml.safe_load_all(filled.stdout)) == list(yaml.safe_load_all(expected))
