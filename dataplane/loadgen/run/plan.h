// plan.h: from a profile to what each thread of the run does.
//
// Scope      How connections, rates, targets and numbers are shared out, and what of a profile cannot
//            have the effect that it names. Starts nothing.
#pragma once

#include "dataplane/loadgen/run/profile.h"
#include "dataplane/loadgen/run/result.h"

#include <optional>
#include <string>
#include <vector>

namespace dataplane::loadgen {

struct WorkerPlan {
    std::optional<SourceOptions> source; // its connections and rate are this worker's share
    std::optional<SinkOptions> sink;
    bool starttls = false; // of the sink
    MessagePattern pattern;
    IntruderOptions hostile;
    NetOptions net;
    int cpu = -1;
};

/// One for each thread, the sinks first. Each source's run is `run_prefix` and a number of its own;
/// connections of one section go to its targets in turn whichever thread they are on.
/// Passwords are still the names of their files.
[[nodiscard]] std::vector<WorkerPlan> plan_workers(const Profile& profile,
                                                   const std::string& run_prefix);

/// What the run does in the end, the command line's options included: for the report, and for whoever
/// compares two results.
[[nodiscard]] Facts setup_of(const Profile& profile);

/// What the profile asks for in vain, a sentence each.
[[nodiscard]] std::vector<std::string> idle_wishes(const Profile& profile);

} // namespace dataplane::loadgen
