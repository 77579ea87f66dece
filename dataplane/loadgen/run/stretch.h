// stretch.h: one stretch of sending, as it was seen from outside, and what it means for the search.
#pragma once

#include "dataplane/loadgen/run/capacity.h"
#include "dataplane/loadgen/run/processes.h"
#include "dataplane/loadgen/run/totals.h"

#include <chrono>
#include <vector>

namespace dataplane::loadgen {

struct Stretch {
    double rate_per_s = 0;                       // due; 0: closed loop
    double seconds = 0;                          // measured
    std::chrono::steady_clock::time_point began; // the measuring
    double began_at_s = 0;                       // the same, since the epoch
    Totals start;                                // before the warm-up
    Totals base;                                 // when the warm-up was over
    Totals end;                                  // when the sources were told to stop
    Totals final;                                // when they had
    ProcessUse relay_base, relay_end;
    std::vector<NamedValue> rooms_base, rooms_end; // the relay's CPU, in seconds
};

/// The backlog is what came to it in the stretch, in messages: what was on its way before is not this
/// rate's doing.
[[nodiscard]] TrialFacts facts_of(const Stretch& stretch);

} // namespace dataplane::loadgen
