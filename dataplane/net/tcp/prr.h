// prr.h: how much may leave for each acknowledgement while cwnd is being reduced.
//
// Scope      RFC 9937, which replaces 6937: below ssthresh what was delivered may be sent, and a segment
//            more for an ACK that shows that recovery goes well (SafeACK: the slow start reduction bound).
// Threading  None; a value.
#pragma once

#include <algorithm>
#include <cstdint>

namespace dataplane::net::tcp {

class Prr {
public:
    /// \param flight_bytes  RecoverFS: SND.NXT - SND.UNA as the recovery begins
    void begin(std::uint32_t flight_bytes) noexcept {
        flight_at_begin_ = std::max(flight_bytes, 1U);
        delivered_ = 0;
        out_ = 0;
    }
    void on_sent(std::uint32_t bytes) noexcept { out_ += bytes; }

    /// Returns cwnd in bytes.
    /// \param going_well  SND.UNA has moved and nothing more was found lost
    [[nodiscard]] std::uint32_t on_acknowledgement(std::uint32_t delivered_bytes,
                                                   std::uint32_t pipe, std::uint32_t ssthresh,
                                                   std::uint32_t mss, bool going_well) noexcept {
        delivered_ += delivered_bytes;
        std::int64_t send = 0;
        if (pipe > ssthresh) {
            const std::uint64_t share =
                (std::uint64_t{delivered_} * ssthresh + flight_at_begin_ - 1) / flight_at_begin_;
            send = static_cast<std::int64_t>(share) - out_;
        } else {
            std::int64_t limit =
                std::max(std::int64_t{delivered_} - out_, std::int64_t{delivered_bytes});
            if (going_well) limit += mss;
            send = std::min(std::int64_t{ssthresh} - pipe, limit);
        }
        if (pipe < mss)
            send = std::max(send, std::int64_t{mss}); // else nothing would ever come back
        return pipe + static_cast<std::uint32_t>(std::max<std::int64_t>(send, 0));
    }

private:
    std::uint32_t flight_at_begin_ = 1;
    std::uint32_t delivered_ = 0;
    std::uint32_t out_ = 0;
};

} // namespace dataplane::net::tcp
