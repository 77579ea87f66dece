// sim_link.h: a deterministic cable between two SimPorts, or a SimPort and a scripted peer.
//
// Scope      Virtual time from outside, one ImpairedLine per direction, delivery to the queue that RSS
//            picks, a tap for dumps. A simulation runs it in turn with its Loops: run_until(now), let
//            both sides work, then go on to the earlier of next_event() and the Loops' timers.
// Owns       Both ends' ports and every frame between them.
// Threading  One thread.
// Failure    Never: what does not fit is dropped and counted. The same options, seed and calls give
//            the same frames at the same times.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/base/slab.h"
#include "dataplane/net/port/impairment.h"
#include "dataplane/net/port/sim_port.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace dataplane::net {

struct SimLinkOptions {
    std::array<SimPortOptions, 2> ports{
        SimPortOptions{.name = "sim0", .mac = {0x02, 0, 0, 0, 0, 1}},
        SimPortOptions{.name = "sim1", .mac = {0x02, 0, 0, 0, 0, 2}}};
    /// lines[i]: what side i sends.
    std::array<ImpairmentOptions, 2> lines;
    std::uint64_t seed = 1;
    std::uint32_t frame_buffers = 8192; // on the lines and in the ports, together
};

class SimLink {
public:
    explicit SimLink(SimLinkOptions options);
    ~SimLink();
    SimLink(const SimLink&) = delete;
    SimLink& operator=(const SimLink&) = delete;

    /// \param side  0 or 1
    [[nodiscard]] SimPort& port(unsigned side, std::uint16_t queue = 0) noexcept;
    [[nodiscard]] ImpairedLine& line(unsigned from_side) noexcept { return lines_[from_side]; }

    /// Moves time on to `now`, and all that happens until then: arrivals, completions. Time never
    /// goes back: an earlier `now` does nothing.
    void run_until(base::TimePoint now);
    /// When there is something to run for; TimePoint::max() when nothing is on its way.
    [[nodiscard]] base::TimePoint next_event() const noexcept;
    [[nodiscard]] base::TimePoint now() const noexcept { return now_; }

    /// A frame enters the line of `from_side` as if its port had sent it.
    void inject(unsigned from_side, std::span<const std::byte> frame);
    /// A frame is at `to_side` at once, past the line.
    void deliver(unsigned to_side, std::span<const std::byte> frame);

    enum class TapPoint : std::uint8_t { sent, arrived };
    using Tap = std::function<void(unsigned from_side, TapPoint point,
                                   std::span<const std::byte> frame, base::TimePoint now)>;
    void set_tap(Tap tap) { tap_ = std::move(tap); }

private:
    friend class SimPort;
    [[nodiscard]] base::SlabRef take_buffer() noexcept { return frames_.take(); }
    void carry(unsigned from_side, LineFrame frame);
    void arrive(unsigned to_side, LineFrame frame);

    SimLinkOptions options_;
    base::SlabPool frames_;
    std::array<ImpairedLine, 2> lines_;
    std::array<std::vector<std::unique_ptr<SimPort>>, 2> ports_;
    base::TimePoint now_{};
    Tap tap_;
};

} // namespace dataplane::net
