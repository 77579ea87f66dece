// room.h: which room a thread is working for, and how much CPU time each room has had.
//
// Scope      A shard's thread does the work of all rooms in turn. Whoever begins a room's work says so: the
//            Loop before each step (a wait belongs to the room that began it), a guard around a call into
//            another room. The time between two such marks is the earlier one's.
// Owns       One meter for each thread, off until start(): then a mark costs one look at a pointer.
// Threading  The thread's own.
// Failure    None.
//
// Marks read the clock (16 ns), not the thread's CPU time, which is a system call (180 ns). So a mark measures
// time, in which the kernel may have given the core to somebody else, and settle() puts that right: it
// divides the CPU time that the thread truly had among the rooms, in proportion to their times since the last
// settle(). It is called before and after each sleep and at least every settle_every while there is work. The
// rooms' sum is therefore exactly the thread's CPU time; a room's own share is as good as the assumption that
// the thread lost the core evenly within a fraction of a millisecond.
#pragma once

#include "dataplane/base/clock.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace dataplane::base {

/// The rooms whose work can be told apart. docs/operating.md says what each includes.
enum class Room : std::uint8_t {
    loop, // the loop itself, and what belongs to no other
    kernel,
    net,
    tls,
    smtp,
    message,
    screen,
    delivery,
    spool,
    control,
    count
};
inline constexpr std::size_t room_count = static_cast<std::size_t>(Room::count);

class RoomMeter {
public:
    static constexpr Duration settle_every = std::chrono::microseconds{200};

    /// The calling thread's.
    [[nodiscard]] static RoomMeter& here() noexcept;

    /// Measures from now on. `clock` outlives the measuring.
    void start(const Clock& clock) noexcept;
    void stop() noexcept {
        clock_ = nullptr;
        current_ = Room::loop;
    }
    [[nodiscard]] bool on() const noexcept { return clock_ != nullptr; }

    /// The room that works now. Followed only while the meter is on.
    [[nodiscard]] Room current() const noexcept { return current_; }
    void enter(Room room) noexcept {
        if (clock_ != nullptr && room != current_) enter_at(room, clock_->now());
    }
    /// For a caller who has read the meter's clock just now. The meter is on.
    void enter_at(Room room, TimePoint now) noexcept {
        marked_[static_cast<std::size_t>(current_)] += now - since_;
        since_ = now;
        current_ = room;
    }
    /// Divides the thread's CPU time since the last call among the rooms.
    void settle() noexcept;
    void settle_when_due() noexcept {
        if (clock_ != nullptr && since_ - settled_ >= settle_every) settle();
    }

    /// CPU time since start(), as far as it is settled.
    [[nodiscard]] Duration cpu(Room room) const noexcept {
        return cpu_[static_cast<std::size_t>(room)];
    }

private:
    const Clock* clock_ = nullptr;
    Room current_ = Room::loop;
    TimePoint since_{};   // the last mark
    TimePoint settled_{}; // the last settle()
    Duration thread_cpu_{};
    std::array<Duration, room_count> marked_{}; // since then, by the clock
    std::array<Duration, room_count> cpu_{};
};

namespace detail {
inline constinit thread_local RoomMeter room_meter;
}

inline RoomMeter& RoomMeter::here() noexcept {
    return detail::room_meter;
}

/// The work of another room, for the length of a scope. Not across a co_await: a frame that is destroyed while
/// it waits would change the room of whoever destroys it. There, enter() before and after does: a wait belongs
/// to the room that was entered last, and comes back to it.
class [[nodiscard]] InRoom {
public:
    explicit InRoom(Room room) noexcept : meter_(RoomMeter::here()), before_(meter_.current()) {
        meter_.enter(room);
    }
    ~InRoom() { meter_.enter(before_); }
    InRoom(const InRoom&) = delete;
    InRoom& operator=(const InRoom&) = delete;

private:
    RoomMeter& meter_;
    Room before_;
};

} // namespace dataplane::base
