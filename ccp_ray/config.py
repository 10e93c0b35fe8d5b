"""Strict, typed configuration: YAML files, then `--set a.b=value`, checked field by field.

Each stage keeps its frozen `StrictModel` beside the code that reads it. An unknown key is an error that names
the dotted path and the nearest name; a wrong type names what was expected. Fields under `resources` say how
a stage runs (workers, threads) and never enter a fingerprint: changing them continues the same work. A field elsewhere
that is of that kind is marked with `AS_RESOURCE`.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ccp_ray.errors import UsageError
from ccp_ray.storage import read_uri


class StrictModel(BaseModel):
    """Base of every configuration and record: frozen, no unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=StrictModel)

AS_RESOURCE: dict[str, Any] = {"as_resource": True}  # for Field(json_schema_extra=...)


def load_config(
    model: type[Model],
    files: Sequence[str] = (),
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Model:
    """Merge YAML files (paths or URIs), then `a.b=value` overrides, then `values`; later ones win.

    Raises UsageError naming the file or the dotted key, and the nearest valid name.
    """
    merged: dict[str, Any] = {}
    for uri in files:
        merged = merge(merged, read_yaml(uri))
    for override in overrides:
        merged = merge(merged, _parse_override(override))
    return build_config(model, merge(merged, dict(values or {})))


def build_config(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Validate `values`. Raises UsageError with one line a problem."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, dict(problem)) for problem in error.errors()]
        raise UsageError("; ".join(dict.fromkeys(lines))) from None


def semantic(config: StrictModel) -> dict[str, Any]:
    """The part of a configuration that decides the result, as plain JSON: all but `resources` and what is like them."""
    dumped = _without_marked(config)
    dumped.pop("resources", None)
    return dumped


def _without_marked(config: StrictModel) -> dict[str, Any]:
    dumped = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if field.json_schema_extra == AS_RESOURCE:
            del dumped[name]
        elif isinstance(value, StrictModel):
            dumped[name] = _without_marked(value)
    return dumped


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings joined; where both have a value, that of `over`."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


def read_yaml(uri: str) -> dict[str, Any]:
    """The keys and values of a YAML file; empty for an empty one. Raises UsageError naming file and line."""
    try:
        loaded = parse_yaml(read_uri(uri))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise UsageError(f"{uri}{line}: not valid YAML ({problem})") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UsageError(f"{uri}: expected keys and values at the top level, found {type(loaded).__name__}")
    return loaded


def _parse_override(override: str) -> dict[str, Any]:
    path, separator, text = override.partition("=")
    if not separator or not all(path.split(".")):
        raise UsageError(f"--set {override!r}: expected key=value, for example --set pretrain.steps=100")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        raise UsageError(f"--set {path}: {text!r} is not a YAML value") from None
    for key in reversed(path.split(".")):
        value = {key: value}
    return typing.cast("dict[str, Any]", value)


def parse_yaml(text: str | bytes) -> Any:
    """Plain YAML, with YAML 1.2's reading of three things that 1.1 gets wrong for us. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader


class _Loader(yaml.SafeLoader):
    """`no` is Norwegian and not false, `2e-5` is a number and not a string, a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen and name != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"key {name!r} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+\.\d*|\d+(?=[eE]))([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _explain(model: type[BaseModel], problem: dict[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    if problem["type"] == "extra_forbidden":
        names = _fields_at(model, location[:-1])
        near = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(names))}"
        return f"{path}: unknown configuration key; {hint}"
    if problem["type"] == "missing":
        return f"{path}: required configuration key is missing"
    if problem["type"] == "value_error":  # a rule of ours about several keys: it says what was found itself
        return f"{path}: {problem['ctx']['error']}".removeprefix(": ")
    found = problem.get("input")
    return f"{path}: {problem['msg'][0].lower()}{problem['msg'][1:]}, found {found!r}"


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    current: type[BaseModel] | None = model
    for name in path:
        field = current.model_fields.get(name) if current else None
        if field is not None:  # an index or a mapping's key stands between fields, and leads to the same model
            current = _model_in(field.annotation)
    return list(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated, list, tuple, dict):
        return next(filter(None, map(_model_in, typing.get_args(annotation))), None)
    return None
