#include "kernels/cpu_target.h"

#include "hwy/highway.h"
#include "hwy/targets.h"

namespace tfgn {
namespace {

// What runs where nothing better does; SupportedTargets leaves it out.
constexpr int64_t kFallback = HWY_STATIC_TARGET;

int64_t Supported() {
  hwy::SetSupportedTargetsForTest(0);
  return (hwy::SupportedTargets() & HWY_TARGETS) | kFallback;
}

int64_t selected = 0;

}  // namespace

std::vector<std::string> CpuTargets() {
  std::vector<std::string> names;
  const int64_t supported = Supported();
  SelectCpuTarget(selected == 0 ? "" : hwy::TargetName(selected));
  for (int64_t rest = supported; rest != 0; rest &= rest - 1) {
    names.push_back(hwy::TargetName(rest & -rest));
  }
  return names;
}

std::string CpuTarget() { return selected != 0 ? hwy::TargetName(selected) : CpuTargets().front(); }

bool SelectCpuTarget(const std::string& name) {
  const int64_t supported = Supported();
  for (int64_t rest = supported; rest != 0; rest &= rest - 1) {
    const int64_t target = rest & -rest;
    if (name == hwy::TargetName(target)) {
      selected = target;
      hwy::GetChosenTarget().Update(target);
      return true;
    }
  }
  if (!name.empty()) return false;
  selected = 0;
  hwy::GetChosenTarget().Update(supported);
  return true;
}

std::string HighwayVersion() {
  return std::to_string(HWY_MAJOR) + "." + std::to_string(HWY_MINOR) + "." +
         std::to_string(HWY_PATCH);
}

}  // namespace tfgn
