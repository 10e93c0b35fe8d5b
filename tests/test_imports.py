"""Who may import whom: read from the source, so that an import within a function counts too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ccp_ray", "jobs", "eval")
FORBIDDEN = {"ccp_ray": {"jobs", "eval", "tests"}, "eval": {"jobs", "tests"}, "jobs": {"tests"}}
# Ray's CPU tasks import these; torch would cost each worker process 2.4 s and 300 MB.
WITHOUT_TORCH = {
    *("errors", "config", "storage", "storage_base", "storage_local", "storage_s3", "s3_client", "ledger", "artifact"),
    *("outputs", "standing", "orphans", "pieces", "progress", "session"),
    *("documents", "sentences", "corpus", "languages", "generate", "tokens"),
}
HEAVY = ("torch", "transformers", "deepspeed")


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(tree: ast.AST, inner: bool) -> Iterator[str]:
    """Dotted names that a module imports; `inner`: also those within functions. Not those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for name in node.names:
                full = f"{node.module}.{name.name}"
                yield full if full in MODULES else str(node.module)
        elif is_type_checking(node):
            yield from imports(ast.Module(body=node.orelse, type_ignores=[]), inner)  # type: ignore[attr-defined]
        elif inner or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, inner)


def imports_of(module: str, inner: bool) -> set[str]:
    return set(imports(ast.parse(MODULES[module].read_text()), inner))


def test_the_packages_are_all_there():
    assert {name.split(".")[0] for name in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("module", MODULES)
def test_layers(module):
    forbidden = FORBIDDEN[module.split(".")[0]]
    wrong = {name for name in imports_of(module, inner=True) if name.split(".")[0] in forbidden}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


def test_no_cycles():
    graph = {name: {n for n in imports_of(name, inner=False) if n in MODULES} for name in MODULES}
    state: dict[str, int] = {}

    def visit(name: str, trail: list[str]) -> None:
        assert state.get(name) != 1, f"modules import each other: {' -> '.join([*trail, name])}"
        if name not in state:
            state[name] = 1
            for other in sorted(graph[name]):
                visit(other, [*trail, name])
            state[name] = 2

    for name in graph:
        visit(name, [])


def reached(module: str) -> set[str]:
    """Everything that importing a module imports, by way of our own modules."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imports_of(name, inner=False) if name in MODULES else []
    return seen


@pytest.mark.parametrize("name", sorted(WITHOUT_TORCH))
def test_cpu_tasks_do_not_import_torch(name):
    module = f"ccp_ray.{name}"
    heavy = {found for found in reached(module) if found.split(".")[0] in HEAVY}
    assert not heavy, f"importing {module} imports {', '.join(sorted(heavy))}"


@pytest.mark.parametrize(
    "names", [[f"ccp_ray.{name}" for name in sorted(WITHOUT_TORCH)], ["jobs.cli"]], ids=["tasks", "command"]
)
def test_what_is_slow_is_really_not_loaded(names):
    """The rule above reads the source; this asks Python, which also sees what other packages import.

    The command imports every verb: with torch, transformers, pandas and SciPy its start took 4.4 s of CPU, not 1.5.
    """
    slow = {"torch", "transformers", "deepspeed", "ray", "pandas", "scipy", "sklearn", "faiss"}
    code = f"import sys, {', '.join(names)}; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_library_neither_prints_nor_pickles():
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text())
        names = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if module.startswith(("ccp_ray", "eval")) and module != "ccp_ray.progress":
            assert "print" not in names, module
        assert not {"pickle", "cloudpickle", "joblib"} & imports_of(module, inner=True), module
