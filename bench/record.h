// bench/record.h: one result as a JSON object and as a row of the table. Source: performance notes,
// section 1.7.
#pragma once

#include <string>
#include <vector>

#include "bench/harness.h"
#include "bench/timing.h"

namespace pare::bench {

struct Measured {
  std::string name;
  int threads = 1;
  bool pinned = true;
  double load_before = 0.0;  // load average before the first measurement: later the load is our own
  double error = 0.0;        // of the verification, as a share of its bound
  std::string limit_name;
  double limit_work = 0.0;
  bool limit_by_operations = false;
  std::vector<double> ours, peer, limit;    // seconds per call
  std::vector<double> shares, peer_ratios;  // of rounds
};

struct Row {
  std::string name, ours, unit, limit, peer, flags;
  int threads = 1;
};

double load_average();
std::vector<std::string> flags_of(const Measured& measured);
Json record_of(const RunOptions& options, const Case& c, const Measured& measured);
Row row_of(const Case& c, const Measured& measured);
std::string table_text(const std::vector<Row>& rows);

}  // namespace pare::bench
