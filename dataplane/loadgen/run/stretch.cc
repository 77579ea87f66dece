#include "dataplane/loadgen/run/stretch.h"

#include <algorithm>

namespace dataplane::loadgen {

TrialFacts facts_of(const Stretch& stretch) {
    const SourceTally fresh = since(stretch.final.source, stretch.base.source);
    const auto due = static_cast<std::uint64_t>(stretch.rate_per_s * stretch.seconds);
    TrialFacts facts{.rate = stretch.rate_per_s,
                     .seconds = stretch.seconds,
                     .due = due,
                     .accepted = std::min(fresh.accepted, due),
                     .failed =
                         stretch.final.failed() - stretch.base.failed() + fresh.recipients_refused};
    facts.p99_us = static_cast<double>(fresh.accept_latency_ns.percentile(0.99)) / 1000;
    // Sinks count recipients; the bound is one of messages.
    const SourceTally all = since(stretch.end.source, stretch.start.source);
    const double for_each =
        all.accepted == 0 ? 1
                          : static_cast<double>(all.recipients) / static_cast<double>(all.accepted);
    const double growth =
        static_cast<double>(stretch.end.backlog()) - static_cast<double>(stretch.start.backlog());
    facts.backlog = std::max(0.0, growth) / std::max(1.0, for_each);
    return facts;
}

} // namespace dataplane::loadgen
