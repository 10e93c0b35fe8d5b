#!/bin/sh
# Renews constraints.txt: exact pins of everything that .[gpu,dev] needs, with markers where a release left Python 3.10.
# Pins already in the file stay unless the ranges of pyproject.toml exclude them; add --upgrade to move all of them.
set -eu
cd "$(dirname "$0")/.."
python="${LOCK_PYTHON:-.venv/bin/python}"
"$python" -m uv --version >/dev/null 2>&1 || "$python" -m pip install -q uv
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp constraints.txt "$work/pins.txt"
"$python" -m uv pip compile -q --universal --python-version 3.10 --extra dev --extra gpu --no-header --no-annotate \
    -o "$work/pins.txt" "$@" pyproject.toml
{
    echo "# Made by scripts/lock.sh. What CUDA builds of torch and faiss need is pinned by themselves."
    # Packages of other platforms and NVIDIA's libraries are left out: nobody here installs or tests them.
    grep -v -E "^(nvidia-|cuda-|triton)|(==|;).*sys_platform == '(win32|emscripten|darwin)'$" "$work/pins.txt"
} >constraints.txt
