#include "queue/schedule.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace queue {
namespace {

constexpr unsigned slot_bits = 8;
constexpr std::uint32_t slot_mask = 255;

constexpr std::uint64_t cost_unit = 4096; // what a message costs besides its bytes
constexpr std::uint16_t cost_max = 64;
constexpr std::uint16_t quantum = 8; // 32 KiB a turn
constexpr std::uint8_t shares_turns = 4;
constexpr std::uint8_t shares_retry_turn = 3; // the last of four is the retries'
constexpr std::uint32_t wide_from = 16; // buckets of a group that are still searched one by one
constexpr Tick sweep_apart = 60;
constexpr Tick sweep_at_least = 3600;
constexpr Tick trickle_apart = 60;
constexpr std::uint32_t trickle_max = 256;

[[nodiscard]] std::size_t part_of(std::size_t hash) noexcept {
    return (hash * 0x9e3779b97f4a7c15ULL) >> 58;
}
[[nodiscard]] std::uint64_t wide_key(SiteRef group, std::uint32_t tenant, unsigned share) noexcept {
    return std::uint64_t{group} << 25 | std::uint64_t{tenant} << 1 | share;
}

} // namespace

Schedule::Schedule(Tick now) : current_(now), target_(now) {
    for (Node i = 0; i < wheel_.size(); ++i)
        wheel_[i] = {wheel_kind | i, wheel_kind | i};
    groups_.grow(sites_begin);
    for (SiteRef group = 0; group < sites_begin; ++group)
        groups_[group].in_use = true;
}

// ---- lists

Schedule::Link& Schedule::link(Node node) noexcept {
    switch (node >> kind_shift) {
    case 0:
        return entries_[node].link;
    case 1:
        return wheel_[node & number_mask];
    case 2:
        return buckets_[node & number_mask].head;
    default:
        return groups_[node & number_mask].timer;
    }
}

void Schedule::link_before(Node node, Node position) noexcept {
    Link& after = link(position);
    link(node) = {position, after.prev};
    link(after.prev).next = node;
    after.prev = node;
}

void Schedule::take_out(Node node) noexcept {
    Link& own = link(node);
    link(own.next).prev = own.prev;
    link(own.prev).next = own.next;
    own = {};
}

// ---- the wheel

Tick Schedule::when_of(Node node) noexcept {
    return node >> kind_shift == 0 ? entries_[node].when : groups_[node & number_mask].timer_at;
}

void Schedule::set_timer(Node node) noexcept {
    const Tick when = std::max(when_of(node), current_ + 1);
    const std::uint32_t ahead = when - current_;
    unsigned level = 0;
    while (level + 1 < level_count && (ahead >> (slot_bits * (level + 1))) != 0)
        ++level;
    const std::uint32_t slot = (when >> (slot_bits * level)) & slot_mask;
    link_before(node, wheel_kind | (level * slot_count + slot));
    bitmaps_[level][slot / 64] |= std::uint64_t{1} << (slot % 64);
}

/// Moves a whole list of the wheel to those that are due, or have to be looked at again, at once.
void Schedule::splice_due(Node list) noexcept {
    const std::uint32_t number = list & number_mask;
    bitmaps_[number / slot_count][number % slot_count / 64] &= ~(std::uint64_t{1} << (number % 64));
    if (empty(list)) return;
    Link& from = link(list);
    Link& to = link(due_list);
    link(from.next).prev = to.prev;
    link(to.prev).next = from.next;
    link(from.prev).next = due_list;
    to.prev = from.prev;
    from = {list, list};
}

Tick Schedule::next_slot_due() noexcept {
    std::uint64_t best = no_tick;
    for (unsigned level = 0; level < level_count; ++level) {
        const std::uint64_t base = current_ >> (slot_bits * level);
        auto& bitmap = bitmaps_[level];
        for (std::uint64_t step = 1; step <= slot_count;) {
            const auto slot = static_cast<unsigned>((base + step) & slot_mask);
            const std::uint64_t word = bitmap[slot / 64] >> (slot % 64);
            if (word == 0) {
                step += 64 - slot % 64;
                continue;
            }
            const auto skip = static_cast<unsigned>(std::countr_zero(word));
            const unsigned found = slot + skip;
            step += skip;
            if (step > slot_count) break;
            if (empty(wheel_kind | (level * slot_count + found))) { // all of it was cancelled
                bitmap[found / 64] &= ~(std::uint64_t{1} << (found % 64));
                continue;
            }
            best = std::min(best, (base + step) << (slot_bits * level));
            break;
        }
    }
    return static_cast<Tick>(best);
}

Tick Schedule::next_due() noexcept {
    return behind() ? current_ : next_slot_due();
}

