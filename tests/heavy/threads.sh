#!/usr/bin/env bash
# Runs the C++ tests of the kernels, of their schedule and of how ops share work with the threads of
# a pool, without a framework, with ThreadSanitizer.
#
#   tests/heavy/threads.sh
#
# Run ./dev setup first. Builds into build/threads (2 minutes on 2 cores).

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case ${1:-} in -h | --help) help ;; esac

folder=$root/build/threads
configure "$folder" -DTFGN_SANITIZE=thread -DTFGN_TENSORFLOW=OFF -DTFGN_BUILD_TESTS=ON
build "$folder" --target kernels_test stages_test threads_test
for test in stages_test threads_test kernels_test; do
  TSAN_OPTIONS=halt_on_error=1 "$folder/tests/cc/$test" --gtest_brief=1
done
