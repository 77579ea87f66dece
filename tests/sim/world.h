// world.h: one run of the whole relay in a simulated world, from one seed.
//
// Scope      Builds network, disk, clock, names, destinations, clients and the relay; lets time pass; kills
//            and restarts the relay, breaks the disk, changes the policy; at last heals everything, waits
//            for the queue to be empty and has the audit judge.
#pragma once

#include "tests/sim/audit.h"

#include <cstdint>
#include <string>
#include <vector>

namespace tests::sim {

struct RunResult {
    std::vector<std::string> violations; // empty: the run passed
    Totals totals;
    std::uint64_t trace_hash = 0;
    std::uint64_t turns = 0;
    std::chrono::seconds simulated{};
};

/// \param print_trace  prints everything that can be seen from outside, as it happens
[[nodiscard]] RunResult run_world(std::uint64_t seed, bool print_trace);

} // namespace tests::sim
