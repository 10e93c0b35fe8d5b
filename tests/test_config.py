"""Strict configuration: every wrong key or value is one line that names it; merging obeys its laws."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from ccp_ray.config import StrictModel, build_config, load_config, merge, parse_yaml, semantic
from ccp_ray.errors import UsageError
from ccp_ray.pretrain_config import BankConfig, PretrainConfig


class Resources(StrictModel):
    workers: int = 2


class Optimizer(StrictModel):
    rate: float = 1e-3
    kind: Literal["adam", "sgd"] = "adam"


class Group(StrictModel):
    language: str
    pairs: int = 8


class Stage(StrictModel):
    steps: int = Field(default=10, ge=1)
    optimizer: Optimizer = Optimizer()
    warm: Optimizer | None = None
    groups: list[Group] = Field(default_factory=list)
    resources: Resources = Resources()


class Top(StrictModel):
    stage: Stage = Stage()
    name: str = "x"


def message(action) -> str:
    with pytest.raises(UsageError) as caught:
        action()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"stge": {}}, "stge: unknown configuration key; did you mean 'stage'?"),
        ({"stage": {"stpes": 1}}, "stage.stpes: unknown configuration key; did you mean 'steps'?"),
        (
            {"stage": {"optimizer": {"rte": 1}}},
            "stage.optimizer.rte: unknown configuration key; did you mean 'rate'?",
        ),
        ({"stage": {"warm": {"knd": 1}}}, "stage.warm.knd: unknown configuration key; did you mean 'kind'?"),
        (
            {"stage": {"groups": [{"language": "en", "pair": 1}]}},
            "stage.groups.0.pair: unknown configuration key; did you mean 'pairs'?",
        ),
        ({"stage": {"zzzz": 1}}, "known here: groups, optimizer, resources, steps, warm"),
        ({"stage": {"groups": [{}]}}, "stage.groups.0.language: required configuration key is missing"),
        ({"stage": {"steps": "10"}}, "stage.steps: input should be a valid integer, found '10'"),
        ({"stage": {"steps": 1.5}}, "stage.steps: input should be a valid integer"),
        ({"stage": {"steps": True}}, "stage.steps: input should be a valid integer, found True"),
        ({"stage": {"steps": 0}}, "stage.steps: input should be greater than or equal to 1, found 0"),
        ({"stage": {"optimizer": {"rate": float("nan")}}}, "stage.optimizer.rate: input should be a finite number"),
        ({"stage": {"optimizer": {"kind": "adm"}}}, "input should be 'adam' or 'sgd', found 'adm'"),
        ({"stage": 3}, "stage: input should be a valid dictionary or instance of Stage, found 3"),
        ({1: 2}, "1: "),
    ],
)
def test_each_mistake_is_named(values, expected):
    assert expected in message(lambda: build_config(Top, values))


def test_all_mistakes_are_told_at_once():
    text = message(lambda: build_config(Top, {"a": 1, "stage": {"steps": "x"}}))
    assert "a: unknown" in text
    assert "stage.steps: " in text


def test_files_then_overrides_then_values(tmp_path):
    (tmp_path / "a.yaml").write_text("stage: {steps: 1, optimizer: {rate: 1e-4}}\nname: a\n")
    (tmp_path / "b.yaml").write_text("stage:\n  steps: 2\n")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    files = [str(tmp_path / name) for name in ("a.yaml", "b.yaml", "empty.yaml")]
    assert load_config(Top, files).stage == Stage(steps=2, optimizer=Optimizer(rate=1e-4))
    overrides = ["stage.steps=3", "stage.optimizer.kind=sgd", "stage.groups=[{language: no}]"]
    loaded = load_config(Top, files, overrides, {"name": "v"})
    assert loaded.stage == Stage(steps=3, optimizer=Optimizer(rate=1e-4, kind="sgd"), groups=[Group(language="no")])
    assert loaded.name == "v"
    assert load_config(Top) == Top()


def test_a_configuration_may_lie_in_s3(moto_bucket):
    moto_bucket.server.client().put_object(Bucket=moto_bucket.name, Key="c.yaml", Body=b"name: far")
    assert load_config(Top, [f"{moto_bucket.uri}/c.yaml"]).name == "far"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a: 1\nb: [1, 2\nc: 3\n", "c.yaml, line 3: not valid YAML"),
        (b"a: 1\nb: 2\na: 3\n", "c.yaml, line 3: not valid YAML (key 'a' stands twice)"),
        (b"- 1\n- 2\n", "expected keys and values at the top level, found list"),
        (b"a: \xff\xfe", "not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "line 1: not valid YAML"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, text, expected):
    (tmp_path / "c.yaml").write_bytes(text)
    assert expected in message(lambda: load_config(Top, [str(tmp_path / "c.yaml")]))


def test_a_missing_file_is_named(tmp_path):
    assert "none.yaml: no such file" in message(lambda: load_config(Top, [str(tmp_path / "none.yaml")]))
    assert "is a folder" in message(lambda: load_config(Top, [str(tmp_path)]))


@pytest.mark.parametrize("override", ["steps", "=1", "", "a..b=1", ".a=1", "a.=1"])
def test_an_override_needs_a_key_and_a_value(override):
    assert "expected key=value" in message(lambda: load_config(Top, overrides=[override]))


def test_overrides_that_do_not_fit():
    assert "--set name: '[1' is not a YAML value" in message(lambda: load_config(Top, overrides=["name=[1"]))
    assert "stage.stps: unknown" in message(lambda: load_config(Top, overrides=["stage.stps=1"]))
    assert "name: input should be a valid string, found 1" in message(lambda: load_config(Top, overrides=["name=1"]))
    assert load_config(Top, overrides=["name=a=b"]).name == "a=b"
    assert load_config(Top, overrides=["stage.warm={rate: 2e-5}", "stage.warm=null"]).stage.warm is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("no", "no"), ("yes", "yes"), ("on", "on"), ("true", True), ("False", False), ("null", None)],
        *[("2e-5", 2e-5), ("-1.5E+3", -1500.0), (".5", 0.5), ("7.", 7.0), ("3", 3), ("1.2.3", "1.2.3"), ("e5", "e5")],
    ],
)
def test_scalars_read_as_people_mean_them(text, value):
    loaded = parse_yaml(text)
    assert loaded == value
    assert type(loaded) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives(value):
    assert parse_yaml(repr(value)) == value


def test_resources_do_not_enter_the_semantic_part():
    few, many = Stage(resources=Resources(workers=1)), Stage(resources=Resources(workers=64))
    assert semantic(few) == semantic(many)
    assert "resources" not in semantic(few)
    assert semantic(Stage(steps=11)) != semantic(few)


def test_fields_marked_as_resources_do_not_either():
    whole, split = (PretrainConfig(bank=BankConfig(placement=name)) for name in ("replicated", "sharded"))
    assert semantic(whole) == semantic(split)
    assert semantic(whole)["bank"] == whole.bank.model_dump(exclude={"placement"})
    assert semantic(PretrainConfig(bank=BankConfig(dtype="bf16"))) != semantic(whole)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"bank": {"size": 63}}, r"bank\.size=63 is less than the keys of one group \(pairs_per_group=64\)"),
        ({"bank": {"fill": "random"}}, r"^bank: fill=random does nothing with max_age=4.*warmup_steps=400"),
        ({"bank": {"momentum": 1.0}}, r"^bank\.momentum: "),
    ],
)
def test_banks_that_cannot_work_are_refused(values, problem):
    with pytest.raises(UsageError, match=problem):
        build_config(PretrainConfig, values)
    build_config(PretrainConfig, {"bank": {"size": 0}})
    build_config(PretrainConfig, {"bank": {"fill": "random", "max_age": None}})


def test_configurations_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Stage().steps = 3


scalars = st.integers() | st.text(max_size=3) | st.none()
trees = st.recursive(
    st.dictionaries(st.sampled_from("abc"), scalars, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), scalars | inner, max_size=3),
    max_leaves=8,
)


def leaves(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


@given(trees)
def test_merging_with_nothing_or_itself_changes_nothing(tree):
    assert merge(tree, {}) == merge({}, tree) == merge(tree, tree) == tree


@given(trees, trees)
def test_every_leaf_of_the_later_one_wins(base, over):
    before = repr((base, over))
    merged = dict(leaves(merge(base, over)))
    for path, value in leaves(over):
        if value != {}:
            assert merged[path] == value
    named = {path[:n] for path, _ in leaves(over) for n in range(1, len(path) + 1)}
    for path, value in leaves(base):
        if not any(path[:n] in named for n in range(1, len(path) + 1)):
            assert merged[path] == value  # what the later one does not name stays
    assert repr((base, over)) == before
