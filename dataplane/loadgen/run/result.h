// result.h: what a run came to, as it is written, read again, compared and drawn.
//
// Scope      Plain values; the JSON form keeps every histogram bucket, so that results of several
//            machines can be added exactly.
// Failure    result_from_json() throws std::runtime_error with a text for a person.
#pragma once

#include "dataplane/loadgen/audit.h"
#include "dataplane/loadgen/histogram.h"
#include "dataplane/loadgen/run/capacity.h"
#include "dataplane/loadgen/sink.h"
#include "dataplane/loadgen/source.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dataplane::loadgen {

/// One second of a run.
struct Sample {
    double at_s = 0; // its end, since the first message
    bool measured = false;
    double offered_per_s = 0; // open loop: messages that fell due
    double accepted_per_s = 0;
    double delivered_per_s = 0; // recipients
    double failed_per_s = 0;    // refused, or of unknown fate
    double p50_ms = 0;          // latencies: NaN for a second in which nothing was accepted
    double p99_ms = 0;
    double max_ms = 0;
    double backlog = 0;    // recipients accepted and not yet arrived, as far as counts tell
    double relay_cpu = 0;  // cores
    double relay_mb = 0;   // resident
    double source_cpu = 0; // cores, of the busiest source thread
    double sink_cpu = 0;
    double source_wait = 0; // cores that the source thread which waited most was kept waiting for
    double sink_wait = 0;
    double others_cpu = 0; // cores, of everything that is neither relay nor bench
};

struct NamedValue {
    std::string name;
    double value = 0;
};
using Facts = std::vector<std::pair<std::string, std::string>>;

/// What a thread, or a room, had of a core, second by second.
struct ThreadUse {
    std::string name;
    std::vector<double> cores; // one for each sample
};

struct RelayUse {
    bool known = false;
    double cpu_s = 0;         // over the measured time
    double settled_cpu_s = 0; // from its begin until all had arrived; 0: that was not seen
    double memory_max_mb = 0;
    std::vector<NamedValue> threads; // CPU seconds by thread name, the number in it cut off
    std::vector<ThreadUse> over_time;
};

struct CapacityResult {
    bool searched = false;
    double knee = 0;       // messages a second
    double half_width = 0; // infinite when nothing is known of it
    std::vector<double> knees;
    std::string caveat;
    std::string full_run; // which bound the run in full at the knee broke; empty: none
    std::string bounds;   // in words
    std::vector<Trial> trials;
};

struct RunResult {
    std::string profile;
    std::string profile_text;
    std::string command;
    std::string began; // ISO 8601, UTC
    std::string relay_greeting;
    Facts setup;              // what was done in the end, as setup_of() has it
    double measured_from = 0; // seconds since the epoch; 0: not known
    double seconds = 0;       // measured
    double rate_per_s = 0;    // open loop; 0: closed
    std::uint64_t sent = 0;
    std::uint64_t accepted = 0; // in the measured time
    std::uint64_t transient = 0;
    std::uint64_t permanent = 0;
    std::uint64_t unknown = 0;
    std::uint64_t due = 0;
    std::uint64_t overdue = 0;
    std::uint64_t bytes = 0;
    std::uint64_t recipients = 0; // of what was accepted in the measured time
    std::uint64_t recipients_refused =
        0;                       // beside them: RCPTs of accepted messages that were refused
    std::uint64_t delivered = 0; // recipients, in the measured time
    // Of the whole run: what the sink took, and how much of that bore a DKIM signature.
    std::uint64_t sink_messages = 0;
    std::uint64_t signed_messages = 0;
    // From the measured time's begin until all that was ever accepted had arrived.
    double settled_s = 0;      // 0: that was not seen
    std::uint64_t settled = 0; // recipients, in that time
    std::uint64_t connections = 0;
    std::uint64_t connections_broken = 0;
    std::uint64_t tls_connections = 0;
    std::uint64_t tls_resumed = 0;
    std::string last_error;
    Histogram latency_ns;
    std::vector<Sample> samples;
    Audit audit; // of the whole run, warm-up included
    std::vector<ProviderTally> providers;
    std::vector<NamedValue> hostile;
    RelayUse relay;
    std::vector<NamedValue> rooms; // the relay's CPU seconds by room, where it tells them
    std::vector<ThreadUse> rooms_over_time;
    CapacityResult capacity;
    Facts machine;
    std::vector<std::string> doubts;    // why the run cannot be trusted; empty: it can
    std::vector<std::string> unchecked; // what could not be looked at, and why
    std::vector<TargetTally> targets;   // the measured time, relay by relay

    [[nodiscard]] double accepted_per_s() const noexcept {
        return seconds > 0 ? static_cast<double>(accepted) / seconds : 0;
    }
    [[nodiscard]] double delivered_per_s() const noexcept {
        return seconds > 0 ? static_cast<double>(delivered) / seconds : 0;
    }
    [[nodiscard]] double settled_per_s() const noexcept {
        return settled_s > 0 ? static_cast<double>(settled) / settled_s : 0;
    }
    [[nodiscard]] double latency_ms(double share) const noexcept {
        return static_cast<double>(latency_ns.percentile(share)) / 1e6;
    }
    [[nodiscard]] double cpu_s_per_1000() const noexcept {
        return accepted == 0 ? 0 : relay.cpu_s * 1000 / static_cast<double>(accepted);
    }
};

[[nodiscard]] std::string to_json(const RunResult& result);
[[nodiscard]] RunResult result_from_json(const std::string& text);
/// For the terminal: what it came to, every fault that is not zero by name, and every doubt.
[[nodiscard]] std::string to_text(const RunResult& result);
/// For a terminal, which obeys control characters: they become '?', ends of lines apart.
[[nodiscard]] std::string without_controls(std::string text);
/// What a person looks at first, as pairs of name and value.
[[nodiscard]] Facts headline(const RunResult& result);
/// Every fault with its count and examples.
[[nodiscard]] std::vector<std::pair<std::string, const Fault*>> faults(const Audit& audit);

} // namespace dataplane::loadgen
