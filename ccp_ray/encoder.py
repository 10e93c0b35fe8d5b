"""Sentence encoder: a Hugging Face encoder, its tokenizer, and how a sentence's tokens become one vector.

What comes before and after the model is read from and written to the files that sentence-transformers uses
(`text_reader`, `sentence_modules`), so their folders load here and ours load there. `encode` sorts by length and
batches by a token budget; where a batch does not fit into the GPU's memory, the budget is halved from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError

from ccp_ray.batching import Tokens, pad, token_budget_batches
from ccp_ray.encoder_config import TRAINED_POOLINGS, ArchitectureConfig, EncoderConfig, Pooling
from ccp_ray.errors import CcpError, UsageError
from ccp_ray.hardware import device
from ccp_ray.model_code import FOREIGN, how_to_trust, trusting
from ccp_ray.model_source import local_model
from ccp_ray.packed_linear import pack_linear_layers
from ccp_ray.pooling import pool
from ccp_ray.sentence_modules import Normalize, SentenceModules, read_modules, write_modules
from ccp_ray.text_reader import (
    TextReader,
    load_tokenizer,
    longest_input,
    lower_cases,
    quiet_transformers,
    reader_of,
    special_tokens,
    text_settings,
)

# Padded tokens a forward pass. On a core of an EPYC, 6 x 384 encoder: 8192 costs 16 % (bf16) to 23 % (fp32) more than
# 1024, whose activations stay in its cache. A GPU wants wide products.
_BUDGET = {"cpu": 1024, "cuda": 16_384}


class Encoder:
    """Tokens in, one vector a text out.

    `token_limit`: the token budget that was left after CUDA ran out of memory; None where it never did.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        pooling: Pooling | tuple[Pooling, ...] = "cls",
        normalize: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        self.model = model
        self.modules = SentenceModules(pooling, (Normalize(),) * normalize)
        longest = longest_input(model.config, tokenizer)
        self.reader = TextReader(tokenizer, min(longest, max_tokens or longest))
        self.prefix, self.suffix = special_tokens(tokenizer)
        self.pad_id = int(tokenizer.pad_token_id)
        self.token_limit: int | None = None

    @classmethod
    def load(
        cls,
        source: str,
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        pooling: Pooling | None = None,
        prompt: str | None = None,
        where: torch.device | None = None,
    ) -> Encoder:
        """Load from any model source, in evaluation mode, onto a device (None: this process's).

        `pooling` and `prompt` override what the folder says. Raises UsageError for a folder that is not a model.
        """
        folder = local_model(source)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        with trusting(folder) as trust:
            model = from_folder(_auto_class(folder, trust), folder, dtype, trust).to(where or device()).eval()
        model.config.use_cache = False  # decoders keep every layer's keys otherwise
        return cls._of_folder(folder, model, pooling, prompt)

    @classmethod
    def _of_folder(cls, folder: Path, model: Any, pooling: Pooling | None = None, prompt: str | None = None) -> Encoder:
        reader = reader_of(folder, model.config).narrowed(prompt=prompt)
        modules = read_modules(folder)
        modules = modules._replace(pooling=pooling or modules.pooling)
        modules = modules._replace(steps=tuple(step.to(model.device) for step in modules.steps))
        try:
            modules.width(int(model.config.hidden_size))
        except UsageError as error:
            raise UsageError(f"{folder}: {error}") from None
        made = cls(model, reader.tokenizer)
        made.reader, made.modules = reader, modules
        made._check_prompt(reader.prompt, str(folder))
        return made

    def _check_prompt(self, prompt: str, name: str) -> None:
        if prompt and not self.modules.pools_prompt:
            raise UsageError(
                f"{name}: its pooling leaves the prompt's tokens out (include_prompt: false), which is not supported; "
                "use an empty prompt"
            )

    @property
    def dimensions(self) -> int:
        """Width of the vectors, after every Dense."""
        return self.modules.width(int(self.model.config.hidden_size))

    @property
    def pooling(self) -> Pooling | tuple[Pooling, ...]:
        return self.modules.pooling

    @property
    def normalize(self) -> bool:
        """Whether vectors come out at unit length."""
        return bool(self.modules.steps) and isinstance(self.modules.steps[-1], Normalize)

    @property
    def tokenizer(self) -> Any:
        return self.reader.tokenizer

    @property
    def max_tokens(self) -> int:
        return self.reader.max_tokens

    @max_tokens.setter
    def max_tokens(self, longest: int) -> None:
        self.reader = self.reader._replace(max_tokens=longest)

    def tokenize(self, texts: Sequence[str]) -> tuple[list[Tokens], int]:
        """Ids with special tokens, cut to the encoder's length. Returns (rows, number of texts that were cut)."""
        return self.reader.tokenize(texts)

    def budget(self, asked: int | None = None) -> int:
        """Padded tokens of a forward pass: what is asked, else what suits the device; never above `token_limit`."""
        budget = asked or _BUDGET[self.model.device.type]
        return min(budget, self.token_limit or budget)

    @torch.inference_mode()
    def encode_tokens(self, rows: Sequence[Tokens], token_budget: int | None = None) -> NDArray[np.float32]:
        """Vectors [N, D] of token rows, in their order. token_budget: padded tokens a forward pass; see `budget`.

        Where CUDA has no memory for a batch, what is left is batched again with half the budget, also in later
        calls. Raises CcpError for a text that does not fit alone.
        """
        out_ND = np.empty((len(rows), self.dimensions), dtype=np.float32)
        length_N = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        batches = token_budget_batches(length_N, self.budget(token_budget))
        while batches:
            vectors_BD = self._attempt([rows[i] for i in batches[0]])
            if vectors_BD is None:
                left = np.concatenate(batches)
                self._halve(length_N[batches[0]])
                batches = [left[batch] for batch in token_budget_batches(length_N[left], self.budget(token_budget))]
            else:
                out_ND[batches.pop(0)] = vectors_BD.cpu().numpy()
        return out_ND

    def _attempt(self, rows: Sequence[Tokens]) -> torch.Tensor | None:
        """Vectors [B, D], or None where memory ran out: outside of the handler nothing of the pass is held."""
        ids_BT, mask_BT = pad(rows, self.pad_id)
        try:
            return self.forward(torch.from_numpy(ids_BT), torch.from_numpy(mask_BT))
        except torch.OutOfMemoryError:
            return None

    def _halve(self, length_B: NDArray[np.int64]) -> None:
        """Lower `token_limit` below the batch that did not fit."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(length_B) == 1:
            raise CcpError(
                f"out of memory: one text of {length_B[0]} tokens does not fit on {self.model.device}; "
                "set max_tokens lower, or free the device's memory"
            )
        self.token_limit = int(len(length_B) * length_B.max()) // 2

    def encode(
        self, texts: Sequence[str], token_budget: int | None = None, *, prompt: str | None = None
    ) -> NDArray[np.float32]:
        """Vectors [N, D] of texts. prompt: put before every text; None for the encoder's own."""
        self._check_prompt(prompt or "", "prompt")
        return self.encode_tokens(self.reader.narrowed(prompt=prompt).tokenize(texts)[0], token_budget)

    def forward(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Vectors [B, D] of padded token ids, in fp32."""
        where = self.model.device
        # Without padding there is nothing to mask: attention takes its faster path.
        attended = None if bool(mask_BT.all()) else mask_BT.to(where)
        hidden_BTD = self.model(input_ids=ids_BT.to(where), attention_mask=attended).last_hidden_state
        vectors_BD = pool(hidden_BTD.float(), mask_BT.to(where), self.pooling)
        for step in self.modules.steps:
            vectors_BD = step(vectors_BD)
        return vectors_BD

    def packed(self) -> Encoder:
        """This encoder, made faster on a CPU (`packed_linear`); from now on it can only encode."""
        pack_linear_layers(self.model)
        return self

    def save(self, folder: Path) -> None:
        """Write a plain Hugging Face folder that sentence-transformers loads too."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_modules(folder, self.modules, int(self.model.config.hidden_size), self.max_tokens, self.reader.prompt)


def _auto_class(folder: Path, trust: bool) -> Any:
    """Of an encoder-decoder (T5) only the encoder. Raises UsageError."""
    try:
        shape = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    except (OSError, ValueError, KeyError, *FOREIGN):
        return transformers.AutoModel  # `from_folder` says what is wrong
    # T5's shape names decoder layers even where its encoder was saved alone.
    pair = shape.is_encoder_decoder or hasattr(shape, "num_decoder_layers")
    return transformers.AutoModelForTextEncoding if pair else transformers.AutoModel


def from_folder(auto: Any, folder: Path, dtype: torch.dtype = torch.float32, trust: bool = False) -> Any:
    """`auto.from_pretrained` with safetensors only, SDPA attention. trust: run the folder's code. Raises UsageError."""
    quiet_transformers()
    settings = {"use_safetensors": True, "trust_remote_code": trust, "local_files_only": True}
    report = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        model, found = auto.from_pretrained(folder, dtype=dtype, **settings, **report)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, *FOREIGN) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{folder}: transformers cannot load this model: {reason}{how_to_trust(folder)}") from error
    # What it does not find, or finds in another shape, transformers fills with random numbers and says nothing.
    inner = "" if model.base_model is model else f"{model.base_model_prefix}."
    absent = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    lost = sorted(name for name in absent if name.startswith(inner) and "pooler." not in name)
    if lost:
        raise UsageError(
            f"{folder}: {len(lost)} weights that config.json asks for are missing or of another shape, first {lost[0]}"
        )
    return model


