// schedule_turns.cc: what is ready, held or parked stands by tenant, and tenants take turns.
#include "queue/schedule.h"

#include "dataplane/base/check.h"

#include <algorithm>

namespace queue {
namespace {

constexpr std::uint16_t quantum = 8; // 32 KiB a turn
constexpr std::uint8_t shares_turns = 4;
constexpr std::uint8_t shares_retry_turn = 3; // the last of four is the retries'
constexpr std::uint32_t wide_from = 16; // buckets of a group that are still searched one by one

[[nodiscard]] std::uint64_t wide_key(SiteRef group, std::uint32_t tenant, unsigned share) noexcept {
    return std::uint64_t{group} << 25 | std::uint64_t{tenant} << 1 | share;
}

} // namespace

EntryRef Schedule::take_ready(Share share) noexcept {
    const EntryRef entry = front(groups_[ready_group].rings[share == Share::retry ? 1 : 0]);
    if (entry != no_entry) cancel(entry);
    return entry;
}

std::uint32_t Schedule::release_held(std::uint32_t count) {
    std::uint32_t released = 0;
    for (; released < count; ++released) {
        const EntryRef entry = take(groups_[held_group]);
        if (entry == no_entry) break;
        ready(entry);
    }
    return released;
}

std::uint32_t Schedule::bucket_of(SiteRef site, std::uint32_t tenant, unsigned share) {
    Group& group = groups_[site];
    Ring& ring = group.rings[share];
    if (ring.buckets > wide_from) {
        auto& part = wide_[part_of(wide_key(site, tenant, share))];
        const auto known = part.find(wide_key(site, tenant, share));
        if (known != part.end()) return known->second;
    }
    std::uint32_t found = ring.turn;
    for (std::uint32_t i = 0; i < std::min(ring.buckets, wide_from + 1); ++i) {
        if (buckets_[found].tenant == tenant) return found;
        found = buckets_[found].next;
    }
    if (free_buckets_.empty()) {
        buckets_.grow(buckets_.size() + 1);
        free_buckets_.push_back(buckets_.size() - 1);
    }
    const std::uint32_t made = free_buckets_.back();
    free_buckets_.pop_back();
    Bucket& bucket = buckets_[made];
    bucket = {};
    bucket.head = {bucket_kind | made, bucket_kind | made};
    bucket.group = site;
    bucket.tenant = tenant;
    bucket.share = static_cast<std::uint8_t>(share);
    if (ring.turn == none) {
        bucket.next = bucket.prev = made;
        ring.turn = made;
    } else { // behind all others: before the one whose turn it is
        Bucket& current = buckets_[ring.turn];
        bucket.next = ring.turn;
        bucket.prev = current.prev;
        buckets_[current.prev].next = made;
        current.prev = made;
    }
    ++ring.buckets;
    // Those made while a ring is short are found by walking its first ones; later ones by the map. A
    // ring that shrinks and grows again may have either anywhere: so all that go beyond are indexed, and
    // the walk above covers what is not.
    if (ring.buckets > wide_from) {
        std::uint32_t each = ring.turn;
        for (std::uint32_t i = 0; i < ring.buckets && !buckets_[each].indexed;
             ++i, each = buckets_[each].prev) {
            const std::uint64_t key = wide_key(site, buckets_[each].tenant, share);
            wide_[part_of(key)].emplace(key, each);
            buckets_[each].indexed = true;
        }
        if (!buckets_[made].indexed) {
            const std::uint64_t key = wide_key(site, tenant, share);
            wide_[part_of(key)].emplace(key, made);
            buckets_[made].indexed = true;
        }
    }
    return made;
}

void Schedule::retire_bucket(std::uint32_t number) noexcept {
    Bucket& bucket = buckets_[number];
    Ring& ring = groups_[bucket.group].rings[bucket.share];
    if (bucket.indexed) {
        const std::uint64_t key = wide_key(bucket.group, bucket.tenant, bucket.share);
        wide_[part_of(key)].erase(key);
    }
    if (sweep_bucket_ == number) {
        sweep_bucket_ = bucket.next == number ? none : bucket.next;
        sweep_at_ = sweep_bucket_ == none ? none : buckets_[sweep_bucket_].head.next;
    }
    if (bucket.next == number) {
        ring.turn = none;
    } else {
        buckets_[bucket.next].prev = bucket.prev;
        buckets_[bucket.prev].next = bucket.next;
        if (ring.turn == number) ring.turn = bucket.next;
    }
    --ring.buckets;
    bucket.group = none;
    free_buckets_.push_back(number);
}

void Schedule::push(EntryRef entry, SiteRef site, bool first) {
    Entry& pushed = entries_[entry];
    const unsigned share = pushed.retry;
    const std::uint32_t number = bucket_of(site, pushed.tenant, share);
    Bucket& bucket = buckets_[number];
    link_before(entry, first ? bucket.head.next : bucket_kind | number);
    pushed.list = number;
    ++bucket.count;
    ++groups_[site].rings[share].count;
}

/// The entry whose turn it is. Taking it is the caller's, and pays for it.
EntryRef Schedule::front(Ring& ring) noexcept {
    if (ring.turn == none) return no_entry;
    for (;;) {
        Bucket& bucket = buckets_[ring.turn];
        const EntryRef entry = bucket.head.next;
        const auto cost = static_cast<std::uint16_t>(entries_[entry].cost);
        if (bucket.deficit >= cost) {
            bucket.deficit = static_cast<std::uint16_t>(bucket.deficit - cost);
            return entry;
        }
        bucket.deficit = static_cast<std::uint16_t>(bucket.deficit + quantum);
        ring.turn = bucket.next;
    }
}

EntryRef Schedule::take(Group& group) noexcept {
    group.turn = static_cast<std::uint8_t>((group.turn + 1) % shares_turns);
    const unsigned wanted = group.turn == shares_retry_turn ? 1 : 0;
    const unsigned share = group.rings[wanted].count > 0 ? wanted : 1 - wanted;
    const EntryRef entry = front(group.rings[share]);
    if (entry != no_entry) cancel(entry);
    return entry;
}

} // namespace queue
