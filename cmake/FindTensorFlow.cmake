# Finds the TensorFlow (distribution `tensorflow` or `tensorflow-cpu`) of a Python interpreter. May be called once for each
# of several interpreters whose TensorFlows are of different minors.
#
# Input variable
#   TensorFlow_PYTHON        the command that runs the interpreter; or, to compile for another platform, a folder into which
#                            pip has installed that platform's wheel of TensorFlow (CONTRIBUTING.md)
# Result variables
#   TensorFlow_FOUND, TensorFlow_VERSION (2.21.0), TensorFlow_MINOR (2.21)
# Imported targets, where 2.21 is TensorFlow_MINOR
#   TensorFlow2.21::Framework   the headers (as system headers), the flags its ABI needs, libtensorflow_framework.so.2
#   TensorFlow2.21::Cc          the same and libtensorflow_cc.so.2: sessions, SavedModels
#   TensorFlow2.21::Xla         the same and the headers that XLA kernels need. Not in every TensorFlow.

list(GET TensorFlow_PYTHON 0 _tensorflow_python)
# The package is located without importing it; the import, which takes seconds, follows only where the framework
# library is another one than at the last configure.
if(IS_DIRECTORY "${_tensorflow_python}")
  set(_tensorflow_dir "${_tensorflow_python}/tensorflow")
else()
  execute_process(
    COMMAND ${TensorFlow_PYTHON} -c
      "import importlib.util as u; s = u.find_spec('tensorflow'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE _tensorflow_dir OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endif()
set(_tensorflow_framework "${_tensorflow_dir}/libtensorflow_framework.so.2")

unset(TensorFlow_VERSION)
unset(TensorFlow_MINOR)
if(EXISTS "${_tensorflow_framework}" AND IS_DIRECTORY "${_tensorflow_python}")
  # A TensorFlow that does not run here tells its version by its metadata. The definitions are those of every wheel.
  file(GLOB _tensorflow_metadata "${_tensorflow_python}/tensorflow-*.dist-info" "${_tensorflow_python}/tensorflow_cpu-*.dist-info")
  string(REGEX MATCH "-([0-9]+\\.[0-9]+)\\.[^-]*\\.dist-info" TensorFlow_VERSION "${_tensorflow_metadata}")
  set(TensorFlow_MINOR "${CMAKE_MATCH_1}")
  string(REGEX REPLACE "-(.*)\\.dist-info" "\\1" TensorFlow_VERSION "${TensorFlow_VERSION}")
  string(MD5 _tensorflow_cache "${_tensorflow_dir}")
  string(PREPEND _tensorflow_cache TFGN_TENSORFLOW_)
  set(${_tensorflow_cache}_DEFINITIONS "_GLIBCXX_USE_CXX11_ABI=1;EIGEN_MAX_ALIGN_BYTES=64")
elseif(EXISTS "${_tensorflow_framework}")
  file(TIMESTAMP "${_tensorflow_framework}" _tensorflow_key)
  string(MD5 _tensorflow_cache "${_tensorflow_dir}")
  string(PREPEND _tensorflow_cache TFGN_TENSORFLOW_)
  if(NOT "${${_tensorflow_cache}_KEY}" STREQUAL _tensorflow_key)
    message(STATUS "Asking TensorFlow in ${_tensorflow_dir} for its compile flags")
    execute_process(
      COMMAND "${CMAKE_COMMAND}" -E env TF_CPP_MIN_LOG_LEVEL=3 ${TensorFlow_PYTHON} -c
        "import tensorflow as tf; print('tensorflow-flags:', tf.__version__, *tf.sysconfig.get_compile_flags())"
      OUTPUT_VARIABLE _tensorflow_flags ERROR_VARIABLE _tensorflow_error RESULT_VARIABLE _tensorflow_result)
    if(NOT _tensorflow_result EQUAL 0 OR NOT _tensorflow_flags MATCHES "tensorflow-flags: ([^ ]+) ([^\n]*)")
      message(FATAL_ERROR "`import tensorflow` fails in ${_tensorflow_python}:\n${_tensorflow_error}")
    endif()
    set(${_tensorflow_cache}_VERSION "${CMAKE_MATCH_1}" CACHE INTERNAL "TensorFlow built against")
    string(REGEX MATCHALL "-D[^ ]+" _tensorflow_definitions "${CMAKE_MATCH_2}")
    list(TRANSFORM _tensorflow_definitions REPLACE "^-D" "")
    set(${_tensorflow_cache}_DEFINITIONS "${_tensorflow_definitions}" CACHE INTERNAL "Definitions TensorFlow's ABI needs")
    set(${_tensorflow_cache}_KEY "${_tensorflow_key}" CACHE INTERNAL "What the two above were asked of")
  endif()
  set(TensorFlow_VERSION "${${_tensorflow_cache}_VERSION}")
  string(REGEX MATCH "^[0-9]+\\.[0-9]+" TensorFlow_MINOR "${TensorFlow_VERSION}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorFlow
  REQUIRED_VARS _tensorflow_dir _tensorflow_framework TensorFlow_VERSION
  VERSION_VAR TensorFlow_VERSION
  REASON_FAILURE_MESSAGE "${_tensorflow_python} has no TensorFlow: pip install tensorflow")

set(_tensorflow "TensorFlow${TensorFlow_MINOR}")
if(TensorFlow_FOUND AND NOT TARGET ${_tensorflow}::Framework)
  add_library(${_tensorflow}::Framework SHARED IMPORTED)
  set_target_properties(${_tensorflow}::Framework PROPERTIES
    IMPORTED_LOCATION "${_tensorflow_framework}"
    INTERFACE_INCLUDE_DIRECTORIES "${_tensorflow_dir}/include"
    # The layout checks in TensorFlow's headers differ without NDEBUG, which the wheel was built with.
    INTERFACE_COMPILE_DEFINITIONS "NDEBUG;${${_tensorflow_cache}_DEFINITIONS}"
    INTERFACE_COMPILE_FEATURES cxx_std_17)
endif()

if(TensorFlow_FOUND AND NOT TARGET ${_tensorflow}::Cc AND EXISTS "${_tensorflow_dir}/libtensorflow_cc.so.2")
  add_library(${_tensorflow}::Cc SHARED IMPORTED)
  set_target_properties(${_tensorflow}::Cc PROPERTIES
    IMPORTED_LOCATION "${_tensorflow_dir}/libtensorflow_cc.so.2"
    INTERFACE_LINK_LIBRARIES ${_tensorflow}::Framework)
endif()

# Where the wheel has XLA and the headers of its typed FFI: from TensorFlow 2.20 on.
if(TensorFlow_FOUND AND NOT TARGET ${_tensorflow}::Xla
   AND EXISTS "${_tensorflow_dir}/libtensorflow_cc.so.2"
   AND EXISTS "${_tensorflow_dir}/include/xla/ffi/api/ffi.h")
  add_library(${_tensorflow}::Xla SHARED IMPORTED)
  set_target_properties(${_tensorflow}::Xla PROPERTIES
    IMPORTED_LOCATION "${_tensorflow_dir}/libtensorflow_cc.so.2"
    INTERFACE_INCLUDE_DIRECTORIES
      "${_tensorflow_dir}/include/external/highwayhash;${_tensorflow_dir}/include/external/farmhash_archive/src"
    INTERFACE_LINK_LIBRARIES ${_tensorflow}::Framework)
endif()
