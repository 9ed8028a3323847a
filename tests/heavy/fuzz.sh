#!/usr/bin/env bash
# Runs libFuzzer on the functions that validate calls (tests/cc/validation_fuzzer.cc).
#
#   tests/heavy/fuzz.sh [SECONDS]           10 minutes by default
#
# Needs Debian's clang and libclang-rt-14-dev. Builds into build/fuzz, which also keeps the corpus.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case ${1:-} in -h | --help) help ;; esac
needs clang++ "clang libclang-rt-14-dev"

mkdir -p "$root/build/fuzz/corpus"
cd "$root/build/fuzz"
clang++ -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I"$root/cc" \
  "$root"/tests/cc/validation_fuzzer.cc "$root"/cc/kernels/{dims,group_norm,standardize_weights}.cc \
  -o validation_fuzzer
exec ./validation_fuzzer -max_len=512 -max_total_time="${1:-600}" -print_final_stats=1 corpus
