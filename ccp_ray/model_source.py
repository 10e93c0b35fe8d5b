"""Where a model folder comes from, and what it is.

A source is a local folder (or `file://`), `s3://bucket/folder` (an artifact or any Hugging Face folder), a name on the
Hugging Face hub, or `package://module/folder` for weights that ship inside an installed Python package. All
become a local folder with `config.json`, safetensors weights and a tokenizer. Pickled weights are refused:
reading one runs whatever code its author put there. So is every other way for a folder to bring code, but for what
`model_code` was told to trust.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccp_ray.artifact import Artifact, InputRef, find_artifact
from ccp_ray.errors import StoreError, UsageError
from ccp_ray.model_code import code_digest, trusted
from ccp_ray.storage import absolute_uri, open_store

_SKIPPED = ("artifact.json", "_", ".")


def cache_folder() -> Path:
    """Where copies of remote objects live on this node: CCP_RAY_CACHE, or one below the temporary folder."""
    default = Path(tempfile.gettempdir()) / f"ccp-ray-cache-{os.getuid()}"
    folder = Path(os.environ.get("CCP_RAY_CACHE", default))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UsageError(f"{folder}: the cache folder belongs to another user; set CCP_RAY_CACHE to one of yours")
    return folder


def local_model(source: str) -> Path:
    """A local folder with the model. Raises UsageError that says what is missing and what a source can be."""
    folder = _folder_here(source)
    if folder is None:
        folder = _fetch(source) if source.startswith("s3://") else _hub_snapshot(source)
    _check(source, folder)
    return folder


def model_settings(source: str) -> dict[str, Any]:
    """The model's config.json, without fetching weights. Raises UsageError as `local_model` does."""
    folder = _folder_here(source)
    if folder is not None:
        _check(source, folder)
        text = (folder / "config.json").read_bytes()
    elif source.startswith("s3://"):
        store = open_store(source)
        if store.size("config.json") is None:
            raise UsageError(f"{source}: not a Hugging Face model folder (config.json is missing)")
        text = store.read("config.json")
    else:
        text = _hub_file(source, "config.json").read_bytes()
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise UsageError(f"{source}: config.json is damaged ({error})") from error


def hidden_size(source: str) -> int:
    """Dimensions of the model's vectors, from config.json alone. Raises UsageError as `local_model` does."""
    from transformers import AutoConfig  # families name it in their own ways

    settings = model_settings(source)
    try:
        return int(AutoConfig.for_model(**settings).hidden_size)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if "auto_map" in settings and isinstance(settings.get("hidden_size"), int):
            return int(settings["hidden_size"])  # a family of its own, whose code is not needed for this
        raise UsageError(f"{source}: config.json names no encoder that transformers knows ({error})") from error


def _folder_here(source: str) -> Path | None:
    """The folder of a source that is on this machine; None for one that must be fetched. Raises UsageError."""
    if source.startswith("file://"):
        source = absolute_uri(source)
    if source.startswith("package://"):
        return _package_folder(source)
    if source.startswith("s3://"):
        return None
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser().absolute()
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UsageError(f"{source}: no such model folder")
    return None


def model_reference(role: str, source: str) -> InputRef:
    """The model as an input: an artifact's fingerprint, or the digest of every file of the folder."""
    portable = portable_source(source)
    artifact = find_artifact(source) if not source.startswith("package://") and _is_store(source) else None
    if artifact is not None and artifact.kind != "encoder":
        raise UsageError(f"{source}: holds a {artifact.kind} artifact, expected an encoder")
    folder = local_model(source)
    if artifact is not None:
        _check_sums(source, folder, artifact)
        return InputRef(role=role, uri=portable, fingerprint=artifact.fingerprint)
    digest = hashlib.sha256()
    for path in _model_files(folder):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + _file_digest(path))
    if trusted(folder):  # what does not run makes no other vectors
        digest.update(code_digest(folder).encode())
    return InputRef(role=role, uri=portable, fingerprint=digest.hexdigest())


def _check_sums(source: str, folder: Path, artifact: Artifact) -> None:
    """Altered weights would embed without a word, and no fingerprint would tell."""
    for record in artifact.files:
        path = folder / record.path
        if path.is_file() and path in _model_files(folder) and _file_digest(path).hex() != record.sha256:
            raise StoreError(
                f"{source}/{record.path}: checksum does not match the encoder's artifact.json; "
                f"copy the encoder again (if {folder} is a cached copy, remove it)"
            )


def _is_store(source: str) -> bool:
    return source.startswith(("s3://", "file://")) or Path(source).expanduser().is_dir()


def portable_source(source: str) -> str:
    """The source as any process would write it: a local folder by its absolute path, others as they are."""
    return absolute_uri(source) if "://" not in source and Path(source).expanduser().is_dir() else source


def _package_folder(source: str) -> Path:
    module, _, inner = source.removeprefix("package://").partition("/")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a parent package that is missing, a name that is none
        spec = None
    if spec is None or spec.origin is None:
        raise UsageError(
            f"{source}: the Python package {module!r} is not installed (the extra [dev] has the small ones)"
        )
    return Path(spec.origin).parent / inner


def _fetch(source: str) -> Path:
    store = open_store(source)
    infos = [info for info in store.list() if not info.key.startswith(_SKIPPED) or info.key.endswith(".py")]
    if not infos:
        raise UsageError(f"{source}: no such model folder")
    state = hashlib.sha256(repr((source, infos)).encode())
    artifact = find_artifact(source)
    if artifact is not None:
        state.update(artifact.fingerprint.encode())
        infos = [info for info in infos if info.key in {record.path for record in artifact.files}]
    folder = cache_folder() / "models" / state.hexdigest()[:24]
    for info in infos:
        if not (folder / info.key).exists() or artifact is None:
            store.download(info.key, folder / info.key)
    return folder


def _hub_snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download

    with _hub_errors(name):
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.py"]))


def _hub_file(name: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _hub_errors(name):
        return Path(hf_hub_download(name, file))


@contextlib.contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(
            f"{name}: no such folder, and no model of this name came from the Hugging Face hub ({type(error).__name__})"
        ) from error


def _check(source: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UsageError(f"{source}: not a Hugging Face model folder (config.json is missing)")
    _refuse_kernels(folder / "config.json")
    if not list(folder.glob("*.safetensors")):
        raise UsageError(
            f"{source}: no *.safetensors weights (pickle is refused); convert it with transformers' save_pretrained"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")):
        raise UsageError(f"{source}: the tokenizer is missing (tokenizer.json)")


def _refuse_kernels(path: Path) -> None:
    """transformers fetches an attention that is named like a hub's repository, and runs its code: no trust is asked.

    It would also read settings in a file that `configuration_files` names in this one's place; nobody looks at those.
    """
    try:
        settings = json.loads(path.read_bytes())
    except ValueError:
        return  # who reads it next says so
    if isinstance(settings, dict) and "configuration_files" in settings:
        raise UsageError(f"{path}: configuration_files names other settings, which are not read; remove the key")
    for key, value in _nested(settings):
        if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
            raise UsageError(f"{path}: {key} is {value}, code from elsewhere, which is never run; remove the key")


def _nested(values: Any) -> Iterator[tuple[str, Any]]:
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in pairs:
        yield str(key), value
        yield from _nested(value)


def _model_files(folder: Path) -> list[Path]:
    kinds = {".json", ".safetensors", ".txt", ".model"}
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix in kinds)
    return sorted(path for path in paths if not path.relative_to(folder).as_posix().startswith(_SKIPPED))


def _file_digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(8 << 20):
            digest.update(chunk)
    return digest.digest()
