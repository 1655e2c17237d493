// engine/tensor/transfer.h: tensors between host memory and a device. Nothing else copies between them.
#pragma once

#include "engine/core/result.h"
#include "engine/tensor/tensor.h"

namespace pare {

// The tensor on `device`: itself where the bytes can be seen there (Tensor::on), else a contiguous copy. From
// a GPU it waits for what was asked before. Exit 6.
Result<Tensor> moved(const Tensor& tensor, Device device);

// to = from: same dtype and shape, on any devices; rows may have gaps on either side. From a GPU to a host it
// waits, otherwise not. Exit 6: the device broke off something earlier.
Status copy_into(const Tensor& from, const Tensor& to);

// Every element 0; rows may have gaps.
void clear(const Tensor& tensor);

}  // namespace pare
