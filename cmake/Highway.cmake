# Highway as the target tfgn_highway: an installed one, else the pinned release, built here as a static library.
# TFGN_HIGHWAY_VERSION is its version, e.g. 1.0.3.
# FETCHCONTENT_SOURCE_DIR_HIGHWAY=<dir> takes sources that are already there instead; a source archive of this package
# brings some.
include(FetchContent)
if(EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/third_party/highway/CMakeLists.txt")
  set(FETCHCONTENT_SOURCE_DIR_HIGHWAY "${CMAKE_CURRENT_SOURCE_DIR}/third_party/highway" CACHE PATH "Highway's sources")
endif()

# Each target costs compile time and size. Kept are, on x86, the baseline, SSE4, AVX2 and AVX-512 (HWY_AVX3); on Arm, NEON.
# Lower bits are better targets, so `X - 1` is every target above X, whatever their names in this release. The value is
# part of Highway's inline functions: every translation unit gets the same one.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(disabled "HWY_DISABLED_TARGETS=((HWY_AVX3-1)|HWY_SSSE3)")
  if(TFGN_SANITIZE)
    # Sanitized, a target takes up to a minute to compile: the narrowest vectors and the widest of this machine alone.
    set(left_out HWY_AVX3)
    if(EXISTS /proc/cpuinfo)
      file(STRINGS /proc/cpuinfo avx512 REGEX "^flags.* avx512bw " LIMIT_COUNT 1)
      if(avx512)
        set(left_out HWY_AVX2)
      endif()
    endif()
    set(disabled "HWY_DISABLED_TARGETS=((HWY_AVX3-1)|HWY_SSSE3|HWY_SSE4|${left_out})")
  endif()
else()
  set(disabled "HWY_DISABLED_TARGETS=(HWY_NEON-1)")
endif()

set(HWY_FORCE_STATIC_LIBS ON CACHE INTERNAL "")
foreach(part CONTRIB EXAMPLES INSTALL TESTS)
  set(HWY_ENABLE_${part} OFF CACHE INTERNAL "")
endforeach()
FetchContent_Declare(highway
  URL https://github.com/google/highway/archive/refs/tags/1.2.0.tar.gz
  URL_HASH SHA256=7e0be78b8318e8bdbf6fa545d2ecb4c90f947df03f7aadc42c1967f019e63343
  DOWNLOAD_EXTRACT_TIMESTAMP OFF
  SYSTEM
  FIND_PACKAGE_ARGS 1.0.3 NAMES hwy)
FetchContent_MakeAvailable(highway)

add_library(tfgn_highway INTERFACE)
target_compile_definitions(tfgn_highway INTERFACE "${disabled}")
if(TARGET hwy)
  set_property(DIRECTORY "${highway_SOURCE_DIR}" PROPERTY EXCLUDE_FROM_ALL ON)
  target_compile_definitions(hwy PRIVATE "${disabled}")
  target_link_libraries(tfgn_highway INTERFACE hwy)
  set(include "${highway_SOURCE_DIR}")
else()
  target_link_libraries(tfgn_highway INTERFACE hwy::hwy)
  get_target_property(include hwy::hwy INTERFACE_INCLUDE_DIRECTORIES)
endif()

# Releases differ in which of the two headers has the version.
set(TFGN_HIGHWAY_VERSION "")
foreach(part MAJOR MINOR PATCH)
  foreach(header base highway)
    set(file "${include}/hwy/${header}.h")
    file(STRINGS "${file}" line REGEX "^#define HWY_${part} [0-9]+$" LIMIT_COUNT 1)
    if(line)
      string(REGEX MATCH "[0-9]+$" number "${line}")
      list(APPEND TFGN_HIGHWAY_VERSION ${number})
    endif()
  endforeach()
endforeach()
list(JOIN TFGN_HIGHWAY_VERSION "." TFGN_HIGHWAY_VERSION)
if(NOT TFGN_HIGHWAY_VERSION MATCHES "^[0-9]+\\.[0-9]+\\.[0-9]+$")
  message(FATAL_ERROR "The headers in ${include}/hwy do not state the version of Highway")
endif()
