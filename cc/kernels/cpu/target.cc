#include "kernels/cpu/target.h"

#include "hwy/highway.h"
#include "hwy/targets.h"

namespace tfgn {
namespace {

// HWY_STATIC_TARGET runs on every machine; SupportedTargets leaves it out.
int64_t Supported() { return (hwy::SupportedTargets() & HWY_TARGETS) | HWY_STATIC_TARGET; }

// f(target) for each bit of `targets`, best target first.
template <typename F>
void ForEachTarget(int64_t targets, F&& f) {
  for (; targets != 0; targets &= targets - 1) f(targets & -targets);
}

std::string selected;

}  // namespace

std::vector<std::string> CpuTargets() {
  std::vector<std::string> names;
  ForEachTarget(Supported(), [&](int64_t target) { names.push_back(hwy::TargetName(target)); });
  return names;
}

std::string CpuTarget() { return selected.empty() ? CpuTargets().front() : selected; }

bool SelectCpuTarget(const std::string& name) {
  int64_t chosen = name.empty() ? Supported() : 0;
  ForEachTarget(Supported(), [&](int64_t target) {
    if (name == hwy::TargetName(target)) chosen = target;
  });
  if (chosen == 0) return false;
  hwy::GetChosenTarget().Update(chosen);
  selected = name;
  return true;
}

std::string HighwayVersion() {
  return std::to_string(HWY_MAJOR) + "." + std::to_string(HWY_MINOR) + "." +
         std::to_string(HWY_PATCH);
}

}  // namespace tfgn
