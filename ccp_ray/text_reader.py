"""Texts to token ids, as a model folder says: its tokenizer, longest input, lower-casing and default prompt.

No weights: the tasks that tokenise beside the model need none. transformers is imported where it is needed, for
commands that load no model import this module: it takes 0.7 s, and its `AutoConfig` brings torch. The settings are
those of sentence-transformers (`sentence_bert_config.json`, `config_sentence_transformers.json`); one that would change
vectors and is not known here is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ccp_ray.batching import Tokens
from ccp_ray.errors import UsageError
from ccp_ray.model_code import FOREIGN, how_to_trust, trusting
from ccp_ray.model_source import local_model

_UNLIMITED = 1 << 20  # tokenizers without a limit report a huge number
_HEAD = 32  # characters a token: the longest pieces of common vocabularies have about 16
_FAMILIES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_PLAIN_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}


class TextSettings(NamedTuple):
    """What a folder asks to be done with every text. max_tokens: None where it does not say."""

    max_tokens: int | None = None
    lower_case: bool = False
    prompt: str = ""


class TextReader(NamedTuple):
    """Tokenises texts for one encoder: `prompt` before every text, cut to `max_tokens` with special tokens."""

    tokenizer: Any
    max_tokens: int
    prompt: str = ""

    def narrowed(self, max_tokens: int | None = None, prompt: str | None = None) -> TextReader:
        """With a shorter limit and another prompt, where given."""
        longest = min(self.max_tokens, max_tokens or self.max_tokens)
        return TextReader(self.tokenizer, longest, self.prompt if prompt is None else prompt)

    def tokenize(self, texts: Sequence[str]) -> tuple[list[Tokens], int]:
        """Ids with special tokens, cut. Returns (rows, number of texts that were cut)."""
        prefix, suffix = special_tokens(self.tokenizer)
        room = self.max_tokens - len(prefix) - len(suffix)
        rows: list[Tokens] = []
        cut = 0
        for ids in self._ids([self.prompt + text for text in texts], room):
            cut += len(ids) > room
            rows.append(np.asarray([*prefix, *ids[:room], *suffix], dtype=np.int64))
        return rows, cut

    def _ids(self, texts: Sequence[str], room: int) -> list[list[int]]:
        """Ids of each text, at least its first `room`, and more where it has more.

        Of a long text only the head is tokenised, if that gives enough: 10 MB would take seconds and gigabytes.
        """
        heads = [_head(text, _HEAD * (room + 1)) for text in texts]
        found = self._all_ids(heads)
        short = [n for n, text in enumerate(texts) if len(text) > len(heads[n]) and len(found[n]) <= room]
        for n, ids in zip(short, self._all_ids([texts[n] for n in short]), strict=True):
            found[n] = ids
        return found

    def _all_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        if not getattr(self.tokenizer, "is_fast", False):
            return list(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
        # Without offsets and masks, which nobody reads: two thirds of the time.
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _head(text: str, length: int) -> str:
    """The first characters, without the word that the cut goes through: WordPiece takes words whole or not at all."""
    if len(text) <= length:
        return text
    head = text[:length]
    return head[: max(head.rfind(" "), head.rfind("\n"))] if " " in head or "\n" in head else head


def tokenizer_of(source: str, max_tokens: int | None = None, prompt: str | None = None) -> TextReader:
    """A source's reader of texts, without loading weights. prompt: None for the folder's own. Raises UsageError."""
    folder = local_model(source)
    return reader_of(folder, _shape_of(folder)).narrowed(max_tokens, prompt)


def _shape_of(folder: Path) -> Any:
    import transformers

    try:
        with trusting(folder) as trust:
            return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
    except (OSError, ValueError, KeyError, *FOREIGN) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"{folder}: config.json is damaged, or of no model that transformers knows: {reason}{how_to_trust(folder)}"
        ) from None


def reader_of(folder: Path, shape: Any) -> TextReader:
    """The reader of a local folder whose config.json transformers read as `shape`. Raises UsageError."""
    settings, tokenizer = text_settings(folder), load_tokenizer(folder)
    longest = longest_input(shape, tokenizer)
    return TextReader(tokenizer, min(longest, settings.max_tokens or longest), settings.prompt)


def text_settings(folder: Path) -> TextSettings:
    """As sentence-transformers records them; the defaults for a plain Hugging Face folder. Raises UsageError."""
    if not (folder / "modules.json").is_file():
        return TextSettings()
    names = (folder / f"sentence_{family}_config.json" for family in _FAMILIES)
    path = next((path for path in names if path.is_file()), None)
    spec = dict(read_json(path)) if path else {}
    longest, lower = spec.pop("max_seq_length", None), spec.pop("do_lower_case", False)
    spec.pop("unpad_inputs", None)  # how it computes, not what
    known = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    strange = {name for name, value in spec.items() if value and known.get(name) != value} - {"modality_config"}
    modality = spec.get("modality_config", {"text": _PLAIN_TEXT})
    if modality.get("text") != _PLAIN_TEXT or "message" in modality:
        strange.add("modality_config")
    if strange:
        raise UsageError(
            f"{path}: {', '.join(sorted(strange))} not supported; known are max_seq_length, do_lower_case and "
            "a text model's own defaults"
        )
    return TextSettings(longest, bool(lower), _default_prompt(folder / "config_sentence_transformers.json"))


def _default_prompt(path: Path) -> str:
    spec = read_json(path) if path.is_file() else {}
    kind = spec.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise UsageError(f"{path}: model_type {kind} is not supported, expected SentenceTransformer")
    name, prompts = spec.get("default_prompt_name"), spec.get("prompts") or {}
    if name is not None and name not in prompts:
        raise UsageError(f"{path}: default_prompt_name {name!r} is none of its prompts ({', '.join(sorted(prompts))})")
    return str(prompts[name] or "") if name is not None else ""


def load_tokenizer(folder: Path) -> Any:
    """The folder's fast tokenizer, lower-casing where the folder says so. Raises UsageError."""
    import transformers

    quiet_transformers()
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{folder}: the tokenizer is missing or damaged: {reason}") from error
    if loaded.pad_token_id is None:
        raise UsageError(f"{folder}: the tokenizer has no padding token (tokenizer_config.json: pad_token)")
    if text_settings(folder).lower_case and not lower_cases(loaded):
        _lower_case(folder, loaded)
    return loaded


