#!/usr/bin/env bash
# valgrind's memcheck over the kernels' C++ tests: reads of memory that nobody wrote.
#
#   tests/heavy/valgrind.sh [GTEST_FILTER]
#
# After ./dev setup, with Debian's valgrind. Builds into build/valgrind (2 minutes on 2 cores). It
# knows no AVX-512, so that the kernels take AVX2.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case ${1:-} in -h | --help) help ;; esac
needs valgrind valgrind

folder=$root/build/valgrind
configure "$folder" -DTFGN_TENSORFLOW=OFF -DTFGN_PYTHON=OFF -DTFGN_BUILD_TESTS=ON
build "$folder" --target kernels_test stages_test
for test in stages_test kernels_test; do
  valgrind --quiet --error-exitcode=1 --track-origins=yes \
    "$folder/tests/cc/$test" --gtest_brief=1 --gtest_filter="${1:-*}"
done
