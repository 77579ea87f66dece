// diff.h: what changed between two results, and whether the difference is more than noise.
//
// Scope      The noise of each run is taken from its own seconds, in batches: how two runs of the same
//            differ is not known from one of each, and the text says so. What the seconds cannot tell (a
//            maximum, memory) is shown without a verdict. A second in which nothing was accepted has the
//            latency of the next in which something was: that is how long its messages waited.
#pragma once

#include "dataplane/loadgen/run/result.h"
#include "dataplane/loadgen/run/statistics.h"

#include <string>
#include <vector>

namespace dataplane::loadgen {

struct Change {
    std::string name;
    double before = 0, after = 0;
    double percent = 0;
    Verdict verdict = Verdict::unclear;
    double noise_percent = 0; // of `before`, of the difference, 95 %; 0: not known
};

struct Difference {
    std::vector<Change> changes;
    std::vector<std::string> remarks; // why the two may not be comparable

    [[nodiscard]] bool any_worse() const noexcept;
};

[[nodiscard]] Difference difference_of(const RunResult& a, const RunResult& b);
[[nodiscard]] std::string to_text(const Difference& difference);

} // namespace dataplane::loadgen
