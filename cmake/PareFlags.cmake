# Compiler flags as one INTERFACE target, pare_flags. Optimised by default; asserts of our own stay on in release.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
find_program(PARE_CCACHE ccache)
if(PARE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${PARE_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${PARE_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${PARE_CCACHE})
endif()

add_library(pare_flags INTERFACE)
target_compile_features(pare_flags INTERFACE cxx_std_20)
target_include_directories(pare_flags INTERFACE "${PROJECT_SOURCE_DIR}")
# -ffp-contract=off: results must not depend on where the compiler finds a multiply-add (docs/numerics.md).
target_compile_options(pare_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wconversion -Wsign-conversion
    $<$<BOOL:${PARE_WERROR}>:-Werror>
    -ffp-contract=off -fstack-protector-strong -fno-math-errno>)
# Not as a generator expression: the commas of a sanitizer list would be taken for its own.
if(PARE_SANITIZE)
  target_compile_definitions(pare_flags INTERFACE _GLIBCXX_ASSERTIONS)
else()
  target_compile_definitions(pare_flags INTERFACE $<$<CONFIG:Release>:_FORTIFY_SOURCE=2>)
endif()
target_link_options(pare_flags INTERFACE -Wl,-z,relro,-z,now -Wl,--as-needed)
if(PARE_SANITIZE)
  target_compile_options(pare_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${PARE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g1>)
  target_link_options(pare_flags INTERFACE -fsanitize=${PARE_SANITIZE})
endif()
