# The kernels without Python, as the target `kernels`: for the extension and for the tests in C++.
#
# What is compiled in follows from the compiler: on x86-64 three levels, of which dispatch.cpp picks
# one when the program runs; elsewhere the baseline alone, whose vectors are NEON on aarch64.
include(CheckCXXCompilerFlag)

# The kernels use the vector extension of GCC and Clang; other compilers do without the extension.
if(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  message(FATAL_ERROR "xception's kernels need GCC or Clang; building without them")
endif()
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

set(kernels_folder ${CMAKE_CURRENT_LIST_DIR})
set(kernel_flags -ffp-contract=fast -fno-math-errno -fno-trapping-math
                 -Wno-psabi -Wno-unknown-pragmas)  # and -O3, of the build type

add_library(kernels INTERFACE)
target_include_directories(kernels INTERFACE ${kernels_folder})
target_compile_features(kernels INTERFACE cxx_std_17)
target_sources(kernels INTERFACE ${kernels_folder}/dispatch.cpp ${kernels_folder}/parallel.cpp)

# kernels.cpp once per instruction set, in a namespace of its name.
function(add_kernels name)
  add_library(kernels_${name} OBJECT ${kernels_folder}/kernels.cpp)
  set_target_properties(kernels_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON
                        CXX_VISIBILITY_PRESET hidden)
  target_compile_features(kernels_${name} PRIVATE cxx_std_17)
  target_compile_definitions(kernels_${name} PRIVATE XCEPTION_ISA=${name})
  target_compile_options(kernels_${name} PRIVATE ${kernel_flags} ${ARGN})
  target_sources(kernels INTERFACE $<TARGET_OBJECTS:kernels_${name}>)
endfunction()

add_kernels(baseline)
check_cxx_compiler_flag(-march=x86-64-v3 has_v3)
if(has_v3)
  add_kernels(avx2 -march=x86-64-v3)
  target_compile_definitions(kernels INTERFACE XCEPTION_HAS_AVX2)
endif()
check_cxx_compiler_flag("-march=x86-64-v4 -mprefer-vector-width=512" has_v4)
if(has_v4)
  add_kernels(avx512 -march=x86-64-v4 -mprefer-vector-width=512)
  target_compile_definitions(kernels INTERFACE XCEPTION_HAS_AVX512)
endif()