def new_model(config: ArchitectureConfig, tokenizer: Any, seed: int) -> Any:
    """An untrained XLM-R-shaped masked language model; its encoder is `.base_model`."""
    torch.manual_seed(seed)
    shape = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=config.layers,
        hidden_size=config.hidden,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate,
        max_position_embeddings=config.positions + int(tokenizer.pad_token_id) + 1,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        pad_token_id=int(tokenizer.pad_token_id),
        bos_token_id=int(tokenizer.bos_token_id),
        eos_token_id=int(tokenizer.eos_token_id),
        type_vocab_size=1,
    )
    return transformers.XLMRobertaForMaskedLM(shape)


def write_untrained(folder: Path, shape: ArchitectureConfig, tokenizer: Path, pooling: Pooling, seed: int) -> None:
    """Write an untrained encoder folder."""
    loaded = load_tokenizer(tokenizer)
    Encoder(new_model(shape, loaded, seed).base_model, loaded, pooling).save(folder)


def load_trainable(
    source: str | None, config: EncoderConfig, tokenizer: Path, with_mlm: bool, seed: int, *, own_prompts: bool = False
) -> Encoder:
    """The encoder to train, in fp32: `source`, or a new one with the corpus' tokenizer.

    own_prompts: the training puts prompts of its own before texts, so the source's default one does not matter.
    `model` is the masked language model where `with_mlm`, else the bare encoder. A head that the source lacks is new.
    """
    if source is None:
        loaded = load_tokenizer(tokenizer)
        masked = new_model(config.architecture, loaded, seed)
        return Encoder(masked if with_mlm else masked.base_model, loaded, config.pooling or "mean")
    check_trainable(source, config.pooling)
    folder = local_model(source)
    torch.manual_seed(seed)
    model = from_folder(transformers.AutoModelForMaskedLM if with_mlm else transformers.AutoModel, folder)
    encoder = Encoder._of_folder(folder, model.train(), config.pooling)
    if encoder.reader.prompt and not own_prompts:
        raise UsageError(
            f"{source}: training puts no prompt before sentences; remove default_prompt_name from "
            "config_sentence_transformers.json"
        )
    if with_mlm and encoder.tokenizer.mask_token_id is None:
        raise UsageError(f"{source}: the tokenizer has no mask token, which mlm needs; set mlm.weight=0")
    return encoder


def check_trainable(source: str, pooling: Pooling | None) -> None:
    """Training pools itself and takes tokens from the corpus: refuse what it would leave out. Reads no weights.

    Raises UsageError. pooling: None: as the source says.
    """
    folder, known = local_model(source), " and ".join(TRAINED_POOLINGS)
    modules = read_modules(folder)
    pooling_used = pooling or modules.pooling
    if pooling_used not in TRAINED_POOLINGS:
        raise UsageError(f"{source}: training supports {known} pooling, not {pooling_used}; set encoder.pooling")
    others = sorted({type(step).__name__ for step in modules.steps} - {"Normalize"})
    if others:
        raise UsageError(
            f"{source}: training supports {known} pooling and Normalize, but modules.json names {others[0]}"
        )
    if not text_settings(folder).lower_case:
        return
    # Not `load_tokenizer`: that one is made to lower-case where the folder asks for it.
    own = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not lower_cases(own):
        raise UsageError(f"{source}: training does not follow do_lower_case; give it a tokenizer that lower-cases")
