#include "dataplane/delivery/site_ledger.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace dataplane::delivery {

bool SiteLedger::Entry::open_connection(std::uint32_t limit) noexcept {
    std::uint32_t open = connections_.load(std::memory_order_relaxed);
    do {
        if (open >= limit) return false;
    } while (!connections_.compare_exchange_weak(open, open + 1, std::memory_order_relaxed));
    return true;
}

void SiteLedger::Entry::close_connection() noexcept {
    const std::uint32_t before = connections_.fetch_sub(1, std::memory_order_relaxed);
    CHECK(before > 0);
}

void SiteLedger::Entry::change_want(Want from, Want to) noexcept {
    const int wanting = (to != Want::nothing) - (from != Want::nothing);
    const int short_of_share = (to == Want::its_share) - (from == Want::its_share);
    if (wanting != 0) wanting_.fetch_add(wanting, std::memory_order_relaxed);
    if (short_of_share != 0) short_of_share_.fetch_add(short_of_share, std::memory_order_relaxed);
}

base::TimePoint SiteLedger::Entry::next_message(base::TimePoint now,
                                                std::uint32_t per_second) noexcept {
    CHECK(per_second > 0);
    const std::int64_t gap = 1'000'000'000LL / per_second;
    const std::int64_t oldest =
        (now.time_since_epoch() - std::min(rate_slack, base::Duration{gap})).count();
    std::int64_t place = next_place_ns_.load(std::memory_order_relaxed);
    std::int64_t mine = 0;
    do {
        mine = std::max(place, oldest);
    } while (!next_place_ns_.compare_exchange_weak(place, mine + gap, std::memory_order_relaxed));
    return base::TimePoint{base::Duration{mine}};
}

void SiteLedger::Hold::reset() noexcept {
    Entry* entry = std::exchange(entry_, nullptr);
    if (entry == nullptr) return;
    // The key stays: attach() finds the entry again or gives a place without users to another name.
    // The count of connections is then 0, for each was opened through somebody's hold.
    const std::uint32_t before = entry->users_.fetch_sub(1, std::memory_order_release);
    CHECK(before > 0);
}

SiteLedger::SiteLedger(std::size_t bucket_count)
    : buckets_(std::make_unique<Bucket[]>(std::bit_ceil(bucket_count))),
      mask_(std::bit_ceil(bucket_count) - 1) {}

SiteLedger::Hold SiteLedger::attach(std::string_view name) noexcept {
    const std::uint64_t key = std::max<std::uint64_t>(1, std::hash<std::string_view>{}(name));
    Bucket& bucket = buckets_[key & mask_];
    // A mark, not a lock: nobody waits for it. Two shards that make one entry at the same instant
    // must not make two, and lanes are made seldom.
    if (bucket.busy.exchange(true, std::memory_order_acquire)) return Hold{};

    Entry* found = nullptr;
    Entry* vacant = nullptr;
    for (Entry& entry : bucket.slots) {
        if (entry.key_.load(std::memory_order_relaxed) == key) found = &entry;
        if (vacant == nullptr && entry.users_.load(std::memory_order_acquire) == 0) vacant = &entry;
    }
    if (found == nullptr && vacant != nullptr) {
        vacant->key_.store(key, std::memory_order_relaxed);
        CHECK(vacant->connections_.load(std::memory_order_relaxed) == 0);
        vacant->wanting_.store(0, std::memory_order_relaxed);
        vacant->short_of_share_.store(0, std::memory_order_relaxed);
        vacant->next_place_ns_.store(0, std::memory_order_relaxed);
        found = vacant;
    }
    if (found != nullptr) found->users_.fetch_add(1, std::memory_order_relaxed);
    bucket.busy.store(false, std::memory_order_release);
    return Hold{found};
}

} // namespace dataplane::delivery
