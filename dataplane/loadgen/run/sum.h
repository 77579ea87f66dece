// sum.h: the results of several machines that measured at the same time, as one.
//
// Scope      Counts, histograms and audits add exactly, for each machine's sink received its own sources'
//            mail. Of the seconds the rates add; their percentiles cannot be added, and the worst
//            machine's stands for all. A search for the capacity is not added.
#pragma once

#include "dataplane/loadgen/run/result.h"

#include <string>
#include <vector>

namespace dataplane::loadgen {

struct NamedResult {
    std::string name; // of its file
    RunResult result;
};

/// Throws std::runtime_error for less than one. Each result's doubts are the sum's, with its name, and so is
/// that they were not measured at the same time.
[[nodiscard]] RunResult sum_of(const std::vector<NamedResult>& results);

} // namespace dataplane::loadgen
