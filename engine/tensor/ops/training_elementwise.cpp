#include "engine/tensor/training_ops.h"
