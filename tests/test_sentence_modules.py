"""Folders written by sentence-transformers give its vectors here; what is not understood is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from sentence_transformers import SentenceTransformer, models
from torch import nn

from ccp_ray.encoder import Encoder, load_trainable
from ccp_ray.encoder_config import POOLINGS, EncoderConfig
from ccp_ray.errors import UsageError
from ccp_ray.sentence_modules import ACTIVATIONS, read_modules
from ccp_ray.text_reader import tokenizer_of

TEXTS = ["abc", "the quick fox", "", "z" * 50, "Capital Letters", "a b c d e f"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return tiny_models.plain_folder(tmp_path_factory.mktemp("models") / "plain")


def build(plain: Path, folder: Path, pooling="mean", steps=(), transformer=None, **settings) -> SentenceTransformer:
    """Save a model of sentence-transformers' own making, and return it as it loads."""
    torch.manual_seed(3)
    first = models.Transformer(str(plain), **(transformer or {}))
    made = SentenceTransformer(modules=[first, models.Pooling(16, pooling), *steps], device="cpu", **settings)
    made.save(str(folder))
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def agree(theirs: SentenceTransformer, folder: Path, **options) -> Encoder:
    expected = theirs.encode(TEXTS, **options)
    ours = Encoder.load(str(folder))
    np.testing.assert_allclose(ours.encode(TEXTS, **options), expected, atol=1e-5)
    assert ours.dimensions == expected.shape[1]
    return ours


@pytest.mark.parametrize("pooling", [*POOLINGS, ("max", "cls"), ("cls", "mean", "lasttoken")])
def test_every_pooling(plain, tmp_path, pooling):
    ours = agree(build(plain, tmp_path / "st", pooling), tmp_path / "st")
    assert ours.pooling == pooling
    ours.save(tmp_path / "ours")
    agree(SentenceTransformer(str(tmp_path / "ours"), device="cpu"), tmp_path / "ours")


def chains():
    return {
        "dense": lambda: [models.Dense(16, 6)],
        "no bias": lambda: [models.Dense(16, 6, bias=False, activation_function=nn.Identity())],
        "residual": lambda: [models.Dense(16, 16, use_residual=True)],
        "projected residual": lambda: [models.Dense(16, 5, use_residual=True, activation_function=nn.GELU())],
        "normalised before and after": lambda: [models.Normalize(), models.Dense(16, 6), models.Normalize()],
        "all": lambda: [models.Dropout(0.5), models.Dense(16, 24), models.LayerNorm(24), models.Dense(24, 3)],
    }


@pytest.mark.parametrize("chain", chains())
def test_steps_after_pooling(plain, tmp_path, chain):
    theirs = build(plain, tmp_path / "st", steps=chains()[chain]())
    for step in theirs:
        if isinstance(step, models.LayerNorm):
            nn.init.normal_(step.norm.weight)
            theirs.save(str(tmp_path / "st"))
    ours = agree(theirs, tmp_path / "st")
    ours.save(tmp_path / "ours")
    np.testing.assert_allclose(Encoder.load(str(tmp_path / "ours")).encode(TEXTS), ours.encode(TEXTS), atol=1e-6)
    agree(SentenceTransformer(str(tmp_path / "ours"), device="cpu"), tmp_path / "ours")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(plain, tmp_path, name):
    agree(build(plain, tmp_path, steps=[models.Dense(16, 4, activation_function=ACTIVATIONS[name]())]), tmp_path)


def test_prompts(plain, tmp_path):
    prompts = {"passage": "text: ", "query": "ask: "}
    theirs = build(plain, tmp_path / "st", prompts=prompts, default_prompt_name="passage")
    ours = agree(theirs, tmp_path / "st")
    default = ours.encode(TEXTS)
    agree(theirs, tmp_path / "st", prompt="ask: ")
    agree(theirs, tmp_path / "st", prompt="")
    assert not np.allclose(ours.encode(TEXTS, prompt="ask: "), default, atol=1e-3)
    np.testing.assert_array_equal(
        Encoder.load(str(tmp_path / "st"), prompt="").encode(TEXTS), ours.encode(TEXTS, prompt="")
    )
    reader = tokenizer_of(str(tmp_path / "st"))
    assert reader.prompt == "text: "
    assert [r.tolist() for r in reader.tokenize(["ab"])[0]] == [r.tolist() for r in ours.tokenize(["ab"])[0]]
    assert tokenizer_of(str(tmp_path / "st"), prompt="ask: ").prompt == "ask: "
    ours.save(tmp_path / "ours")
    agree(SentenceTransformer(str(tmp_path / "ours"), device="cpu"), tmp_path / "ours")


