// audit.h: compares the source's ledger of promises with the sink's ledger of arrivals.
//
// Scope      Counts per recipient. A message whose outcome the source does not know may arrive or
//            not; one that was refused must not. A duplicate is counted, not condemned: at a crash
//            SMTP makes some unavoidable.
#pragma once

#include "dataplane/loadgen/limits.h"

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

namespace dataplane::loadgen {

/// A count and the first few sequence numbers behind it.
struct Fault {
    std::uint64_t count = 0;
    std::vector<std::string> examples; // "RUN/SEQ", at most named_examples_max
    void add(const std::string& run, std::uint64_t sequence);
};

struct Audit {
    std::uint64_t promised = 0;  // recipients of accepted messages
    std::uint64_t delivered = 0; // recipients of accepted messages that arrived
    std::uint64_t unknown_messages = 0;
    std::uint64_t unknown_delivered = 0; // recipients of those that arrived all the same
    Fault lost, duplicated, altered,
        unexplained; // unexplained: arrived though refused or never sent

    /// Nothing accepted was lost, and nothing arrived altered.
    [[nodiscard]] bool passed() const noexcept { return lost.count == 0 && altered.count == 0; }
};

[[nodiscard]] Audit audit(std::istream& source_ledger, std::istream& sink_ledger);
[[nodiscard]] std::string to_text(const Audit& result);

} // namespace dataplane::loadgen
