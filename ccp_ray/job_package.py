"""What travels to a cluster with a job: a checkout without what .gitignore and .rayignore name, or the packages alone.

Ray would pack a folder by itself. We do it, because it then is known before the upload what goes and how large it is;
ignore files are read as git reads them (a deeper file may take back what a higher one says; Ray's reading cannot);
files from outside can go along; and files that tend to hold credentials never go, which is said. The archive has fixed
times and order, so the same files make the same bytes: Ray names packages by content and uploads this one once a
cluster.

Folders behind symbolic links do not go along: they are where people keep data.
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from pathspec import GitIgnoreSpec

import ccp_ray
from ccp_ray.errors import UsageError
from ccp_ray.sizes import megabytes

MOST_BYTES = 100 << 20  # Ray's dashboard takes no larger request
_PACKAGES = ("ccp_ray", "jobs", "eval")
_NEVER = frozenset((".git", ".venv", "venv", "__pycache__"))
# Of files and folders; the last are of cluster/slurm/ccp-ray.sbatch.
_SECRETIVE = (
    *(".env", ".env.*", "*.env", ".netrc", ".pgpass", ".git-credentials", "credentials", "auth_token"),
    *("*.pem", "*.key", "*.p12", "id_rsa*", "id_ecdsa*", "id_ed25519*"),
    *(".aws", ".ssh", ".kube", ".ray", ".ccp-ray-*"),
)
_NAMED = 6  # files and folders in the refusal of what is too large
_TIME = (1980, 1, 1, 0, 0, 0)

Rules = Sequence[tuple[Path, GitIgnoreSpec]]


@dataclass(frozen=True)
class Package:
    """Files by their name in the archive. `checkout`: whether they are one, and not the installed packages alone.

    secretive: names of what stays because it may hold credentials.
    """

    root: Path
    checkout: bool
    files: Mapping[str, Path]
    sizes: Mapping[str, int]
    extra: Mapping[str, bytes] = field(default_factory=dict)
    secretive: Sequence[str] = ()

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values()) + sum(map(len, self.extra.values()))

    def __str__(self) -> str:
        what = f"the checkout {self.root}" if self.checkout else f"the installed packages {', '.join(_PACKAGES)}"
        return f"{what}: {len(self.files) + len(self.extra):,} files, {megabytes(self.bytes)}"

    def check(self) -> None:
        """Raises UsageError that names what is largest where a cluster would not take it."""
        if self.bytes > MOST_BYTES:
            named = ", ".join(f"{name} ({megabytes(size)})" for name, size in self._largest())
            raise UsageError(
                f"{self}; a cluster takes {megabytes(MOST_BYTES)}. Largest: {named}. Name in .gitignore or .rayignore "
                "what the job does not need; data belongs into the store"
            )

    def write(self, archive: Path) -> None:
        """A zip file of these files, the same bytes for the same files."""
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
            for name in sorted([*self.files, *self.extra]):
                data = self.extra[name] if name in self.extra else self.files[name].read_bytes()
                executable = name in self.files and os.access(self.files[name], os.X_OK)
                info = zipfile.ZipInfo(name, _TIME)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = (0o755 if executable else 0o644) << 16
                target.writestr(info, data)

    def _largest(self) -> list[tuple[str, int]]:
        """Folders of the top and single files, without a folder that is one of these files and little else."""
        found = Counter(dict(self.sizes))
        for name, size in self.sizes.items():
            if "/" in name:
                found[f"{name.partition('/')[0]}/"] += size
        return found.most_common(_NAMED)


def package(root: Path | None = None, extra: Mapping[str, bytes] | None = None) -> Package:
    """Of the code that is running, or of the checkout at `root`. extra: further files by name."""
    top = root or Path(ccp_ray.__file__).resolve().parent.parent
    checkout = (top / "pyproject.toml").is_file()
    found = dict(_walk(top, top, []) if checkout else _packages(top))
    files = {name: path for name, path in found.items() if not _secretive(path)}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    return Package(top, checkout, files, sizes, dict(extra or {}), sorted(found.keys() - files.keys()))


def _packages(top: Path) -> Iterator[tuple[str, Path]]:
    for name in _PACKAGES:
        yield from _walk(top / name, top, [])


def _walk(folder: Path, top: Path, rules: Rules) -> Iterator[tuple[str, Path]]:
    """Files by name, and folders that may hold credentials, unopened."""
    rules = [*rules, *_own_rules(folder)]
    for path in sorted(folder.iterdir()):
        is_folder = path.is_dir()
        if path.name in _NEVER or (is_folder and path.is_symlink()) or _ignored(path, is_folder, rules):
            continue
        if is_folder and not _secretive(path):
            yield from _walk(path, top, rules)
        elif is_folder or path.is_file():
            yield path.relative_to(top).as_posix(), path


def _secretive(path: Path) -> bool:
    return any(fnmatchcase(path.name, pattern) for pattern in _SECRETIVE)


def _own_rules(folder: Path) -> Iterator[tuple[Path, GitIgnoreSpec]]:
    names = [".rayignore"]
    if os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE") != "1":  # Ray's own switch
        names.insert(0, ".gitignore")
    for name in names:
        if (folder / name).is_file():
            yield folder, GitIgnoreSpec.from_lines((folder / name).read_text(errors="replace").splitlines())


def _ignored(path: Path, is_folder: bool, rules: Iterable[tuple[Path, GitIgnoreSpec]]) -> bool:
    """As git has it: of the patterns that match, the last of the deepest file decides."""
    said: bool | None = None
    for folder, spec in rules:
        name = path.relative_to(folder).as_posix() + ("/" if is_folder else "")
        verdict = spec.check_file(name).include
        said = said if verdict is None else verdict
    return bool(said)
