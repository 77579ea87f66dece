// capture_port.h: a port that writes down what passes through the one below it.
//
// Scope      A filter by address, port or connection; bounds on bytes and time; the result as pcapng.
//            Large frames that the device cuts are written as the segments that leave.
// Owns       The capture's bytes while one runs. Not the port below.
// Threading  One shard. Nothing is written to disk here: take the bytes, and write them elsewhere.
// Failure    At a bound the capture ends by itself; frames pass on as without it.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/clock.h"
#include "dataplane/net/port/limits.h"
#include "dataplane/net/port/pcapng.h"
#include "dataplane/net/port/port.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace dataplane::net {

/// Everything that is set must hold; nothing set: every frame, those that are no IP too.
struct CaptureFilter {
    std::optional<base::Network> address;            // of either side
    std::optional<std::uint16_t> port;               // of either side
    std::optional<base::SocketAddress> connection_a; // with b: this connection, both ways
    std::optional<base::SocketAddress> connection_b;

    [[nodiscard]] bool matches(std::span<const std::byte> frame) const noexcept;
};

struct CaptureLimits {
    std::size_t bytes = std::size_t{16} << 20;     // at most capture_bytes_max
    base::Duration time = std::chrono::minutes{1}; // at most capture_time_max
    std::uint32_t snap_bytes = 0;                  // kept of each frame; 0: all
    std::uint32_t interface =
        0; // its number in a file that holds several ports; see next_packets()
};

class CapturePort final : public Port {
public:
    /// The port below must outlive this one.
    explicit CapturePort(Port& below);

    /// Begins a capture; one that runs is thrown away.
    void start(CaptureFilter filter, CaptureLimits limits, base::TimePoint now,
               base::WallTime wall_now);
    /// The time of the frames that follow. Once per turn; without a capture it does nothing.
    void advance(base::TimePoint now) noexcept;
    [[nodiscard]] bool running() const noexcept { return running_; }
    [[nodiscard]] std::uint64_t packet_count() const noexcept {
        return writer_ ? writer_->packet_count() : 0;
    }
    [[nodiscard]] std::uint64_t left_out() const noexcept {
        return writer_ ? writer_->left_out() : 0;
    }
    /// Packet blocks that were not handed out yet, for a reader who follows a capture that runs.
    [[nodiscard]] std::span<const std::byte> next_packets(std::size_t bytes_max) noexcept {
        return writer_ ? writer_->next_packets(bytes_max) : std::span<const std::byte>{};
    }
    /// Ends the capture and gives it: a whole pcapng file, or nothing when none was started.
    [[nodiscard]] std::vector<std::byte> stop();

    [[nodiscard]] const PortInfo& info() const noexcept override { return below_.info(); }
    [[nodiscard]] std::optional<RssLayout> rss_layout() const noexcept override {
        return below_.rss_layout();
    }
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept override;
    void release(std::span<const ReceivedFrame> frames) noexcept override {
        below_.release(frames);
    }
    [[nodiscard]] SendResult send(const TransmitFrame& frame) noexcept override;
    [[nodiscard]] std::size_t send_room() const noexcept override { return below_.send_room(); }
    void flush() noexcept override { below_.flush(); }
    [[nodiscard]] const PortCounters& counters() const noexcept override {
        return below_.counters();
    }
    bool register_memory(std::span<std::byte> arena) noexcept override {
        return below_.register_memory(arena);
    }
    [[nodiscard]] bool settle() noexcept override { return below_.settle(); }

private:
    void write(std::span<const std::byte> frame, Direction direction) noexcept;
    void write_sent(const TransmitFrame& frame) noexcept;

    Port& below_;
    bool running_ = false;
    CaptureFilter filter_;
    CaptureLimits limits_;
    base::TimePoint started_at_{};
    base::TimePoint now_{};
    std::int64_t wall_ns_at_start_ = 0;
    std::optional<PcapngWriter> writer_;
    std::vector<std::byte> frame_; // one sent frame in one piece
};

} // namespace dataplane::net
