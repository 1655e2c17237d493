// distill/stream_mixer.h: which stream the n-th sample of a run comes from, when several are mixed by weight.
//
// The k-th draw (from 0) of stream s has the time (2k + 1) / w_s, and samples are drawn in the order of time,
// ties from the lower stream. This is the apportionment of Sainte-Lague: after any number of samples each
// stream has had its share to within about one sample, there is no state, and any sample is found without
// walking to it.
#pragma once

#include <cstdint>
#include <vector>

namespace pare {

class StreamMixer {
 public:
  // Weights in [1, 2^40], one per stream, at least one.
  explicit StreamMixer(std::vector<uint64_t> weights);

  struct Draw {
    int32_t stream = 0;
    int64_t number = 0;  // of draws of this stream before it
  };

  // Draw of `sample`, in [0, 2^48).
  Draw at(int64_t sample) const;

  // How many of the first `samples` samples come from each stream.
  std::vector<int64_t> counts(int64_t samples) const;

 private:
  Draw next(const std::vector<int64_t>& counts) const;
  std::vector<uint64_t> weights_;
  uint64_t total_ = 0;
};

}  // namespace pare
