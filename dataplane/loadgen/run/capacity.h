// capacity.h: the search for the highest rate that a relay sustains.
//
// Scope      Which rate to try next, and what the trials say in the end. Does nothing itself: whoever
//            drives it runs the trials, so that a test can run them in simulated time.
// Method     Up by doubling until a trial fails, then bisection until the bracket is narrower than
//            the precision; then the rate that failed once more, for one unlucky trial must not be a
//            repeat's limit. That is one knee. The next repeats begin below the last knee, each at
//            another place between two steps, and climb in small steps. The answer is the repeats' mean;
//            its interval is Student's (95 %), and the bracket that the search left open on top.
#pragma once

#include "dataplane/loadgen/run/statistics.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dataplane::loadgen {

struct CapacityOptions {
    double rate_first = 100; // messages a second
    double rate_max = 10'000'000;
    double precision = 0.05; // of the bracket's lower end
    unsigned repeats = 3;
    unsigned trials_max = 60; // ends a search that noise leads in circles
    // What a trial must keep to:
    std::chrono::microseconds p99_max{100'000}; // from when a message was due to its 250
    double backlog_max_s = 1;                   // at the end, as seconds of the offered rate
    double accepted_share_min = 0.99;           // of what was due
    std::chrono::milliseconds trial{10'000};    // measured, behind a warm-up of a fifth of it
    bool watch_backlog = true;                  // not without a sink
};

/// What one trial came to.
struct TrialFacts {
    double rate = 0; // offered, messages a second
    double seconds = 0;
    std::uint64_t due = 0;
    std::uint64_t accepted = 0;
    std::uint64_t failed = 0; // refused, or of unknown fate, or without one of their recipients
    double p99_us = 0;
    double backlog = 0; // messages accepted and not delivered, by which it grew in the trial
};

struct Trial {
    TrialFacts facts;
    unsigned repeat = 0;
    bool passed = false;
    std::string why_not; // empty when it passed
};

/// Empty when the trial kept to everything.
[[nodiscard]] std::string judge(const TrialFacts& facts, const CapacityOptions& options);

class CapacitySearch {
public:
    explicit CapacitySearch(CapacityOptions options);

    /// The rate to try next; nothing when the search is over.
    [[nodiscard]] std::optional<double> next() const;
    void record(const TrialFacts& facts);

    [[nodiscard]] const std::vector<Trial>& trials() const noexcept { return trials_; }
    /// One for each repeat that is done: the highest rate that passed.
    [[nodiscard]] const std::vector<double>& knees() const noexcept { return knees_; }
    [[nodiscard]] double knee() const { return estimate(knees_).mean; }
    /// Infinite for fewer than two repeats.
    [[nodiscard]] Estimate confidence() const;
    /// Why the answer may be less than it seems; empty when it is not.
    [[nodiscard]] std::string caveat() const;

private:
    void begin_repeat();
    void end_repeat();

    CapacityOptions options_;
    std::vector<Trial> trials_;
    std::vector<double> knees_;
    std::vector<double> brackets_; // of each knee: how far above it the lowest rate that failed lay
    std::vector<double> tried_again_; // rates that failed, in this repeat
    double passed_ = 0;               // highest rate that passed in this repeat; 0: none yet
    double failed_ = 0;               // lowest that failed; 0: none yet
    double next_ = 0;                 // 0: over
    double step_ = 2;                 // how fast it climbs
    bool hit_ceiling_ = false;
};

} // namespace dataplane::loadgen
