# Shared by the scripts of this folder: paths, errors and builds.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}

die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# needs COMMAND PACKAGE
needs() { command -v "$1" >/dev/null || die "$1 is missing: apt-get install $2"; }

# configure FOLDER OPTION...
configure() {
  local folder=$1
  shift
  [ -x "$python" ] || die "there is no $python: run ./dev setup, or set PYTHON"
  PATH=$(dirname "$python"):$PATH cmake -S "$root" -B "$folder" -G Ninja -DTFGN_CUDA=OFF \
    -DPython_EXECUTABLE="$python" "$@"
}

build() { PATH=$(dirname "$python"):$PATH cmake --build "$@"; }

help() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
}