bool Schedule::behind() const noexcept {
    return current_ < target_ || wheel_[due_list & number_mask].next != due_list ||
           wheel_[sweep_list & number_mask].next != sweep_list;
}

void Schedule::advance(Tick now, std::uint32_t budget) {
    target_ = std::max(target_, now);
    work_off(budget);
    while (budget > 0 && empty(due_list) && current_ < target_) {
        const Tick next = next_slot_due();
        if (next > target_) {
            current_ = target_;
            break;
        }
        current_ = next;
        for (unsigned level = level_count - 1; level > 0; --level) {
            const unsigned shift = slot_bits * level;
            if ((current_ & ((1U << shift) - 1)) != 0) continue;
            splice_due(wheel_kind | (level * slot_count + ((current_ >> shift) & slot_mask)));
        }
        splice_due(wheel_kind | (current_ & slot_mask));
        work_off(budget);
    }
    sweep(budget);
}

void Schedule::work_off(std::uint32_t& budget) {
    for (; budget > 0 && !empty(due_list); --budget) {
        const Node node = link(due_list).next;
        take_out(node);
        if (when_of(node) > current_) {
            set_timer(node);
        } else if (node >> kind_shift == 0) {
            entries_[node].list = none;
            --timed_;
            push(node, ready_group, false);
        } else {
            groups_[node & number_mask].timer_at = no_tick;
            on_site_timer(node & number_mask, budget);
        }
    }
}

// ---- entries

void Schedule::admit(EntryRef entry, TextId tenant, std::uint64_t bytes, Share share) {
    CHECK(entry < wheel_kind);
    entries_.grow(entry + 1);
    Entry& made = entries_[entry];
    CHECK(made.list == none);
    made.tenant = tenant & 0xFFFFFF;
    made.cost =
        static_cast<std::uint8_t>(std::min<std::uint64_t>(1 + bytes / cost_unit, cost_max)) & 0x7F;
    made.retry = share == Share::retry;
}

void Schedule::set_share(EntryRef entry, Share share) noexcept {
    Entry& known = entries_[entry];
    CHECK(known.list == none || known.list == on_wheel); // a bucket is of one share
    known.retry = share == Share::retry;
}

void Schedule::schedule(EntryRef entry, Tick due) {
    cancel(entry);
    entries_[entry].when = due;
    entries_[entry].list = on_wheel;
    ++timed_;
    set_timer(entry);
}

void Schedule::ready(EntryRef entry) {
    cancel(entry);
    push(entry, ready_group, false);
}

void Schedule::hold(EntryRef entry) {
    cancel(entry);
    push(entry, held_group, false);
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

void Schedule::cancel(EntryRef entry) noexcept {
    Entry& known = entries_[entry];
    if (known.list == none) return;
    if (sweep_at_ == entry) sweep_at_ = known.link.next;
    take_out(entry);
    const std::uint32_t list = std::exchange(known.list, none);
    if (list == on_wheel) {
        --timed_;
        return;
    }
    Bucket& bucket = buckets_[list];
    const SiteRef site = bucket.group;
    --groups_[site].rings[bucket.share].count;
    if (--bucket.count == 0) retire_bucket(list);
    if (site < sites_begin) return;
    --parked_;
    maybe_forget(site);
}

Schedule::State Schedule::state(EntryRef entry) const noexcept {
    const std::uint32_t list = entries_[entry].list;
    if (list == none) return State::none;
    if (list == on_wheel) return State::timed;
    const SiteRef group = buckets_[list].group;
    return group == ready_group ? State::ready : group == held_group ? State::held : State::parked;
}

SiteRef Schedule::site_of(EntryRef entry) const noexcept {
    const std::uint32_t list = entries_[entry].list;
    if (list == none || list == on_wheel || buckets_[list].group < sites_begin) return no_site;
    return buckets_[list].group;
}

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

// ---- turns

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

// ---- sites

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

// ---- figures

Schedule::Counts Schedule::counts() const noexcept {
    const auto& ready = groups_[ready_group].rings;
    const auto& held = groups_[held_group].rings;
    return {.timed = timed_,
            .ready_fresh = ready[0].count,
            .ready_retry = ready[1].count,
            .held = held[0].count + held[1].count,
            .parked = parked_,
            .sites = sites_,
            .paused_sites = paused_};
}

std::size_t Schedule::memory_bytes() const noexcept {
    std::size_t total = entries_.bytes() + buckets_.bytes() + groups_.bytes();
    for (const auto& part : sites_by_key_)
        total += part.size() * 48 + part.bucket_count() * 8;
    return total;
}

} // namespace queue
