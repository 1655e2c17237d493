// engine/core/exit_code.h: how a run of `pare` can end. The contract with scripts; values never change.
#pragma once

namespace pare {

enum class Exit : int {
  ok = 0,            // done, verified, durable
  internal = 1,      // a bug of ours; nothing a user or a file does may lead here
  usage = 2,         // unknown flag, output exists without --force
  malformed = 3,     // the file contradicts its format, itself or its neighbours
  unsupported = 4,   // valid, but pare does not do it
  io = 5,            // missing file, disk full, input changed while being read
  resource = 6,      // memory, threads, or a cap of limits.h
  numeric = 7,       // NaN in weights, matrix not positive definite, loss diverged
  locked = 8,        // another process holds the job, or an input changed since
  gate = 9,          // --fail-if was not met; the output is complete
  interrupted = 75,  // stopped by the first signal; --resume continues
  aborted = 130,     // stopped at once
};

}  // namespace pare
