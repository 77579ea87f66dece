// trust.h: when a run must not be believed, and why.
//
// Scope      From what was seen to sentences; decides nothing else. A relay that is slow is a result,
//            not a reason: what counts here is the tool, the clock, the machine and the disk.
#pragma once

#include "dataplane/loadgen/run/result.h"

#include <optional>
#include <string>
#include <vector>

namespace dataplane::loadgen {

/// What is not in the samples.
struct Evidence {
    bool interrupted = false;
    double warm_up_s = 10;           // that there was
    double clock_step_s = 0;         // how far the wall clock moved against the steady one
    double wake_lateness_p99_ms = 0; // open loop: of the source's own timers
    std::uint64_t listen_drops = 0;
    std::uint64_t port_drops = 0; // our own stack's device
    std::uint64_t other_runs = 0; // recipients of an earlier run's mail that came during this one
    std::uint64_t pending = 0; // recipients of whom nothing was heard when the drain time was over
    double stolen_share = 0;   // of all CPU time, by the hypervisor
    std::string not_durable;   // why_not_durable()
    bool spool_told = true;    // else nobody knows
    bool sink = true;          // whether deliveries were seen at all
    bool waits_told = true;    // whether the kernel says how long threads waited for a core
    bool busy_poll = false;    // the one thread of our own stack never sleeps, which is no shortage
    std::optional<bool> dkim;  // what the profile says that the relay does
    unsigned cpus = 1;
};

/// One sentence each, with what to do about it; empty when the run can be trusted.
[[nodiscard]] std::vector<std::string> doubts(const RunResult& result, const Evidence& evidence);

/// What could not be looked at, with the reason: trust does not reach as far as that.
[[nodiscard]] std::vector<std::string> unchecked(const RunResult& result, const Evidence& evidence);

} // namespace dataplane::loadgen
