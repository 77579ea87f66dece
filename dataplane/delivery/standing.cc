// standing.cc: what an operator has ordered, applied to the mail that comes by.
#include "dataplane/delivery/dispatcher_parts.h"

#include <algorithm>

namespace dataplane::delivery {

using smtp::Outcome;

bool Dispatcher::suspended(const queue::Message& message) const {
    const base::WallTime now = loop_.wall_now();
    return std::ranges::any_of(orders_, [&](const StandingOrder& order) {
        return order.kind == StandingOrder::Kind::suspend && order.covers(message, now);
    });
}

std::string_view Dispatcher::ordered_source(const queue::Message& message) const {
    const base::WallTime now = loop_.wall_now();
    for (auto order = orders_.rbegin(); order != orders_.rend(); ++order) { // the latest wins
        if (order->kind == StandingOrder::Kind::reroute && order->covers(message, now))
            return order->source;
    }
    return {};
}

void Dispatcher::set_orders(std::vector<StandingOrder> orders) {
    orders_ = std::move(orders);
    held_left_ = context_.queue.schedule().counts().held;
    loop_.arm(held_timer_, loop_.now());
}

/// Lets go of held mail in slices: what is still suspended is held again when its turn comes. Orders
/// that end by their time are noticed by looking every minute.
void Dispatcher::on_look_at_held(base::Timer& timer) noexcept {
    const base::InRoom in{base::Room::delivery};
    constexpr std::uint32_t slice = 1024;
    Dispatcher& self = *static_cast<SweepTimer&>(timer).dispatcher;
    if (self.held_left_ > 0) {
        const std::uint32_t released = self.context_.queue.release_held(slice);
        self.held_left_ = released < slice
                              ? 0
                              : self.held_left_ - std::min<std::uint64_t>(slice, self.held_left_);
        self.loop_.arm(self.held_timer_, self.loop_.now() + std::chrono::milliseconds{1});
        return;
    }
    const std::size_t ended = std::erase_if(self.orders_, [&](const StandingOrder& order) {
        return order.until <= self.loop_.wall_now();
    });
    if (ended > 0) self.held_left_ = self.context_.queue.schedule().counts().held;
    if (!self.orders_.empty() || self.held_left_ > 0)
        self.loop_.arm(self.held_timer_, self.loop_.now() + sweep_interval);
}

void Dispatcher::end_by_order(Round& round, Ending ending) {
    Outcome outcome;
    outcome.stage = smtp::Stage::route;
    outcome.cause = smtp::Cause::local;
    const bool expiry = ending == Ending::expired;
    outcome.text = expiry ? "given up by an operator" : "removed from the queue by an operator";
    const queue::Message& message = *round.message;
    for (std::uint32_t i = 0; i < message.status.size(); ++i) {
        if (message.status[i].state != queue::RecipientState::pending) continue;
        recipient_failed(round, i, outcome, expiry ? NextStep::expire : NextStep::bounce, nullptr,
                         nullptr);
    }
}

bool Dispatcher::end_pause(std::string_view parking_key) {
    const std::size_t cut = parking_key.find('\n');
    const auto site = sites_by_key_.find(parking_key.substr(0, cut));
    if (site == sites_by_key_.end() || cut == std::string_view::npos) return false;
    const auto lane = site->second->lanes.find(parking_key.substr(cut + 1));
    if (lane == site->second->lanes.end() || lane->second->paused_until <= loop_.now())
        return false;
    lane->second->paused_until = {};
    context_.queue.unpause(lane->second->parking);
    return true;
}

std::string_view Dispatcher::site_name(std::string_view domain) const noexcept {
    const auto known = domains_by_name_.find(domain);
    if (known == domains_by_name_.end() || known->second->site == nullptr) return {};
    return known->second->site->name;
}

} // namespace dataplane::delivery
