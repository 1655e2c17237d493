// engine/backends/cpu/isa_avx512.cpp: the kernels of level avx512. See kernels.h for what may not stand here.
#define PARE_ISA_NAMESPACE vector_avx512

#include "engine/backends/cpu/vec_avx512.h"
// The bodies follow, in the order in which they build on each other.
#include "engine/backends/cpu/math_body.h"

#include "engine/backends/cpu/attention_body.h"
// On the body before it.
#include "engine/backends/cpu/attention_backward_body.h"
#include "engine/backends/cpu/elementwise_body.h"
#include "engine/backends/cpu/logits_body.h"
#include "engine/backends/cpu/row_body.h"
#include "engine/backends/cpu/training_activation_body.h"
#include "engine/backends/cpu/training_optimizer_body.h"
#include "engine/backends/cpu/training_row_body.h"
// On the body of logits.
#include "engine/backends/cpu/loss_body.h"
#include "engine/backends/cpu/loss_known_body.h"
// The table needs all of them.
#include "engine/backends/cpu/table_body.h"
