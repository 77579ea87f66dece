// row.h: one measured figure: ours beside stock OpenSSL in the same run, and what it is held against.
#pragma once

#include <cstdint>
#include <string>

namespace tls_offload::bench {

struct Row {
    std::string name;          // "client_full_tls13_rsa2048"
    std::string backend = "-"; // who makes the signatures, where that matters
    double ours_us = 0;        // per operation
    double stock_us = 0;       // 0: nothing to compare with
    double ratio_max = 0;      // the goal for ratio(); 0: none
    double ours_us_max = 0;    // the goal for ours_us; 0: none
    [[nodiscard]] double ratio() const noexcept { return stock_us > 0 ? ours_us / stock_us : 0; }
    [[nodiscard]] bool has_goal() const noexcept { return ratio_max > 0 || ours_us_max > 0; }
    [[nodiscard]] bool met() const noexcept {
        return (ratio_max <= 0 || ratio() <= ratio_max) &&
               (ours_us_max <= 0 || ours_us <= ours_us_max);
    }
};

} // namespace tls_offload::bench
