#!/bin/sh
# Makes .venv with everything that this checkout needs, from the package index alone; does nothing when that is done.
#
#   PYTHON=python3.12 sh scripts/setup.sh     use this interpreter (default: the first of 3.10 to 3.13 that works)
#
# About 2 minutes and 2.5 GiB for the CPU build. What was installed is stamped with a checksum of the files that
# decide it, so a second run takes milliseconds and a changed pin installs again.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
stamp=$venv/ccp-ray.stamp
log=$venv/install.log
min_gib=6

say() { echo "setup: $*" >&2; }
die() {
    say "$@"
    exit 1
}

# The folder is part of the key: a virtual environment does not survive being moved.
key="$(cat pyproject.toml constraints.txt scripts/setup.sh scripts/punkt.py | cksum) $(pwd) ${PYTHON:-}"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ] && "$venv/bin/python" -c "" 2>/dev/null; then
    exit 0
fi

in_range() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }
has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# A name on the PATH proves nothing: version managers leave shims that only print an error. So each one is run.
find_python() {
    without_venv=
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        in_range "$name" || continue
        if has_venv "$name"; then
            echo "$name"
            return
        fi
        without_venv=$name
    done
    if [ -n "$without_venv" ]; then
        die "$without_venv lacks the venv module; install it (Debian and Ubuntu: the package python3-venv), then run again"
    elif [ -n "${PYTHON:-}" ]; then
        die "PYTHON=$PYTHON is not a working Python 3.10 to 3.13"
    fi
    die "no working Python 3.10 to 3.13 found on the PATH; install one, or name it: make setup PYTHON=/path/to/python3"
}

check_disk() {
    free_kib=$(df -Pk . | awk 'NR == 2 {print $4}')
    [ "$free_kib" -ge $((min_gib * 1024 * 1024)) ] ||
        die "only $((free_kib / 1024)) MiB free on the disk of $(pwd); the installation needs $min_gib GiB"
}

# Runs pip quietly; what went wrong is said in words, and pip's own are kept in the log.
install() {
    PIP_RETRIES=${PIP_RETRIES:-2} "$venv/bin/python" -m pip install --disable-pip-version-check --no-input -q \
        -c constraints.txt "$@" >>"$log" 2>&1 && return
    if grep -q -E "No space left on device" "$log"; then
        die "the disk is full; free $min_gib GiB and run again"
    elif grep -q -E "NewConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError|Temporary failure|ProxyError|SSLError|Connection (refused|reset)" "$log"; then
        die "the package index cannot be reached; check the network and pip's settings (pip config list), then run again"
    fi
    grep -E "^ERROR|^error" "$log" | tail -n 5 >&2 || true
    die "pip could not install $*; its full output is in $log"
}

make_venv() {
    python=$(find_python)
    wanted=$("$python" -c 'import sys; print(sys.version.split()[0])')
    if [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 &&
        { [ -z "${PYTHON:-}" ] || [ "$("$venv/bin/python" -c 'import sys; print(sys.version.split()[0])')" = "$wanted" ]; }; then
        return
    fi
    check_disk
    say "making $venv with Python $wanted"
    "$python" -m venv --clear "$venv" || die "$python cannot make a virtual environment; is its venv module complete?"
}

has_gpu() { nvidia-smi -L >/dev/null 2>&1; }

# torch comes first and alone: pinned, it is the build that the index offers for this machine, and nothing that
# follows replaces it.
install_torch() {
    if has_gpu; then
        say "an NVIDIA GPU is seen: installing torch with CUDA (several GB)"
        install "torch==2.13.0,!=2.13.0+cpu"
    else
        say "no NVIDIA GPU is seen: installing torch for the CPU"
        install "torch==2.13.0"
    fi
}

say_what_is_missing() {
    cuda=$("$venv/bin/python" -c 'import importlib.util, pathlib
spec = importlib.util.find_spec("torch")
text = pathlib.Path(spec.origin).with_name("version.py").read_text()
values = {}
exec(text, values)
print(values.get("cuda") or "")')
    if [ -n "$cuda" ] && ! has_gpu; then
        say "no NVIDIA GPU is seen, but the index gave a torch with CUDA $cuda: it works on the CPU and only takes disk."
        say "To avoid it, point pip at an index or folder with CPU builds (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL or"
        say "PIP_FIND_LINKS), then: make clean-venv setup"
    fi
    if ! command -v "${CXX:-c++}" >/dev/null 2>&1 && ! command -v g++ >/dev/null 2>&1; then
        say "no C++ compiler: DeepSpeed's optional communication extension is not built; everything works without it"
    fi
}

# XOR-Retrieve counts NLTK's tokens; punkt.py says where their sentence model comes from.
install_punkt() {
    "$venv/bin/python" scripts/punkt.py >>"$log" 2>&1 ||
        say "NLTK's sentence model could not be fetched: XOR-Retrieve needs it (python -m nltk.downloader punkt_tab)"
}

make_venv
: >"$log"
install_torch
say "installing the other packages (a minute or two; details in $log)"
install -e ".[dev]"
install_punkt
say_what_is_missing
echo "$key" >"$stamp"
say "ready"
