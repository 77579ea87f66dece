// neighbours.h: which MAC address a next hop has: the states of RFC 4861 §7.3, for ARP and ND alike.
//
// Scope      Asking, answers, refreshing before expiry, forgetting. How one asks is the Solicitor's.
//
//   incomplete --answer--> reachable --(time, in use)--> probing --answer--> reachable
//       |                      `-----(time, not in use)--> stale --use--> probing
//       `-- no answer --> failed --(hold over)--> gone <-- no answer -- probing
//
//            A stale or probing entry is used as it is: refreshing never holds a frame back.
// Owns       A table of fixed size. When it is full, one that send() does not use goes; when there
//            is none, the new one is refused.
// Threading  One shard. No clock.
// Failure    Next hops that do not answer are settled(…, false) once, and unreachable for a while.
#pragma once

#include "dataplane/base/timer_wheel.h"
#include "dataplane/net/ip/address_index.h"
#include "dataplane/net/ip/layer.h"
#include "dataplane/net/ip/limits.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <vector>

namespace dataplane::net::ip {

class Solicitor {
public:
    virtual ~Solicitor() = default;
    /// Sends an ARP request or a Neighbour Solicitation; to `at` alone when given.
    virtual void solicit(const IpAddress& ip, const MacAddress* at) noexcept = 0;
    /// The end of a wait that want() began.
    virtual void settled(const IpAddress& ip, bool resolved) noexcept = 0;
};

/// What a message about a neighbour is worth.
struct Hearsay {
    bool create = false;   // makes an entry where there is none
    bool confirms = false; // answers us: the neighbour hears what we send
    bool overrides = true; // may replace a MAC that we have (RFC 4861 §7.2.5)
};

class Neighbours {
public:
    Neighbours(std::size_t entries_max, Duration reachable, std::uint64_t seed,
               std::minstd_rand& random, Solicitor& solicitor, LayerCounters& counters);
    ~Neighbours();

    /// The MAC of a path that want() or find() gave, or nullptr when it is not good any more.
    [[nodiscard]] const MacAddress* use(std::uint32_t row, std::uint32_t generation,
                                        TimePoint now) noexcept {
        DCHECK(row < entries_max_);
        Entry& entry = entries_[row];
        if (entry.generation != generation) return nullptr;
        entry.used_at = now;
        if (entry.state == State::stale) probe(entry, now);
        return &entry.mac;
    }

    struct Place {
        std::uint32_t row = 0;
        std::uint32_t generation = 0;
    };
    enum class Want : std::uint8_t { usable, unresolved, unreachable };
    /// Looks a next hop up, and begins to ask for it when it is unknown.
    [[nodiscard]] Want want(const IpAddress& ip, TimePoint now, Place& place) noexcept;
    /// Only looks; nothing when its MAC is not known.
    [[nodiscard]] std::optional<Place> find(const IpAddress& ip) const noexcept;

    enum class Heard : std::uint8_t { ignored, same, changed };
    Heard heard(const IpAddress& ip, const MacAddress* mac, Hearsay worth, TimePoint now) noexcept;

    /// Makes everybody who uses this next hop look paths up again.
    void invalidate_paths(const IpAddress& ip) noexcept;

    void on_timer(TimePoint now) noexcept;
    /// Not later than the truth. Asked in every turn, so it is remembered.
    [[nodiscard]] TimePoint deadline() const noexcept { return next_due_; }

private:
    enum class State : std::uint8_t { free, incomplete, reachable, stale, probing, failed };
    struct Entry : base::Timer {
        Entry() noexcept : base::Timer(&Neighbours::timer_fired) {}
        Neighbours* owner = nullptr;
        TimePoint used_at = TimePoint::min(); // by send(); min: never
        TimePoint confirmed_at{};
        std::uint32_t generation =
            1; // never 0, and another one when the MAC is not to be used any more
        MacAddress mac{};
        State state = State::free;
        std::uint8_t asked = 0;
        bool awaited = false; // settled() is owed
    };

    [[nodiscard]] static bool has_mac(State state) noexcept {
        return state == State::reachable || state == State::stale || state == State::probing;
    }
    static void timer_fired(base::Timer& timer) noexcept;
    [[nodiscard]] std::uint32_t row_of(const Entry& entry) const noexcept {
        return static_cast<std::uint32_t>(&entry - entries_.get());
    }
    [[nodiscard]] Entry* take(Duration kept, TimePoint now) noexcept;
    void forget(Entry& entry) noexcept;
    void arm(Entry& entry, TimePoint now, Duration after) noexcept;
    void set_mac(Entry& entry, const MacAddress& mac, bool confirmed, TimePoint now) noexcept;
    void confirm(Entry& entry, TimePoint now) noexcept;
    void probe(Entry& entry, TimePoint now) noexcept;
    void fail(Entry& entry, TimePoint now) noexcept;
    void settle(Entry& entry, bool resolved) noexcept;
    void on_timer(Entry& entry) noexcept;
    static void invalidate(Entry& entry) noexcept {
        if (++entry.generation == 0) entry.generation = 1;
    }

    std::size_t entries_max_;
    Duration reachable_;
    std::minstd_rand& random_;
    Solicitor& solicitor_;
    LayerCounters& counters_;
    AddressIndex index_;
    std::optional<base::TimerWheel>
        wheel_; // from the first `now` on; before entries_: dies after it
    std::unique_ptr<Entry[]> entries_;
    std::vector<std::uint32_t> free_;
    std::uint32_t hand_ = 0; // where the search for one to evict goes on
    TimePoint now_{};        // while timers fire
    TimePoint next_due_ = TimePoint::max();
};

} // namespace dataplane::net::ip
