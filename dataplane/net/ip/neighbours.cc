#include "dataplane/net/ip/neighbours.h"

#include <algorithm>

namespace dataplane::net::ip {

Neighbours::Neighbours(std::size_t entries_max, Duration reachable, std::uint64_t seed,
                       std::minstd_rand& random, Solicitor& solicitor, LayerCounters& counters)
    : entries_max_(std::max<std::size_t>(entries_max, 1)), reachable_(reachable), random_(random),
      solicitor_(solicitor), counters_(counters), index_(entries_max_, seed),
      entries_(std::make_unique<Entry[]>(entries_max_)) {
    free_.reserve(entries_max_);
    for (std::size_t row = entries_max_; row-- > 0;) {
        entries_[row].owner = this;
        free_.push_back(static_cast<std::uint32_t>(row));
    }
}

Neighbours::~Neighbours() = default;

Neighbours::Want Neighbours::want(const IpAddress& ip, TimePoint now, Place& place) noexcept {
    const std::uint32_t row = index_.find(ip);
    if (row != AddressIndex::none) {
        Entry& entry = entries_[row];
        entry.used_at = now;
        if (entry.state == State::failed) return Want::unreachable;
        if (entry.state == State::incomplete) {
            entry.awaited = true;
            return Want::unresolved;
        }
        if (entry.state == State::stale) probe(entry, now);
        place = {row, entry.generation};
        return Want::usable;
    }
    Entry* entry = take(neighbour_kept_for_use, now);
    if (entry == nullptr) return Want::unreachable;
    index_.insert(ip, row_of(*entry));
    entry->state = State::incomplete;
    entry->used_at = now;
    entry->awaited = true;
    entry->asked = 1;
    arm(*entry, now, neighbour_ask_interval);
    solicitor_.solicit(ip, nullptr);
    return Want::unresolved;
}

std::optional<Neighbours::Place> Neighbours::find(const IpAddress& ip) const noexcept {
    const std::uint32_t row = index_.find(ip);
    if (row == AddressIndex::none || !has_mac(entries_[row].state)) return std::nullopt;
    return Place{row, entries_[row].generation};
}

Neighbours::Heard Neighbours::heard(const IpAddress& ip, const MacAddress* mac, Hearsay worth,
                                    TimePoint now) noexcept {
    const std::uint32_t row = index_.find(ip);
    if (row == AddressIndex::none) {
        if (!worth.create || mac == nullptr) return Heard::ignored;
        Entry* entry = take(neighbour_kept_for_hearsay, now);
        if (entry == nullptr) return Heard::ignored;
        index_.insert(ip, row_of(*entry));
        set_mac(*entry, *mac, worth.confirms, now);
        return Heard::changed;
    }
    Entry& entry = entries_[row];
    if (!has_mac(entry.state)) {
        if (mac == nullptr) return Heard::ignored;
        set_mac(entry, *mac, worth.confirms, now);
        settle(entry, true);
        return Heard::changed;
    }
    if (mac == nullptr || *mac == entry.mac) {
        if (worth.confirms) confirm(entry, now);
        return Heard::same;
    }
    if (!worth.overrides) { // RFC 4861 §7.2.5: doubtful now, but not replaced
        if (entry.state == State::reachable) {
            entry.state = State::stale;
            entry.cancel();
        }
        return Heard::ignored;
    }
    set_mac(entry, *mac, worth.confirms, now);
    return Heard::changed;
}

void Neighbours::invalidate_paths(const IpAddress& ip) noexcept {
    const std::uint32_t row = index_.find(ip);
    if (row != AddressIndex::none) invalidate(entries_[row]);
}

Neighbours::Entry* Neighbours::take(Duration kept, TimePoint now) noexcept {
    if (free_.empty()) {
        const std::size_t steps = std::min<std::size_t>(neighbour_evict_steps, entries_max_);
        for (std::size_t step = 0; step < steps && free_.empty(); ++step) {
            Entry& entry = entries_[hand_];
            hand_ = hand_ + 1 == entries_max_ ? 0 : hand_ + 1;
            // What is being asked for or probed is in use, and settles within seconds.
            if (entry.state == State::incomplete || entry.state == State::probing) continue;
            if (entry.used_at != TimePoint::min() && entry.used_at + kept > now) continue;
            forget(entry);
        }
        if (free_.empty()) {
            ++counters_.neighbours_full;
            return nullptr;
        }
    }
    Entry& entry = entries_[free_.back()];
    free_.pop_back();
    return &entry;
}

void Neighbours::forget(Entry& entry) noexcept {
    index_.erase(row_of(entry));
    entry.cancel();
    invalidate(entry);
    entry.state = State::free;
    entry.used_at = TimePoint::min();
    entry.awaited = false;
    free_.push_back(row_of(entry));
}

void Neighbours::arm(Entry& entry, TimePoint now, Duration after) noexcept {
    if (!wheel_) wheel_.emplace(now, neighbour_tick);
    wheel_->arm(entry, now + after);
    next_due_ = std::min(next_due_, now + after);
}

void Neighbours::set_mac(Entry& entry, const MacAddress& mac, bool confirmed,
                         TimePoint now) noexcept {
    ++counters_.neighbours_learned;
    entry.mac = mac;
    entry.asked = 0;
    if (confirmed) {
        confirm(entry, now);
    } else {
        entry.state = State::stale;
        entry.cancel();
    }
}

void Neighbours::confirm(Entry& entry, TimePoint now) noexcept {
    entry.state = State::reachable;
    entry.confirmed_at = now;
    entry.asked = 0;
    // Between 3/4 and 7/8 of the time it is good for, so that the answer is there before its end,
    // and shards which learned it together do not ask together.
    const auto jitter =
        Duration{static_cast<std::int64_t>(static_cast<double>(random_() - random_.min()) /
                                           static_cast<double>(random_.max() - random_.min()) *
                                           static_cast<double>((reachable_ / 8).count()))};
    arm(entry, now, reachable_ * 3 / 4 + jitter);
}

void Neighbours::probe(Entry& entry, TimePoint now) noexcept {
    entry.state = State::probing;
    entry.asked = 1;
    arm(entry, now, neighbour_ask_interval);
    solicitor_.solicit(index_.key(row_of(entry)), &entry.mac);
}

void Neighbours::fail(Entry& entry, TimePoint now) noexcept {
    ++counters_.neighbours_failed;
    entry.state = State::failed;
    invalidate(entry);
    arm(entry, now, neighbour_hold);
    settle(entry, false);
}

void Neighbours::settle(Entry& entry, bool resolved) noexcept {
    if (!std::exchange(entry.awaited, false)) return;
    const IpAddress ip = index_.key(row_of(entry)); // a copy: whoever is told may send at once
    solicitor_.settled(ip, resolved);
}

void Neighbours::timer_fired(base::Timer& timer) noexcept {
    auto& entry = static_cast<Entry&>(timer);
    entry.owner->on_timer(entry);
}

void Neighbours::on_timer(Entry& entry) noexcept {
    switch (entry.state) {
    case State::free:
    case State::stale:
        CHECK(false);
        return; // neither has a timer
    case State::incomplete:
        if (entry.asked >= neighbour_asks) {
            fail(entry, now_);
            return;
        }
        ++entry.asked;
        arm(entry, now_, neighbour_ask_interval);
        solicitor_.solicit(index_.key(row_of(entry)), nullptr);
        return;
    case State::reachable:
        if (entry.used_at >= entry.confirmed_at) {
            probe(entry, now_);
        } else {
            entry.state = State::stale;
        }
        return;
    case State::probing:
        if (entry.asked >= neighbour_probes) {
            fail(entry, now_);
            return;
        }
        ++entry.asked;
        arm(entry, now_, neighbour_ask_interval);
        solicitor_.solicit(index_.key(row_of(entry)),
                           entry.asked <= neighbour_asks ? &entry.mac : nullptr);
        return;
    case State::failed:
        forget(entry);
        return;
    }
}

void Neighbours::on_timer(TimePoint now) noexcept {
    if (!wheel_) return;
    now_ = now;
    wheel_->advance(now);
    next_due_ = wheel_->next_due();
}

} // namespace dataplane::net::ip
