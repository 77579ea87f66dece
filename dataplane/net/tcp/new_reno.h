// new_reno.h: Reno's window in congestion avoidance.
//
// Scope      RFC 5681 §3.1 with the byte counting of RFC 3465 §2.1: one mss for each window
//            acknowledged. Its recovery (RFC 6582) is prr.h and sender.h.
// Threading  None; a value.
#pragma once

#include "dataplane/net/tcp/sender_limits.h"

#include <algorithm>
#include <cstdint>

namespace dataplane::net::tcp {

class NewReno {
public:
    /// Returns ssthresh (RFC 5681 equation 4).
    [[nodiscard]] std::uint32_t on_congestion(std::uint32_t flight_bytes,
                                              std::uint32_t mss) noexcept {
        acked_bytes_ = 0;
        return std::max(flight_bytes / 2, 2 * mss);
    }
    [[nodiscard]] std::uint32_t grown(std::uint32_t cwnd, std::uint32_t acked_bytes,
                                      std::uint32_t mss) noexcept {
        acked_bytes_ += std::min(acked_bytes, cwnd);
        if (acked_bytes_ < cwnd) return cwnd;
        acked_bytes_ -= cwnd;
        return std::min(cwnd + mss, cwnd_bytes_max);
    }

private:
    std::uint32_t acked_bytes_ = 0;
};

} // namespace dataplane::net::tcp
