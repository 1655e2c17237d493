#include "engine/backends/cpu/training_class.h"
