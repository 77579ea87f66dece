// impairment.h: a bad line: what becomes of frames between two ports, in one direction.
//
// Scope      Delay, jitter, loss, reordering, duplicates, flipped bits, a smaller MTU, a bottleneck with
//            a queue and ECN marks, and rules for single frames. SimLink and ImpairedPort share it.
// Owns       The frames on the line, as slabs of the pool it is given; at most impaired_frames.
// Threading  One shard. No clock; the same seed and calls give the same fates.
// Failure    A full line or an empty pool drops the frame and counts it, as a router would.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/base/slab.h"
#include "dataplane/net/port/limits.h"
#include "dataplane/net/port/port.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <vector>

namespace dataplane::net {

/// Bursts of loss: two states, each with its own loss, and the chance per frame to change over.
struct GilbertElliott {
    double to_bad = 0;
    double to_good = 1;
    double loss_good = 0;
    double loss_bad = 1;
};

struct ImpairmentRule {
    enum class Action : std::uint8_t {
        drop,
        delay,     // by `extra`, so that later frames overtake it
        duplicate, // the second copy comes `extra` later
        corrupt,   // flips one bit behind the Ethernet header
        mark_ce,   // ECN
        pass,      // exempts it from random loss, reordering, duplicates and corruption
    };
    /// Which frames it counts; empty: all. Gets the frame from the Ethernet header on.
    std::function<bool(std::span<const std::byte> frame)> matches;
    std::uint64_t first = 1; // of the matching frames, counted from 1
    std::uint64_t count = 1;
    Action action = Action::drop;
    base::Duration extra{0};
};

struct ImpairmentOptions {
    base::Duration delay{0};
    base::Duration jitter{0}; // added to the delay, uniformly from 0; order is kept
    double loss = 0;          // probabilities, per frame
    std::optional<GilbertElliott> burst_loss;
    double duplicate = 0;
    double corrupt = 0;
    double reorder = 0;
    base::Duration reorder_extra = std::chrono::milliseconds{1}; // how late such a frame comes
    std::uint16_t mtu = 0; // of IP; larger packets are dropped; 0: no limit
    /// Told of each packet too big, before it is dropped: may answer with an ICMP error. Empty: a
    /// black hole.
    std::function<void(std::span<const std::byte> frame, std::uint16_t mtu)> on_too_big;
    std::uint64_t rate_bits_per_s = 0; // 0: infinitely fast
    std::uint64_t queue_bytes = 0;     // before the bottleneck; 0: no limit
    std::uint64_t mark_bytes = 0; // queued beyond this: ECN-capable frames are marked; 0: never
    std::vector<ImpairmentRule> rules; // the first that applies decides
};

struct ImpairmentCounters {
    std::uint64_t entered = 0, left = 0;
    std::uint64_t lost = 0, ruled_out = 0, too_big = 0, queue_full = 0, line_full = 0;
    std::uint64_t duplicated = 0, corrupted = 0, reordered = 0, marked = 0;
    [[nodiscard]] std::uint64_t dropped() const noexcept {
        return lost + ruled_out + too_big + queue_full + line_full;
    }
};

/// SplitMix64: the same numbers in every library, unlike <random>'s distributions.
class SeededRandom {
public:
    explicit SeededRandom(std::uint64_t seed) noexcept : state_(seed) {}
    [[nodiscard]] std::uint64_t next() noexcept;
    [[nodiscard]] bool chance(double probability) noexcept;
    /// \param bound  > 0
    [[nodiscard]] std::uint64_t below(std::uint64_t bound) noexcept;

private:
    std::uint64_t state_;
};

/// A frame on the line, in one slab, with what the port it came from had said of it.
struct LineFrame {
    base::SlabRef slab;
    std::uint32_t bytes = 0;
    std::uint32_t rss_hash = 0;
    bool has_rss_hash = false;
    bool control = false;
    ChecksumState ip_checksum = ChecksumState::unknown;
    ChecksumState l4_checksum = ChecksumState::unknown;

    [[nodiscard]] std::span<std::byte> span() const noexcept { return {slab.data(), bytes}; }
};

class ImpairedLine {
public:
    /// \param frames  where copies are made; must outlive the line
    ImpairedLine(ImpairmentOptions options, std::uint64_t seed, base::SlabPool& frames);

    /// A frame enters. It must be the only holder of its slab.
    void push(LineFrame frame, base::TimePoint now);
    /// The next frame that has come out by `now`, in order of arrival; one without a slab when none.
    [[nodiscard]] LineFrame pop(base::TimePoint now);
    /// When the next one comes out; TimePoint::max() when the line is empty.
    [[nodiscard]] base::TimePoint next_event() const noexcept;
    [[nodiscard]] std::size_t frame_count() const noexcept { return heap_.size(); }

    /// For frames that enter from now on. Rules start to count anew.
    void change(ImpairmentOptions options);
    [[nodiscard]] const ImpairmentOptions& options() const noexcept { return options_; }
    [[nodiscard]] const ImpairmentCounters& counters() const noexcept { return counters_; }

private:
    struct Entry {
        base::TimePoint at;
        std::uint64_t order; // ties leave in the order they entered
        LineFrame frame;

        [[nodiscard]] static bool leaves_later(const Entry& a, const Entry& b) noexcept {
            return a.at != b.at ? a.at > b.at : a.order > b.order;
        }
    };
    struct Fate {
        bool drop = false;
        bool exempt = false;
        bool duplicate = false;
        bool corrupt = false;
        bool mark = false;
        bool overtaken = false;
        base::Duration extra{0};
        base::Duration duplicate_extra{0};
    };
    [[nodiscard]] Fate decide(std::span<const std::byte> frame);
    [[nodiscard]] bool lost() noexcept;
    /// When the bottleneck has sent it; nullopt when its queue is full.
    [[nodiscard]] std::optional<base::TimePoint> departure(std::size_t bytes, base::TimePoint now,
                                                           bool& mark) noexcept;
    void insert(base::TimePoint at, LineFrame frame);
    void corrupt(LineFrame& frame) noexcept;
    [[nodiscard]] LineFrame copy(const LineFrame& frame) noexcept;

    ImpairmentOptions options_;
    SeededRandom random_;
    base::SlabPool& frames_;
    std::vector<std::uint64_t> rule_matches_;
    std::vector<Entry> heap_; // the earliest first
    std::uint64_t order_ = 0;
    bool burst_bad_ = false;
    base::TimePoint busy_until_{};
    base::TimePoint last_arrival_{};
    ImpairmentCounters counters_;
};

} // namespace dataplane::net
