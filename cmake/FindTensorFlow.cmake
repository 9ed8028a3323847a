# Finds the TensorFlow of the Python interpreter in Python_EXECUTABLE (distribution `tensorflow` or `tensorflow-cpu`).
#
# Result variables
#   TensorFlow_FOUND, TensorFlow_VERSION
# Imported targets
#   TensorFlow::Framework   the headers (as system headers), the flags its ABI needs, libtensorflow_framework.so.2
#   TensorFlow::Xla         the same and what XLA kernels need: libtensorflow_cc.so.2. Not in every TensorFlow.

# The package is located without importing it; the import, which takes seconds, follows only where the framework
# library is another one than at the last configure.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
    "import importlib.util as u; s = u.find_spec('tensorflow'); print(s.submodule_search_locations[0] if s else '')"
  OUTPUT_VARIABLE _tensorflow_dir OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
set(_tensorflow_framework "${_tensorflow_dir}/libtensorflow_framework.so.2")

if(EXISTS "${_tensorflow_framework}")
  file(TIMESTAMP "${_tensorflow_framework}" _tensorflow_timestamp)
  set(_tensorflow_key "${_tensorflow_framework} ${_tensorflow_timestamp}")
  if(NOT "${TFGN_TENSORFLOW_KEY}" STREQUAL _tensorflow_key)
    message(STATUS "Asking TensorFlow in ${_tensorflow_dir} for its compile flags")
    execute_process(
      COMMAND "${CMAKE_COMMAND}" -E env TF_CPP_MIN_LOG_LEVEL=3 "${Python_EXECUTABLE}" -c
        "import tensorflow as tf; print('tensorflow-flags:', tf.__version__, *tf.sysconfig.get_compile_flags())"
      OUTPUT_VARIABLE _tensorflow_flags ERROR_VARIABLE _tensorflow_error RESULT_VARIABLE _tensorflow_result)
    if(NOT _tensorflow_result EQUAL 0 OR NOT _tensorflow_flags MATCHES "tensorflow-flags: ([^ ]+) ([^\n]*)")
      message(FATAL_ERROR "`import tensorflow` fails in ${Python_EXECUTABLE}:\n${_tensorflow_error}")
    endif()
    set(TFGN_TENSORFLOW_VERSION "${CMAKE_MATCH_1}" CACHE INTERNAL "TensorFlow built against")
    string(REGEX MATCHALL "-D[^ ]+" _tensorflow_definitions "${CMAKE_MATCH_2}")
    list(TRANSFORM _tensorflow_definitions REPLACE "^-D" "")
    set(TFGN_TENSORFLOW_DEFINITIONS "${_tensorflow_definitions}" CACHE INTERNAL "Definitions TensorFlow's ABI needs")
    set(TFGN_TENSORFLOW_KEY "${_tensorflow_key}" CACHE INTERNAL "What the two above were asked of")
  endif()
  set(TensorFlow_VERSION "${TFGN_TENSORFLOW_VERSION}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorFlow
  REQUIRED_VARS _tensorflow_dir _tensorflow_framework TensorFlow_VERSION
  VERSION_VAR TensorFlow_VERSION
  REASON_FAILURE_MESSAGE "${Python_EXECUTABLE} has no TensorFlow: pip install tensorflow")

if(TensorFlow_FOUND AND NOT TARGET TensorFlow::Framework)
  add_library(TensorFlow::Framework SHARED IMPORTED)
  set_target_properties(TensorFlow::Framework PROPERTIES
    IMPORTED_LOCATION "${_tensorflow_framework}"
    INTERFACE_INCLUDE_DIRECTORIES "${_tensorflow_dir}/include"
    # The layout checks in TensorFlow's headers differ without NDEBUG, which the wheel was built with.
    INTERFACE_COMPILE_DEFINITIONS "NDEBUG;${TFGN_TENSORFLOW_DEFINITIONS}"
    INTERFACE_COMPILE_FEATURES cxx_std_17)
endif()

# Where the wheel has XLA and the headers of its typed FFI: from TensorFlow 2.20 on.
if(TensorFlow_FOUND AND NOT TARGET TensorFlow::Xla
   AND EXISTS "${_tensorflow_dir}/libtensorflow_cc.so.2"
   AND EXISTS "${_tensorflow_dir}/include/xla/ffi/api/ffi.h")
  add_library(TensorFlow::Xla SHARED IMPORTED)
  set_target_properties(TensorFlow::Xla PROPERTIES
    IMPORTED_LOCATION "${_tensorflow_dir}/libtensorflow_cc.so.2"
    INTERFACE_INCLUDE_DIRECTORIES
      "${_tensorflow_dir}/include/external/highwayhash;${_tensorflow_dir}/include/external/farmhash_archive/src"
    INTERFACE_LINK_LIBRARIES TensorFlow::Framework)
endif()
