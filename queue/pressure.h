// pressure.h: how near the spool is to being full, in time and in space, and who has most of it.
//
// Scope      From samples of the segments to a level with hysteresis; of each tenant, how many bytes are
//            queued. What is refused at a level is core.cc's and the SMTP server's: docs/operating.md,
//            "When the spool fills".
// Owns       The rate of growth, the levels, the tally by tenant.
// Threading  Bound to one shard. Time comes from the caller.
#pragma once

#include "dataplane/base/clock.h"
#include "queue/text_table.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace queue {

namespace base = dataplane::base;

enum class SpoolLevel : std::uint8_t {
    normal = 0,
    filling = 1,     // 80 %, or full within 10 minutes: who has most of it queued gets 452
    nearly_full = 2, // 90 %: new mail gets 452
    full = 3,        // 95 %, only the reserve is left: new connections get 421
};

[[nodiscard]] std::string_view to_string(SpoolLevel level) noexcept;

struct SpoolPressure {
    SpoolLevel level = SpoolLevel::normal;
    bool stuck = false;        // a write has not come back for long
    unsigned used_percent = 0; // of the pool; what collection would win back is not used
    std::optional<std::chrono::seconds> time_to_full; // nothing when it is not filling up
};

class Pressure {
public:
    struct Space {
        std::uint32_t segments_total = 0;
        std::uint32_t segments_free = 0;
        std::uint32_t segments_reserved = 0; // of these, not for new mail
        std::uint64_t segment_bytes = 0;
        std::uint64_t dead_bytes = 0; // that collection would win back
    };
    /// Takes note of how things are. As often as anybody likes; the rate is measured over a minute or so.
    void sample(base::TimePoint now, const Space& space) noexcept;

    [[nodiscard]] SpoolLevel level() const noexcept;
    [[nodiscard]] unsigned used_percent() const noexcept { return used_percent_; }
    [[nodiscard]] std::optional<std::chrono::seconds> time_to_full() const noexcept;

private:
    void measure(base::TimePoint now, double occupied) noexcept;

    bool begun_ = false;
    base::TimePoint measured_at_{};
    double occupied_ = 0; // bytes, when it was measured
    double rate_ = 0;     // bytes a second, smoothed
    double room_ = 0;     // bytes until new mail is refused
    unsigned used_percent_ = 0;
    bool filling_ = false, nearly_full_ = false, full_ = false;
};

/// Content queued, by tenant.
class TenantTally {
public:
    void add(TextId tenant, std::uint64_t bytes);
    void drop(TextId tenant, std::uint64_t bytes) noexcept;
    /// Whether a tenant has more queued than all would have if they had the same; the only one has.
    [[nodiscard]] bool over_share(TextId tenant) const noexcept;

private:
    struct Held {
        std::uint64_t bytes = 0;
        std::uint64_t messages = 0;
    };
    using HeldBy = std::unordered_map<TextId, Held>;

    HeldBy held_;
    // Of tenants whose last message has gone: on a relay that keeps up, that is after each message.
    static constexpr std::size_t spare_max = 64;
    std::vector<HeldBy::node_type> spare_;
    std::uint64_t bytes_ = 0;
};

} // namespace queue
