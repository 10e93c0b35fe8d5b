"""XOR-Retrieve's numbers written down once more from the description of its algorithm, slow and plain."""

from __future__ import annotations

from nltk.tokenize import word_tokenize


def top_tokens(passages: list[str], limit: int) -> str:
    tokens: list[str] = []
    for passage in passages:
        tokens += word_tokenize(passage)
        if len(tokens) >= limit:
            break
    return " ".join(tokens[:limit])


def recall(predictions: list[dict], answers_of: dict[str, list[str]], limit: int) -> tuple[float, dict[str, float]]:
    """(macro, by language) over the predictions that have an answer other than yes or no."""
    found: dict[str, list[bool]] = {}
    for prediction in predictions:
        answers = [a for a in answers_of.get(prediction["id"], []) if a not in ("yes", "no")]
        if answers:
            text = top_tokens(prediction["ctxs"], limit)
            found.setdefault(prediction["lang"], []).append(any(answer in text for answer in answers))
    shares = {lang: sum(hits) / len(hits) for lang, hits in found.items()}
    return sum(shares.values()) / len(shares), shares
