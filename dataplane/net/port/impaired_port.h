// impaired_port.h: a bad line in front of a real port, for machines without netem.
//
// Scope      The same impairments as SimLink's, in the time that poll() is told. Frames are cut and
//            summed in software here, so that each one on the wire has a fate of its own.
// Owns       Copies of all frames on their way, both directions; not the port below.
// Threading  One shard.
// Failure    As Port says. A frame the port below refuses waits and is tried again at the next poll().
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/base/slab.h"
#include "dataplane/net/port/impairment.h"
#include "dataplane/net/port/port.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dataplane::net {

struct ImpairedPortOptions {
    ImpairmentOptions receive;
    ImpairmentOptions transmit;
    std::uint64_t seed = 1;
    std::uint32_t frame_buffers = 2 * impaired_frames;
    std::uint32_t control_reserve = control_reserve_min; // of frame_buffers
};

class ImpairedPort final : public Port {
public:
    /// The port below must outlive this one.
    ImpairedPort(Port& below, ImpairedPortOptions options);
    ~ImpairedPort() override;
    ImpairedPort(const ImpairedPort&) = delete;
    ImpairedPort& operator=(const ImpairedPort&) = delete;

    /// Takes in what has come, sends what is due. Once per turn, before receive().
    void poll(base::TimePoint now);
    /// When poll() has something to do without a new frame; TimePoint::max() when never.
    [[nodiscard]] base::TimePoint next_event() const noexcept;
    [[nodiscard]] ImpairedLine& receive_line() noexcept { return receive_line_; }
    [[nodiscard]] ImpairedLine& transmit_line() noexcept { return transmit_line_; }

    [[nodiscard]] const PortInfo& info() const noexcept override { return info_; }
    [[nodiscard]] std::optional<RssLayout> rss_layout() const noexcept override {
        return below_.rss_layout();
    }
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept override;
    void release(std::span<const ReceivedFrame> frames) noexcept override;
    [[nodiscard]] SendResult send(const TransmitFrame& frame) noexcept override;
    [[nodiscard]] std::size_t send_room() const noexcept override;
    void flush() noexcept override;
    [[nodiscard]] const PortCounters& counters() const noexcept override;

private:
    void take_in();
    void send_due();
    [[nodiscard]] std::size_t buffers_left(bool control) const noexcept;

    Port& below_;
    ImpairedPortOptions options_;
    PortInfo info_;
    base::SlabPool frames_;
    ImpairedLine receive_line_;
    ImpairedLine transmit_line_;
    LineFrame refused_; // by the port below; first at the next try
    base::TimePoint now_{};
    mutable PortCounters counters_;
    std::vector<base::SlabRef> lent_; // handle is the index + 1
    std::vector<std::uint32_t> lent_free_;
};

} // namespace dataplane::net