def test_a_prompt_without_a_default_stands_before_no_text(plain, tmp_path):
    agree(build(plain, tmp_path, prompts={"query": "ask: "}), tmp_path)
    assert tokenizer_of(str(tmp_path)).prompt == ""


def test_a_pooling_without_the_prompt_is_refused_only_with_a_prompt(plain, tmp_path):
    build(plain, tmp_path / "st")
    change(tmp_path / "st", "1_Pooling/config.json", include_prompt=False)
    ours = agree(SentenceTransformer(str(tmp_path / "st"), device="cpu"), tmp_path / "st")
    with pytest.raises(UsageError, match="include_prompt"):
        ours.encode(TEXTS, prompt="ask: ")
    with pytest.raises(UsageError, match="include_prompt"):
        Encoder.load(str(tmp_path / "st"), prompt="ask: ")
    ours.save(tmp_path / "ours")
    assert not read_modules(tmp_path / "ours").pools_prompt


@pytest.mark.parametrize("lower", [False, True])
def test_lower_casing_and_truncation(plain, tmp_path, lower):
    theirs = build(plain, tmp_path, transformer={"do_lower_case": lower, "max_seq_length": 7})
    settings = {"max_seq_length": 7, "do_lower_case": lower}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(settings))  # as releases before 5.7 wrote it
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    ours = agree(theirs, tmp_path)
    assert ours.max_tokens == 7
    same = np.allclose(*ours.encode(["ABC", "abc"]), atol=1e-6)
    assert same == lower
    assert tokenizer_of(str(tmp_path)).tokenize(["ABC" * 9])[1] == 1


def test_a_decoder_pools_its_last_token(tmp_path):
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    shape = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    LlamaModel(LlamaConfig(**shape, num_attention_heads=2, pad_token_id=1)).save_pretrained(tmp_path / "plain")
    tiny_models.tokenizer(24).save_pretrained(tmp_path / "plain")
    agree(build(tmp_path / "plain", tmp_path / "st", "lasttoken"), tmp_path / "st")


def test_the_encoder_of_t5_stands_alone(tmp_path):
    from transformers import T5Config, T5Model

    torch.manual_seed(0)
    shape = T5Config(vocab_size=31, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, pad_token_id=1)
    T5Model(shape).save_pretrained(tmp_path / "plain")
    tokenizer = tiny_models.tokenizer(24)
    tokenizer.backend_tokenizer.post_processor = tiny_models.suffix_only()
    tokenizer.save_pretrained(tmp_path / "plain")
    agree(build(tmp_path / "plain", tmp_path / "st", steps=[models.Dense(16, 8)]), tmp_path / "st")


def test_training_takes_only_what_it_keeps(plain, tmp_path):
    def start(name: str, config: EncoderConfig | None = None, **made):
        build(plain, tmp_path / name, **made)
        source = str(tmp_path / name)
        return load_trainable(source, config or EncoderConfig(source=source), plain, False, 0)

    assert start("mean", steps=[models.Normalize()]).normalize
    with pytest.raises(UsageError, match="cls and mean pooling, not max"):
        start("max", pooling="max")
    assert start("chosen", EncoderConfig(pooling="cls"), pooling="max").pooling == "cls"
    with pytest.raises(UsageError, match=r"modules\.json names Dense"):
        start("dense", steps=[models.Dense(16, 6)])
    with pytest.raises(UsageError, match="default_prompt_name"):
        start("prompt", prompts={"p": "text: "}, default_prompt_name="p")
    build(plain, tmp_path / "lower")
    (tmp_path / "lower" / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(UsageError, match="do_lower_case"):
        load_trainable(str(tmp_path / "lower"), EncoderConfig(), plain, False, 0)


def change(folder: Path, name: str, **values) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))


