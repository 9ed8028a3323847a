#!/usr/bin/env bash
# Runs the C++ tests of the kernels with valgrind's memcheck, which finds uninitialized reads.
#
#   tests/heavy/valgrind.sh [GTEST_FILTER]
#
# Run ./dev setup first. Needs Debian's valgrind. Builds into build/valgrind (2 minutes on 2 cores).
# valgrind does not support AVX-512, so the kernels use AVX2.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case ${1:-} in -h | --help) help ;; esac
needs valgrind valgrind

folder=$root/build/valgrind
configure "$folder" -DTFGN_TENSORFLOW=OFF -DTFGN_BUILD_TESTS=ON
build "$folder" --target kernels_test stages_test
for test in stages_test kernels_test; do
  valgrind --quiet --error-exitcode=1 --track-origins=yes \
    "$folder/tests/cc/$test" --gtest_brief=1 --gtest_filter="${1:-*}"
done