def lower_cases(tokenizer: Any) -> bool:
    """Whether the tokenizer itself makes capitals small."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and backend.normalizer is not None and backend.normalizer.normalize_str("A") == "a"


def _lower_case(folder: Path, tokenizer: Any) -> None:
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Steps

    if not tokenizer.is_fast:
        raise UsageError(f"{folder}: do_lower_case needs a fast tokenizer (tokenizer.json)")
    own = tokenizer.backend_tokenizer.normalizer
    tokenizer.backend_tokenizer.normalizer = Steps([Lowercase()] if own is None else [Lowercase(), own])


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after one sentence."""
    full = list(tokenizer("a", verbose=False)["input_ids"])
    bare = list(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
    starts = range(len(full) - len(bare) + 1)
    start = next((n for n in starts if full[n : n + len(bare)] == bare), None)
    if start is None or not bare:
        raise UsageError("the tokenizer changes a text's own tokens when it adds special tokens; this is not supported")
    return full[:start], full[start + len(bare) :]


def longest_input(shape: Any, tokenizer: Any) -> int:
    """Tokens that the model has positions for, and the tokenizer's own limit."""
    positions = int(getattr(shape, "max_position_embeddings", _UNLIMITED))
    if "roberta" in shape.model_type or shape.model_type == "camembert":
        positions -= int(shape.pad_token_id) + 1  # their positions start after the padding index
    return min(positions, int(min(tokenizer.model_max_length, _UNLIMITED)))


def read_json(path: Path) -> Any:
    """A JSON file of a model folder. Raises UsageError."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: missing or damaged ({error})") from error


def quiet_transformers() -> None:
    """Only errors: progress bars and advice of the loader are not for our users."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
