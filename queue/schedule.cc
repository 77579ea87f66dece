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
