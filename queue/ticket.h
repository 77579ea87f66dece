// ticket.h: where a record is, and whether it is durable yet.
//
// Scope      A Ticket goes with a record into its batch and says afterwards what became of it. Giving
//            one up before that is safe: the record then counts as dead.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/check.h"

#include <compare>
#include <cstdint>
#include <limits>

namespace queue {

struct Batch;
class Log;

/// A record's first byte: segment slot, and offset from the segment's first byte.
struct Place {
    static constexpr std::uint32_t no_slot = std::numeric_limits<std::uint32_t>::max();
    std::uint32_t slot = no_slot;
    std::uint32_t offset = 0;

    [[nodiscard]] bool valid() const noexcept { return slot != no_slot; }
    auto operator<=>(const Place&) const noexcept = default;
};

class Ticket {
public:
    enum class State : std::uint8_t { idle, pending, durable, failed };

    Ticket() noexcept = default;
    ~Ticket() { CHECK(batch_ == nullptr); } // whoever loses interest tells the log
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;

    [[nodiscard]] State state() const noexcept { return state_; }
    /// Of the record; final once durable, because a batch may move to another segment before.
    [[nodiscard]] Place place() const noexcept { return place_; }
    [[nodiscard]] std::uint32_t bytes() const noexcept {
        return bytes_;
    } // header and padding included

private:
    friend class Log;
    State state_ = State::idle;
    Place place_;
    std::uint32_t bytes_ = 0;
    Batch* batch_ = nullptr;
    std::uint32_t index_ = 0; // in the batch's list
};

} // namespace queue