def list_modules(folder: Path, *added: dict, keep: int = 3) -> None:
    listed = json.loads((folder / "modules.json").read_text())[:keep]
    (folder / "modules.json").write_text(json.dumps([*listed, *added]))


def pickled(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")


OTHER = {"type": "sentence_transformers.models.WordWeights", "path": "3_WordWeights"}
DAMAGE = [
    (lambda f: change(f, "1_Pooling/config.json", pooling_mode="middle"), "pooling middle is unknown; known are cls"),
    (lambda f: change(f, "1_Pooling/config.json", pooling_mode=[]), "pooling .*is unknown"),
    (lambda f: change(f, "1_Pooling/config.json", pooling_mode_median=True), "pooling pooling_mode_median is unknown"),
    (lambda f: change(f, "1_Pooling/config.json", include_prompt=False), "include_prompt"),
    (lambda f: change(f, "2_Dense/config.json", activation_function="os.system"), r"os\.system; known are torch\.nn"),
    (lambda f: change(f, "2_Dense/config.json", activation_function="torch.nn.Bilinear"), "Bilinear; known are"),
    (lambda f: change(f, "2_Dense/config.json", module_input_name="token_embeddings"), "module_input_name"),
    (lambda f: change(f, "2_Dense/config.json", rank=3), r"2_Dense/config\.json: expected .*found .*rank"),
    (lambda f: change(f, "2_Dense/config.json", out_features=7), r"2_Dense/model\.safetensors: not the weights"),
    (
        lambda f: change(f, "1_Pooling/config.json", pooling_mode=["cls", "max"]),
        "Dense takes 16 dimensions, but gets 32",
    ),
    (pickled, r"2_Dense/model\.safetensors: missing \(pickled weights are refused\)"),
    (lambda f: list_modules(f, OTHER | {"path": "2_Dense"}), "names WordWeights; known are"),
    (lambda f: list_modules(f, {"type": "custom_st.Layer", "path": ""}), r"custom_st\.Layer is the folder's own code"),
    (lambda f: list_modules(f, OTHER | {"kwargs": ["task"]}), "WordWeights asks for task"),
    (lambda f: list_modules(f, keep=1), "then Pooling, found Transformer"),
    (
        lambda f: change(f, "sentence_bert_config.json", processing_kwargs={"text": {}}),
        "processing_kwargs not supported",
    ),
    (lambda f: change(f, "sentence_bert_config.json", transformer_task="fill-mask"), "transformer_task not supported"),
    (
        lambda f: change(f, "sentence_bert_config.json", modality_config={"message": {}}),
        "modality_config not supported",
    ),
    (lambda f: change(f, "config_sentence_transformers.json", default_prompt_name="x"), "none of its prompts"),
    (lambda f: change(f, "config_sentence_transformers.json", model_type="SparseEncoder"), "SparseEncoder is not"),
]


@pytest.fixture(scope="module")
def dense_folder(plain, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dense") / "st"
    build(plain, folder, steps=[models.Dense(16, 6)], prompts={"p": "text: "}, default_prompt_name="p")
    return folder


@pytest.mark.parametrize("case", range(len(DAMAGE)))
def test_what_is_not_understood_is_refused_by_name(dense_folder, tmp_path, case):
    import shutil

    damage, words = DAMAGE[case]
    folder = Path(shutil.copytree(dense_folder, tmp_path / "st"))
    damage(folder)
    with pytest.raises(UsageError, match=words) as caught:
        Encoder.load(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode": "max", "pooling_mode_cls_token": True}, "max"),
        ({"embedding_dimension": 16}, "mean"),
    ],
)
def test_pooling_as_old_and_new_releases_write_it(tmp_path, spec, expected):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(spec))
    package = "sentence_transformers.models"
    listed = [{"type": f"{package}.Transformer", "path": ""}, {"type": f"{package}.Pooling", "path": "1_Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    assert read_modules(tmp_path) == (expected, (), True)
