// verify.h: whether a pool is sound, as a list of what is not.
#pragma once

#include "queue/tool/opened_pool.h"

#include <string>
#include <vector>

namespace queue::tool {

struct Verdict {
    std::vector<std::string> problems; // one sentence each; empty: sound
    std::vector<std::string> remarks;  // no damage, but worth knowing
    std::uint64_t messages = 0;        // queued, and read whole
    std::uint64_t content_bytes = 0;
};

/// Reads every queued message, and holds index, checkpoint and records against each other.
[[nodiscard]] Verdict judge(const OpenedPool& pool, const Console& console);

} // namespace queue::tool
