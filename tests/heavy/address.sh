#!/usr/bin/env bash
# Runs the op library in Python with AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   tests/heavy/address.sh                  the op tests and some malformed calls, half an hour
#   tests/heavy/address.sh SCRIPT.py ...    another script with its arguments
#
# Run ./dev setup first. Builds into build/address (10 minutes on 2 cores). Leak detection is off,
# because Python and TensorFlow leave memory allocated on purpose.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case ${1:-} in -h | --help) help ;; esac

folder=$root/build/address
configure "$folder" '-DTFGN_SANITIZE=address;undefined' -DTFGN_XLA=ON -DTFGN_NATIVE=ON \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)"
build "$folder"

# A copy of the package with the sanitized libraries.
package=$folder/package
rm -rf "$package"
mkdir -p "$package"
cp -r "$root/python/tensorflow_groupnorm" "$package"
find "$package" -name '*.so' -delete
pure=$("$python" - <<'PY'
from tensorflow_groupnorm import plugin_path
from pathlib import Path
print(Path(plugin_path()).parent)
PY
)
mkdir -p "$package/tensorflow_groupnorm/$(basename "$pure")"
cp "$pure/build.json" "$folder/$(basename "$pure")"/*.so "$package/tensorflow_groupnorm/$(basename "$pure")"
cp "$folder"/_native*.so "$package/tensorflow_groupnorm"
# An editable install takes precedence over PYTHONPATH.
cat >"$package/sitecustomize.py" <<'PY'
import sys
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
PY

# The sanitizer must be loaded first, together with the C++ library, whose exceptions it wraps.
sanitized() {
  LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so.6)" \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TFGN_REQUIRE_FUSED=1 \
    PYTHONPATH=$package "$python" "$@"
}

cd "$root"
loaded=$(sanitized -c 'import tensorflow_groupnorm as t; print(t.plugin_path())' 2>/dev/null)
case $loaded in "$package"/*) ;; *) die "Python loads $loaded in place of the one in $package" ;; esac
if [ $# -gt 0 ]; then
  sanitized "$@"
  exit
fi
suites=(advisories determinism gradients group_norm_op invalid_calls shape_inference
  standardize_weights_op xla_ops)
suites=("${suites[@]/#/tests/ops/test_}")
sanitized -m pytest -p no:cacheprovider -q tests/kernels/test_kernels.py "${suites[@]/%/.py}"
for seeds in "eager 10000" "inference 10000" "graph 500" "jit 300"; do
  sanitized tests/support/malformed_calls.py --mode "${seeds% *}" --calls "${seeds#* }"
done
