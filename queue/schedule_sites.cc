// schedule_sites.cc: parking places: pauses, what goes ahead, what pulls, and what has to leave in any case.
#include "queue/schedule.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <utility>

namespace queue {
namespace {

constexpr Tick sweep_apart = 60;
constexpr Tick sweep_at_least = 3600;
constexpr Tick trickle_apart = 60;
constexpr std::uint32_t trickle_max = 256;

} // namespace

SiteRef Schedule::site(std::string_view key) {
    auto& part = sites_by_key_[part_of(std::hash<std::string_view>{}(key))];
    if (const auto known = part.find(key); known != part.end()) {
        ++groups_[known->second].users;
        return known->second;
    }
    if (free_groups_.empty()) {
        groups_.grow(groups_.size() + 1);
        free_groups_.push_back(groups_.size() - 1);
    }
    const SiteRef made = free_groups_.back();
    free_groups_.pop_back();
    CHECK(made < number_mask);
    Group& group = groups_[made];
    group = {};
    group.key = key;
    group.in_use = true;
    group.users = 1;
    group.swept = current_;
    part.emplace(group.key, made);
    ++sites_;
    return made;
}

void Schedule::leave(SiteRef site) noexcept {
    CHECK(groups_[site].users > 0);
    --groups_[site].users;
    maybe_forget(site);
}

void Schedule::maybe_forget(SiteRef site) noexcept {
    Group& group = groups_[site];
    if (group.users > 0 || group.paused_until != 0 || group.rings[0].count > 0 ||
        group.rings[1].count > 0) {
        return;
    }
    if (link(sweep_list).next == (group_kind | site)) end_sweep();
    if (group.timer.next != none) take_out(group_kind | site);
    sites_by_key_[part_of(std::hash<std::string_view>{}(group.key))].erase(group.key);
    group.key.clear();
    group.in_use = false;
    free_groups_.push_back(site);
    --sites_;
}

void Schedule::park(EntryRef entry, SiteRef site, Tick wake_by, bool first) {
    CHECK(site >= sites_begin && groups_[site].in_use);
    cancel(entry);
    entries_[entry].when = wake_by;
    push(entry, site, first);
    ++parked_;
    Group& group = groups_[site];
    group.wake_min = std::min(group.wake_min, wake_by);
    if (group.trickle_at == no_tick) {
        group.trickle = 1;
        group.trickle_at = std::max(current_, group.paused_until) + trickle_apart;
    }
    arm(site);
}

void Schedule::pause(SiteRef site, Tick until) {
    Group& group = groups_[site];
    if (group.paused_until == 0) ++paused_;
    group.paused_until = std::max(until, current_ + 1);
    group.trickle = 1;
    group.trickle_at = no_tick;
    arm(site);
}

void Schedule::unpause(SiteRef site) {
    Group& group = groups_[site];
    if (group.paused_until == 0) return;
    group.paused_until = 0;
    --paused_;
    arm(site);
}

/// Sets the group's one timer to the earliest of what it waits for. A sweep under way comes first.
void Schedule::arm(SiteRef site) noexcept {
    Group& group = groups_[site];
    const Node node = group_kind | site;
    if (group.timer.next != none && group.timer_at == no_tick) return; // in sweep_list
    Tick at = no_tick;
    const bool mail = group.rings[0].count + group.rings[1].count > 0;
    if (group.paused_until != 0) {
        at = group.paused_until;
    } else if (mail) {
        at = group.trickle_at;
    }
    if (mail) {
        at = std::min(at, std::max(std::min(group.wake_min, group.swept + sweep_at_least),
                                   group.swept + sweep_apart));
    }
    if (at == group.timer_at && (at == no_tick || group.timer.next != none)) return;
    if (group.timer.next != none) take_out(node);
    group.timer_at = at;
    if (at != no_tick) set_timer(node);
}

void Schedule::on_site_timer(SiteRef site, std::uint32_t& budget) {
    Group& group = groups_[site];
    if (group.paused_until != 0 && group.paused_until <= current_) {
        group.paused_until = 0;
        --paused_;
        group.trickle = 1;
        group.trickle_at = current_; // one goes ahead
    }
    const auto waiting = [&group] { return group.rings[0].count + group.rings[1].count; };
    if (waiting() == 0) {
        group.trickle_at = group.wake_min = no_tick;
        return maybe_forget(site);
    }
    if (group.paused_until == 0 && group.trickle_at <= current_) {
        ++group.users; // it may let go of its last one
        const std::uint32_t count = group.trickle;
        const std::uint32_t next = std::min(group.trickle * 2, trickle_max);
        const std::uint32_t released = release(site, count);
        budget -= std::min(budget - 1, released); // one is the caller's
        group.trickle = next;                     // release() took it for a pull
        --group.users;
        if (waiting() == 0) return maybe_forget(site);
    }
    const bool wakes = group.wake_min <= current_ || group.swept + sweep_at_least <= current_;
    if (wakes && group.swept + sweep_apart <= current_) {
        if (group.timer.next != none) take_out(group_kind | site);
        group.timer_at = no_tick; // says arm() that it stands here
        link_before(group_kind | site, sweep_list);
        return;
    }
    arm(site);
}

std::uint32_t Schedule::release(SiteRef site, std::uint32_t count) {
    Group& group = groups_[site];
    std::uint32_t released = 0;
    ++group.users;
    for (; released < count; ++released) {
        const EntryRef entry = take(group);
        if (entry == no_entry) break;
        push(entry, ready_group, false);
    }
    --group.users;
    group.trickle = 1; // somebody pulls
    const bool mail = group.rings[0].count + group.rings[1].count > 0;
    group.trickle_at = mail ? current_ + trickle_apart : no_tick;
    arm(site);
    maybe_forget(site);
    return released;
}

Schedule::SiteView Schedule::view(SiteRef site) const noexcept {
    const Group& group = groups_[site];
    return {.key = group.key,
            .parked = group.rings[0].count + group.rings[1].count,
            .paused_until = group.paused_until,
            .failures = group.failures,
            .why = group.why};
}

void Schedule::set_failures(SiteRef site, std::uint32_t failures, std::string_view why) {
    constexpr std::size_t why_bytes_max = 256; // there may be half a million sites
    groups_[site].failures = failures;
    groups_[site].why = why.substr(0, why_bytes_max);
}

// ---- sweeps: parked entries whose latest time has come

void Schedule::sweep(std::uint32_t& budget) {
    while (budget > 0 && !empty(sweep_list)) {
        const SiteRef site = link(sweep_list).next & number_mask;
        Group& group = groups_[site];
        if (sweep_buckets_left_ == 0 &&
            sweep_at_ == none) { // begin: the retries' ring is the longer one
            sweep_buckets_left_ = group.rings[0].buckets + group.rings[1].buckets;
            sweep_bucket_ = group.rings[1].turn != none ? group.rings[1].turn : group.rings[0].turn;
            sweep_at_ = sweep_bucket_ == none ? none : buckets_[sweep_bucket_].head.next;
            sweep_wake_min_ = no_tick;
        }
        ++group.users; // it stays while it is looked at
        while (budget > 0 && sweep_bucket_ != none) {
            --budget;
            if (sweep_at_ >= bucket_kind) { // the bucket's end
                if (--sweep_buckets_left_ == 0) {
                    sweep_bucket_ = none;
                    break;
                }
                const Bucket& done = buckets_[sweep_bucket_];
                const bool over = done.share == 1 && done.next == group.rings[1].turn;
                sweep_bucket_ = over ? group.rings[0].turn : done.next;
                sweep_at_ = sweep_bucket_ == none ? none : buckets_[sweep_bucket_].head.next;
                continue;
            }
            const EntryRef entry = sweep_at_;
            sweep_at_ = entries_[entry].link.next;
            if (entries_[entry].when <= current_) {
                ready(entry);
            } else {
                sweep_wake_min_ = std::min(sweep_wake_min_, entries_[entry].when);
            }
        }
        --group.users;
        if (sweep_bucket_ != none) return; // more in the next turn
        group.wake_min = sweep_wake_min_;
        group.swept = current_;
        end_sweep();
        take_out(group_kind | site);
        arm(site);
        maybe_forget(site);
    }
}

void Schedule::end_sweep() noexcept {
    sweep_bucket_ = sweep_at_ = none;
    sweep_buckets_left_ = 0;
}

} // namespace queue
