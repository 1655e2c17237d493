# Sources of the CUDA backend: built by nvcc here, and as host C++ by tests/cuda_emulator. One per line.
set(PARE_CUDA_SOURCES
  attention.cpp
  attention_exact.cu
  attention_plan.cpp
  context.cpp
  cuda_backend.cpp
  device_info.cu
  gemm.cpp
  int8_layout.cpp
  libraries.cpp
  memory_pool.cpp
  norm.cu
  pending.cpp
  rows.cu
)
