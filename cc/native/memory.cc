// The memory bound: what a copy of as many bytes takes.
#include <cstring>

#include "native/bindings.h"
#include "native/numpy_util.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tfgn {
namespace {

// A copy that leaves the target out of the caches, where the machine can.
void CopyStreaming(const char* from, char* to, size_t bytes) {
#if defined(__SSE2__)
  const size_t head = std::min(bytes, -reinterpret_cast<uintptr_t>(to) % sizeof(__m128i));
  std::memcpy(to, from, head);
  size_t i = head;
  for (; i + 64 <= bytes; i += 64) {
    for (size_t j = i; j < i + 64; j += sizeof(__m128i)) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + j),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + j)));
    }
  }
  std::memcpy(to + i, from + i, bytes - i);
  _mm_sfence();
#else
  std::memcpy(to, from, bytes);
#endif
}

void Copy(const py::array& source, py::array target, const Threads& threads, bool streaming) {
  CheckArray("source", source, TypeName(source));
  CheckArray("target", target, TypeName(target));
  const int64_t bytes = source.nbytes();
  if (target.nbytes() != bytes) {
    Check("target must have the " + std::to_string(bytes) + " bytes of source, but has " +
          std::to_string(target.nbytes()));
  }
  const char* from = static_cast<const char*>(source.data());
  char* to = Out<char>(target);
  py::gil_scoped_release release;
  const ThreadsFor pool(threads);
  const ParallelFor parallel = pool;
  // One part per thread: each reads and writes its memory in order, without a break.
  const int64_t parts = parallel.threads();
  parallel(parts, 2 * bytes, [&](int64_t i) {
    const int64_t begin = bytes * i / parts, end = bytes * (i + 1) / parts;
    (streaming ? CopyStreaming : [](const char* f, char* t, size_t n) { std::memcpy(t, f, n); })(
        from + begin, to + begin, end - begin);
  });
}

}  // namespace

void BindMemory(py::module_& m) {
  m.def("copy", Copy,
        "Copies the bytes of `source` to `target`, by non-temporal stores if `streaming`: the "
        "memory bound of a kernel that reads and writes as many.",
        py::arg("source"), py::arg("target"), py::kw_only(), py::arg("threads") = 1,
        py::arg("streaming") = false);
}

}  // namespace tfgn
