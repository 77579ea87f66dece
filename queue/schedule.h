// schedule.h: when each queued message is next handed out: timers, parked sites, fair turns.
//
// Scope      Entries are numbers: slots of the queue's index. Each is in one place at most: on the timer
//            wheel (its own back-off), parked at a site (no timer of its own), ready, or held. Why a
//            message waits, and how long, is delivery's decision; that a million that wait for one
//            dead site cost one timer, and come back without a herd, is this file's.
// Owns       20 bytes per entry, the wheel (ticks of a second, four levels of 256), the sites' parking
//            places, the tenants' turns.
// Threading  Bound to one shard. Reads no clock: advance() says what time it is.
// Failure    None. Every call but advance() and sweeping is O(1); those stop at their budget and go on
//            at the next call.
//
// Parking. A site that takes nothing now is paused: its group holds one timer. When that fires one
// message goes ahead; whoever delivers then pulls more with release() as the site takes them, and says
// pause() when it does not. Should nobody pull (the mail of that site goes another way by now), the
// group lets go of 1, 2, 4, ... by itself, each minute. Parked entries have a time at which they are
// handed out in any case, for their expiry or a notice of delay: sweeps find those, within a minute or
// so.
//
// Turns. Where mail of several tenants waits for one thing, they take turns by deficit round robin over
// bytes. Fresh mail (never attempted) and retries wait apart and share 3 to 1 while there is both.
#pragma once

#include "queue/chunked_array.h"
#include "queue/entry.h"
#include "queue/text_table.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace queue {

using SiteRef = std::uint32_t; // of a parking place
using Tick = std::uint32_t;    // seconds

inline constexpr SiteRef no_site = std::numeric_limits<SiteRef>::max();
inline constexpr Tick no_tick = std::numeric_limits<Tick>::max();

class Schedule {
public:
    enum class State : std::uint8_t { none, timed, ready, held, parked };
    enum class Share : std::uint8_t { fresh, retry };

    struct Counts {
        std::uint64_t timed = 0, ready_fresh = 0, ready_retry = 0, held = 0, parked = 0;
        std::uint32_t sites = 0, paused_sites = 0; // sites: parking places that exist
    };
    struct SiteView {
        std::string_view key;
        std::uint64_t parked = 0;
        Tick paused_until = 0; // 0: not paused
        std::uint32_t failures = 0;
        std::string_view why; // the last of them
    };

    explicit Schedule(Tick now);
    Schedule(const Schedule&) = delete;
    Schedule& operator=(const Schedule&) = delete;

    /// A new entry, in no place yet. `bytes` weighs it in its tenant's turns.
    /// \param tenant  any number that is the tenant's own while it has entries here; 24 bits count
    void admit(EntryRef entry, TextId tenant, std::uint64_t bytes, Share share);
    void set_share(EntryRef entry, Share share) noexcept;

    // Each takes the entry out of where it is first.
    void schedule(EntryRef entry, Tick due);
    void ready(EntryRef entry);
    void hold(EntryRef entry);
    /// \param wake_by  when it is handed out in any case
    /// \param first    in front of its tenant's: it was there already and came back untried
    void park(EntryRef entry, SiteRef site, Tick wake_by, bool first = false);
    void cancel(EntryRef entry) noexcept;
    [[nodiscard]] State state(EntryRef entry) const noexcept;
    /// Where it is parked, or no_site.
    [[nodiscard]] SiteRef site_of(EntryRef entry) const noexcept;
    /// Of a timed one its due time, of a parked one its latest.
    [[nodiscard]] Tick when(EntryRef entry) const noexcept { return entries_[entry].when; }

    /// The next ready one of this share, by turns of the tenants; no_entry when there is none.
    [[nodiscard]] EntryRef take_ready(Share share) noexcept;
    /// Up to `count` held ones, in no particular order, become ready again.
    std::uint32_t release_held(std::uint32_t count);

    /// The parking place of this name, made when it is new. It stays while mail is parked there, while it
    /// is paused, and until each site() has had its leave().
    [[nodiscard]] SiteRef site(std::string_view key);
    void leave(SiteRef site) noexcept;
    /// Nothing of this site is handed out before; then one message goes ahead.
    void pause(SiteRef site, Tick until);
    void unpause(SiteRef site);
    /// Up to `count` of what is parked there becomes ready. Returns how many.
    std::uint32_t release(SiteRef site, std::uint32_t count);
    [[nodiscard]] SiteView view(SiteRef site) const noexcept;
    void set_failures(SiteRef site, std::uint32_t failures, std::string_view why);
    /// Sites are numbered below this; view() of one that is not in use has an empty key.
    [[nodiscard]] SiteRef sites_end() const noexcept { return groups_.size(); }
    static constexpr SiteRef sites_begin = 2;

    /// Makes ready what is due, looking at no more than `budget` entries.
    void advance(Tick now, std::uint32_t budget);
    /// Whether advance() stopped at its budget: call it again in the next turn.
    [[nodiscard]] bool behind() const noexcept;
    /// A lower bound of when advance() has something to do; no_tick when nothing waits.
    [[nodiscard]] Tick next_due() noexcept;
    [[nodiscard]] Tick now() const noexcept { return current_; }

