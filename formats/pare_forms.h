// formats/pare_forms.h: weights in every form <-> parts of a .pare file; internal to formats.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/models/weight_source.h"
#include "formats/pare_format.h"

namespace pare {

// A part before it has a place in the file.
using NamedPart = std::pair<std::string, Tensor>;

// Form, shape, scheme, pattern and base of `weight` go into `tensor`; returns the parts in the order of the
// file.
std::vector<NamedPart> parts_of(const WeightData& weight, PareTensor& tensor);

// The inverse: a weight over views of the parts, which check_parts() has found to be those of the form.
// `tensor` is no alias.
WeightData weight_of(const PareTensor& tensor, const std::function<Tensor(const ParePart&)>& view);

// What a source lists for a tensor, without reading values.
StoredTensor listed_tensor(const PareTensor& tensor);

}  // namespace pare
