"""The ablation's artifact: every trial's numbers, the table and the judged claims as JSON, and the page.

    results.json      {"trials": [...], "table": {scale: {variant: {measure: {mean, deviation, n}}}}, "claims": [...]}
    ablation.html, ablation.md

It lies in a folder named for what it was made from, so another selection of seeds, variants or scales, or other claims,
is a report of its own beside it and none is overwritten.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ccp_ray.artifact import Artifact, Request, digest_json, open_output
from ccp_ray.config import semantic
from ccp_ray.ledger import put_bytes
from eval.ablation import UNTRAINED, AblationData, Trial, VariantNote, claim_verdict
from eval.ablation_page import write_page
from eval.ablation_tables import summary
from eval.evaluate import RESULTS
from jobs.ablation_config import AblationConfig, change_text, plan_trials


def write_ablation(
    config: AblationConfig, artifacts: Mapping[str, Artifact], trials: Sequence[Trial], output: str
) -> Artifact:
    """Write the report of these finished trials (by name), or return it if it is there."""
    claims = [claim.model_dump(mode="json") for claim in config.judged()]
    asked = {"title": config.title, "claims": claims, "notes": config.notes}
    request = Request(kind="ablation", config=asked, inputs=[found.ref(name) for name, found in artifacts.items()])
    folder = f"{output}/report-{digest_json(request.identity())[:8]}"
    target = open_output(folder, request)
    if isinstance(target, Artifact):
        return target
    last = max(artifacts.values(), key=lambda artifact: artifact.provenance["created"])
    data = _data(config, trials, last.provenance)
    body = json.dumps(_results(data), indent=1, ensure_ascii=False, sort_keys=True).encode()
    files = [put_bytes(target.store, RESULTS, body)]
    files += [record.model_copy(update={"measured": True}) for record in write_page(data, target.store)]
    findings = data.findings()
    headline = {
        "runs": len(trials),
        "died": [name for name, found in artifacts.items() if found.summary["died"]],
        "verdicts": {claim.text: claim_verdict(claim, findings) for claim in data.claims},
        "report": target.store.uri("ablation.html"),
    }
    seconds = sum(float(found.measured.get("seconds", 0.0)) for found in artifacts.values())
    return target.finish(files, headline, {"run_seconds": seconds})


def _data(config: AblationConfig, trials: Sequence[Trial], provenance: Mapping[str, Any]) -> AblationData:
    notes = {
        name: VariantNote(about=variant.about, family=variant.family, change=change_text(variant.change))
        for name, variant in config.variants.items()
        if name in config.chosen()
    }
    notes[UNTRAINED] = VariantNote(about="The encoder before training.", family="", change="")
    versions = {name: str(version) for name, version in provenance["versions"].items()}
    return AblationData(
        title=config.title,
        created=provenance["created"],
        split=config.split,
        sentences=max(plan.sentences for plan in plan_trials(config)),
        seeds=config.seeds,
        scales={name: config.scales[name].about for name in dict.fromkeys(trial.scale for trial in trials)},
        variants=notes,
        claims=config.judged(),
        trials=list(trials),
        notes=config.notes,
        config_yaml=yaml.safe_dump(semantic(config), sort_keys=False, allow_unicode=True),
        environment={"platform": platform.platform(), "CPUs": str(os.cpu_count())} | versions,
    )


def _results(data: AblationData) -> dict[str, Any]:
    """Everything that was measured and what follows from it; no times."""
    claims = []
    for found in data.findings():
        entry = found.claim.model_dump(mode="json", exclude={"measures"})
        entry |= {"scale": found.scale, "measure": found.measure, "verdict": found.verdict}
        claims.append(entry | {"difference": found.difference._asdict() if found.difference else None})
    trials = [trial.model_dump(mode="json") for trial in data.trials]
    return {"split": data.split, "trials": trials, "table": summary(data), "claims": claims}
