#include "dataplane/net/stack/deadline_wheel.h"

#include <algorithm>
#include <bit>

namespace dataplane::net::stack {
namespace {

std::uint64_t raw(base::TimePoint time) noexcept {
    return static_cast<std::uint64_t>(time.time_since_epoch().count());
}
base::TimePoint time_of(std::uint64_t bucket, unsigned shift) noexcept {
    return base::TimePoint{base::Duration{static_cast<std::int64_t>(bucket << shift)}};
}

} // namespace

template <unsigned count>
unsigned DeadlineWheel::Level<count>::next_set(unsigned from) const noexcept {
    unsigned word = from / 64;
    std::uint64_t rest = bits[word] & ~std::uint64_t{0} << (from % 64);
    for (unsigned looked = 0; looked <= count / 64; ++looked) {
        if (rest != 0) return word * 64 + static_cast<unsigned>(std::countr_zero(rest));
        word = (word + 1) % (count / 64);
        rest = bits[word];
    }
    return count;
}

DeadlineWheel::DeadlineWheel(base::TimePoint start)
    : levels_(std::make_unique<Levels>()), near_now_(raw(start) >> near_shift),
      far_now_((raw(start) >> far_shift) + 1) {}

void DeadlineWheel::file_near(Node& node, std::uint64_t bucket) noexcept {
    const auto slot = static_cast<unsigned>(bucket % near_count);
    node.link_before(levels_->near.heads[slot]);
    levels_->near.bits[slot / 64] |= std::uint64_t{1} << (slot % 64);
    next_due_ = std::min(next_due_, time_of(bucket, near_shift));
}

void DeadlineWheel::file(Node& node) noexcept {
    constexpr std::uint64_t round_up = (std::uint64_t{1} << near_shift) - 1;
    const std::uint64_t bucket = std::max((raw(node.when_) + round_up) >> near_shift, near_now_);
    const std::uint64_t far_bucket =
        std::min(bucket >> (far_shift - near_shift), far_now_ + far_count - 1);
    if (far_bucket < far_now_) return file_near(node, bucket);
    const auto slot = static_cast<unsigned>(far_bucket % far_count);
    node.link_before(levels_->far.heads[slot]);
    levels_->far.bits[slot / 64] |= std::uint64_t{1} << (slot % 64);
    // A far bucket moves closer one bucket ahead of its time.
    next_due_ = std::min(next_due_, time_of(far_bucket - 1, far_shift));
}

void DeadlineWheel::arm(Node& node, base::TimePoint when) noexcept {
    node.unlink();
    node.when_ = when;
    file(node);
}

DeadlineWheel::Node* DeadlineWheel::take(base::TimePoint now, unsigned& budget) noexcept {
    if (now < next_due_) return nullptr;
    constexpr unsigned ratio_shift = far_shift - near_shift;
    const std::uint64_t near_goal = raw(now) >> near_shift;
    const std::uint64_t far_goal = raw(now) >> far_shift;
    while (budget > 0) {
        // The near level is whole only as far as the far level has been emptied into it.
        const std::uint64_t limit = std::min(near_goal, (far_now_ << ratio_shift) - 1);
        for (;;) {
            const auto slot = static_cast<unsigned>(near_now_ % near_count);
            base::detail::Link& head = levels_->near.heads[slot];
            if (!head.alone()) {
                auto& node = static_cast<Node&>(*head.next);
                node.unlink();
                --budget;
                return &node;
            }
            levels_->near.bits[slot / 64] &= ~(std::uint64_t{1} << (slot % 64));
            if (near_now_ == limit) break;
            const unsigned next = levels_->near.next_set(slot);
            const std::uint64_t ahead =
                next == near_count ? near_count : (next + near_count - slot) % near_count;
            near_now_ = std::min(limit, near_now_ + ahead);
        }
        const bool has_room = ((far_now_ + 1) << ratio_shift) <= near_now_ + near_count;
        if (far_now_ > far_goal + 1 || !has_room) break;
        const auto slot = static_cast<unsigned>(far_now_ % far_count);
        base::detail::Link& head = levels_->far.heads[slot];
        for (; !head.alone() && budget > 0; --budget) {
            auto& node = static_cast<Node&>(*head.next);
            node.unlink();
            constexpr std::uint64_t round_up = (std::uint64_t{1} << near_shift) - 1;
            const std::uint64_t bucket =
                std::max((raw(node.when_) + round_up) >> near_shift, near_now_);
            if (bucket >> ratio_shift <= far_now_) {
                file_near(node, bucket);
            } else {
                file(node); // it had been beyond the range
            }
        }
        if (!head.alone()) break; // out of budget
        levels_->far.bits[slot / 64] &= ~(std::uint64_t{1} << (slot % 64));
        ++far_now_;
    }
    next_due_ = budget == 0 ? now : look_for_next();
    return nullptr;
}

base::TimePoint DeadlineWheel::look_for_next() const noexcept {
    base::TimePoint next = base::TimePoint::max();
    const auto near_slot = static_cast<unsigned>(near_now_ % near_count);
    const unsigned near_next = levels_->near.next_set(near_slot);
    if (near_next != near_count) {
        const std::uint64_t ahead = (near_next + near_count - near_slot) % near_count;
        next = time_of(near_now_ + ahead, near_shift);
    }
    const auto far_slot = static_cast<unsigned>(far_now_ % far_count);
    const unsigned far_next = levels_->far.next_set(far_slot);
    if (far_next != far_count) {
        const std::uint64_t ahead = (far_next + far_count - far_slot) % far_count;
        next = std::min(next, time_of(far_now_ + ahead - 1, far_shift));
    }
    return next;
}

} // namespace dataplane::net::stack