    [[nodiscard]] Counts counts() const noexcept;
    [[nodiscard]] std::size_t memory_bytes() const noexcept;

private:
    // Everything that stands in a list has a number of 32 bits; the upper two say what it is.
    using Node = std::uint32_t;
    static constexpr unsigned kind_shift = 30;
    static constexpr Node number_mask = (1U << kind_shift) - 1;
    static constexpr Node wheel_kind = 1U << kind_shift, bucket_kind = 2U << kind_shift,
                          group_kind = 3U << kind_shift;
    static constexpr unsigned level_count = 4, slot_count = 256;
    static constexpr Node due_list = wheel_kind | (level_count * slot_count);
    static constexpr Node sweep_list = due_list + 1;
    static constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
    static constexpr std::uint32_t on_wheel = none - 1;
    static constexpr SiteRef ready_group = 0, held_group = 1;

    struct Link {
        Node next = none, prev = none;
    };
    struct Entry {
        Link link;
        Tick when = 0;
        std::uint32_t list = none; // a bucket's number, or on_wheel
        std::uint32_t tenant : 24 = 0;
        std::uint32_t cost : 7 = 1;
        std::uint32_t retry : 1 = 0;
    };
    static_assert(sizeof(Entry) == 20);
    struct Bucket { // one tenant's entries in one group and share
        Link head;
        std::uint32_t group = none;
        std::uint32_t count = 0;
        std::uint32_t next = none, prev = none; // among the group's
        std::uint32_t tenant = 0;
        std::uint16_t deficit = 0;
        std::uint8_t share = 0;
        bool indexed = false; // found by wide_
    };
    struct Ring {
        std::uint32_t turn = none; // the bucket whose turn it is
        std::uint32_t buckets = 0;
        std::uint64_t count = 0;
    };
    struct Group {
        Link timer;
        Tick timer_at = no_tick;
        std::array<Ring, 2> rings;
        Tick paused_until = 0;
        Tick wake_min = no_tick; // no parked entry wants to wake before
        Tick swept = 0;
        Tick trickle_at = no_tick; // when the group lets go of mail by itself
        std::uint32_t trickle = 1;
        std::uint32_t failures = 0;
        std::uint32_t users = 0;
        std::uint8_t turn = 0; // of the shares
        bool in_use = false;
        std::string key, why;
    };

    [[nodiscard]] Link& link(Node node) noexcept;
    void link_before(Node node, Node position) noexcept;
    void take_out(Node node) noexcept;
    [[nodiscard]] bool empty(Node list) noexcept { return link(list).next == list; }
    [[nodiscard]] Tick when_of(Node node) noexcept;

    void set_timer(Node node) noexcept;
    void splice_due(Node list) noexcept;
    [[nodiscard]] Tick next_slot_due() noexcept;
    void work_off(std::uint32_t& budget);
    void arm(SiteRef site) noexcept;
    void on_site_timer(SiteRef site, std::uint32_t& budget);
    void sweep(std::uint32_t& budget);
    void end_sweep() noexcept;

    [[nodiscard]] std::uint32_t bucket_of(SiteRef group, std::uint32_t tenant, unsigned share);
    void retire_bucket(std::uint32_t bucket) noexcept;
    void push(EntryRef entry, SiteRef group, bool first);
    [[nodiscard]] EntryRef front(Ring& ring) noexcept;
    [[nodiscard]] EntryRef take(Group& group) noexcept;
    void maybe_forget(SiteRef site) noexcept;

    ChunkedArray<Entry> entries_;
    ChunkedArray<Bucket> buckets_;
    ChunkedArray<Group> groups_;
    std::vector<std::uint32_t> free_buckets_;
    std::vector<SiteRef> free_groups_;
    std::array<Link, level_count * slot_count + 2> wheel_;
    std::array<std::array<std::uint64_t, slot_count / 64>, level_count> bitmaps_{};
    Tick current_, target_; // what is worked off, and what has been asked for

    // In parts, so that no growth of one is felt.
    static constexpr std::size_t map_parts = 64;
    [[nodiscard]] static std::size_t part_of(std::size_t hash) noexcept {
        return (hash * 0x9e3779b97f4a7c15ULL) >> 58;
    }
    std::array<std::unordered_map<std::string_view, SiteRef>, map_parts> sites_by_key_;
    std::array<std::unordered_map<std::uint64_t, std::uint32_t>, map_parts> wide_;

    // The sweep that is under way, of the first site in sweep_list.
    std::uint32_t sweep_bucket_ = none;
    Node sweep_at_ = none;
    std::uint32_t sweep_buckets_left_ = 0;
    Tick sweep_wake_min_ = no_tick;

    std::uint64_t timed_ = 0, parked_ = 0;
    std::uint32_t sites_ = 0, paused_ = 0;
};

} // namespace queue
