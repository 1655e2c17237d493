#include "engine/backends/reference/training_class.h"
