// runner.h: one run of a profile, from the first connection to the verdict.
//
// Scope      Starts the workers, measures with or without a search for the capacity before, waits for
//            what was accepted, and puts the result together. The terminal's progress is here too.
// Owns       The workers.
// Threading  The calling thread watches; it sleeps but for 20 looks a second.
// Failure    Throws std::runtime_error with a text for a person: nothing could be measured.
#pragma once

#include "dataplane/loadgen/run/profile.h"
#include "dataplane/loadgen/run/result.h"

#include <string>

namespace dataplane::loadgen {

struct RunOrders {
    Profile profile;
    bool find_capacity = false;
    bool quiet = false;
    std::string command; // as it was typed
};

/// Catches SIGINT and SIGTERM: the first ends the measuring, and what there is becomes the result.
[[nodiscard]] RunResult run_profile(const RunOrders& orders);

} // namespace dataplane::loadgen
