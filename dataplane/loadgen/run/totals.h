// totals.h: the tallies of several sources and sinks as one, and of a stretch of time.
#pragma once

#include "dataplane/loadgen/run/intruders.h"
#include "dataplane/loadgen/sink.h"
#include "dataplane/loadgen/source.h"

#include <algorithm>
#include <array>
#include <cstdint>

namespace dataplane::loadgen {

struct Totals {
    SourceTally source;
    SinkTally sink;
    std::array<IntruderTally, mischief_count> hostile{};
    std::uint64_t port_drops = 0;
    bool sending = false;
    double cpu_s = 0; // of the thread, or of all threads

    /// Recipients that were accepted and are neither here nor refused for good, by counting: mail of unknown
    /// fate that arrives, and copies at two sinks, make it too small. The ledgers know better.
    [[nodiscard]] std::uint64_t backlog() const noexcept {
        const std::uint64_t done = sink.unique + sink.refused_for_good;
        return source.recipients - std::min(source.recipients, done);
    }
    [[nodiscard]] std::uint64_t failed() const noexcept {
        return source.transient + source.permanent + source.unknown;
    }
};

/// Adds counts and histograms; of texts the last that says something stays.
void add(SourceTally& sum, const SourceTally& more);
void add(SinkTally& sum, const SinkTally& more);
void add(Totals& sum, const Totals& more);
/// What came between the two.
[[nodiscard]] SourceTally since(const SourceTally& now, const SourceTally& earlier);

} // namespace dataplane::loadgen
