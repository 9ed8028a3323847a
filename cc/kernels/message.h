#ifndef TFGN_KERNELS_MESSAGE_H_
#define TFGN_KERNELS_MESSAGE_H_

#include <sstream>
#include <string>

namespace tfgn {

template <typename... Args>
std::string Concat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

}  // namespace tfgn

#endif  // TFGN_KERNELS_MESSAGE_H_
