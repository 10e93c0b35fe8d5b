"""An ablation's tables and sentences, shared by its page and its Markdown: both say the same by construction.

A cell over seeds is "mean ± standard deviation"; shares are in %, their differences in percentage points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from eval.ablation import AblationData, Finding, claim_verdict, over_seeds, problems_over_seeds, tried
from eval.paired import ERRORS, Difference, Spread, overall, two_sided_p
from eval.plot_scales import MINUS
from eval.report_tables import MISSING, Cell, Table

ACCURACIES = {
    "accuracy.raw": "raw",
    "accuracy.shift": "+ shift",
    "accuracy.scale": "+ scale",
    "accuracy.rotate": "+ rotate",
    "own.rotate": "calibrated*",
    "context.raw": "context",
    "context.scale": "context, calibrated",
}
HEALTH = {
    "loss_share": "loss / guessing",
    "group_accuracy": "in-group accuracy",
    "spread": "spread",
    "lowest_spread": "lowest spread",
    "staleness_gap": "staleness gap",
    "leakage": "leakage",
}
_SHARES = ("accuracy.", "own.", "context.")


def result_sentence(data: AblationData) -> str:
    """The verdicts counted; empty without claims."""
    findings = data.findings()
    counts = Counter(claim_verdict(claim, findings) for claim in data.claims)
    words = ("confirmed", "contradicted", "mixed", "unconfirmed", "not shown", "not measured")
    parts = [f"{counts[word]} {word}" for word in words if counts[word]]
    what = _counted(data.seeds, "seed") + (f" and {len(data.scales)} scales" if len(data.scales) > 1 else "")
    return f"{_counted(data.claims, 'claim')} over {what}: {', '.join(parts)}." if data.claims else ""


def reading_notes(data: AblationData) -> list[str]:
    """How the numbers came about and how far they can be trusted."""
    seeds = _counted(data.seeds, "seed")
    notes = [
        f"Top-1 accuracy in % among {data.sentences:,} translated {data.split} sentences, mean of all language pairs "
        f"and both directions; ± is the standard deviation over {seeds}. A seed is another family of "
        "languages, other documents and other initial weights; all variants of a seed share them.",
        "Calibration steps add up: + rotate includes shift and scale. They are fitted on sentences of the corpus; in "
        "the column with a star on the searched sentences, each language alone, never on their pairing.",
    ]
    judged = [found.difference for found in data.findings() if found.difference is not None]
    if judged:
        chance = two_sided_p(ERRORS, max(difference.n for difference in judged) - 1)
        notes.append(
            "A claim is judged by the differences of its two sides, paired by seed: confirmed if their mean exceeds "
            "two standard errors (±), contradicted if it does so the other way, else not shown. Without any effect "
            f"the rule still speaks in {100 * chance:.0f} % of the cases at this number of seeds: about "
            f"{chance * len(judged):.0f} of the {len(judged)} judgements here. p is Student's, for one of them alone."
        )
    if len(data.scales) > 1:
        notes.append(
            f"All variants ran at the scale {next(iter(data.scales))}; at each further one only those of claims that "
            "were not confirmed by then. In all, a claim counts as confirmed where it shows at one scale and by one "
            "measure and nothing contradicts it, as unconfirmed where it was tried at two scales or more and showed at "
            "none."
        )
    if any(trial.died for trial in data.trials):
        notes.append("A run that broke down in training (died) counts with the accuracy of guessing.")
    return notes + data.notes


def accuracies(data: AblationData, scale: str) -> Table:
    """Accuracy of each variant: raw, after each calibration step, and held-out context retrieval."""
    return _by_variant(data, scale, ACCURACIES)


def health(data: AblationData, scale: str) -> Table:
    """The end of training: loss, spread and gaps."""
    return _by_variant(data, scale, HEALTH)


def named(data: AblationData, scale: str) -> Table:
    """What the monitor named, and what died, in how many runs; without the variants that had nothing."""
    rows = []
    for variant in data.variants:
        found = problems_over_seeds(data.trials, scale, variant)
        own = [trial for trial in data.trials if (trial.scale, trial.variant) == (scale, variant)]
        first = next((text for trial in own for text in (trial.died, *trial.problems) if text), "")
        if found:
            counts = ", ".join(f"{kind} {n}/{of}" for kind, (n, of) in found.items())
            rows.append([*map(Cell, [variant, counts, first])])
    return Table(["variant", "named in so many of its runs", "the first of them"], rows, texts=3)


def claims(data: AblationData) -> Table:
    """One verdict a claim and scale, and one for all; claims are numbered."""
    findings = data.findings()
    rows = []
    for number, claim in enumerate(data.claims, 1):
        own = [found for found in findings if found.claim == claim]
        verdicts = map(Cell, [*(_at_scale(own, scale) for scale in data.scales), claim_verdict(claim, findings)])
        rows.append([Cell(f"{number}. {claim.text}"), Cell(claim.source), *verdicts])
    return Table(["claim", "of", *data.scales, "in all"], rows, texts=3 + len(data.scales))


def _counted(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'s' * (len(things) != 1)}"


def _at_scale(findings: Sequence[Finding], scale: str) -> str:
    own = [found.verdict for found in findings if found.scale == scale]
    return overall(own) if own else MISSING


def judgements(data: AblationData) -> Table:
    """Every claim, by its number, at every scale by every measure."""
    columns = ["claim", "compared", "measure", "scale", "difference", "p", "seeds", "verdict"]
    numbers = {claim.text: str(i) for i, claim in enumerate(data.claims, 1)}
    rows = [[Cell(numbers[found.claim.text]), *_judgement(found)] for found in data.findings()]
    return Table(columns, rows, texts=4)


def each_seed(data: AblationData, scale: str) -> Table:
    """The accuracies of every trial, unaveraged."""
    found = [trial for trial in data.trials if trial.scale == scale]
    shown = {name: title for name, title in ACCURACIES.items() if any(name in trial.measures for trial in found)}
    rows = []
    for trial in found:
        values = [_value(name, trial.measures.get(name)) for name in shown]
        rows.append([*map(Cell, [trial.variant, str(trial.seed), *values])])
    return Table(["variant", "seed", *shown.values()], rows, texts=2)


def variants(data: AblationData) -> Table:
    """What each variant is and what it changes."""
    rows = [[Cell(name), Cell(note.about), Cell(note.change, code=True)] for name, note in data.variants.items()]
    return Table(["variant", "what it is", "change of pretrain"], rows, texts=3)


def summary(data: AblationData) -> dict[str, Any]:
    """{scale: {variant: {measure: {mean, deviation, n}}}} of all measures, plain JSON."""
    out: dict[str, Any] = {}
    for scale in data.scales:
        for variant in tried(data.trials, scale, data.variants):
            own = [t.measures for t in data.trials if (t.scale, t.variant) == (scale, variant)]
            names = sorted({name for measures in own for name in measures})
            found = {name: over_seeds(data.trials, scale, variant, name) for name in names}
            out.setdefault(scale, {})[variant] = {name: value._asdict() for name, value in found.items() if value}
    return out


def is_share(measure: str) -> bool:
    """Whether a measure is a fraction that is shown in %."""
    return measure.startswith(_SHARES) or measure == "group_accuracy"


def _by_variant(data: AblationData, scale: str, measures: dict[str, str]) -> Table:
    """A row a variant that was tried; measures that no variant has are left out."""
    found = {
        variant: {name: over_seeds(data.trials, scale, variant, name) for name in measures}
        for variant in tried(data.trials, scale, data.variants)
    }
    shown = [name for name in measures if any(values[name] for values in found.values())]
    rows = [
        [Cell(variant), *(Cell(_spread(name, values[name])) for name in shown)] for variant, values in found.items()
    ]
    return Table(["variant", *(measures[name] for name in shown)], rows)


def _spread(measure: str, value: Spread | None) -> str:
    if value is None:
        return MISSING
    deviation = "" if value.deviation is None else f" ± {_value(measure, value.deviation)}"
    return _value(measure, value.mean) + deviation


def _value(measure: str, value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{100 * value:.1f}" if is_share(measure) else f"{value:.3f}".replace("-", MINUS)


def _judgement(found: Finding) -> list[Cell]:
    claim, lower = found.claim, found.claim.lower_measure
    sides = claim.higher if claim.higher == claim.lower else f"{claim.higher} {MINUS} {claim.lower}"
    measure = _title(found.measure) + (f" {MINUS} {_title(lower)}" if lower else "")
    value = found.difference
    numbers = [_difference(found.measure, value), f"{value.p:.3f}", str(value.n)] if value else [MISSING] * 3
    return [*map(Cell, [sides, measure, found.scale, *numbers, found.verdict])]


def _title(measure: str) -> str:
    return ACCURACIES.get(measure) or HEALTH.get(measure) or measure


def _difference(measure: str, value: Difference) -> str:
    if is_share(measure):
        return f"{100 * value.mean:+.1f} ± {100 * value.error:.1f}".replace("-", MINUS)
    return f"{value.mean:+.4f} ± {value.error:.4f}".replace("-", MINUS)


def verdict_tone(word: str) -> str:
    """The colour of a verdict: good, bad or neutral."""
    return {"confirmed": "good", "contradicted": "bad"}.get(word, "neutral")
