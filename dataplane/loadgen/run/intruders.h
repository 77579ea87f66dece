// intruders.h: connections that do what no honest client does, beside the ones that are measured.
//
// Scope      Each intruder connects, misbehaves in its kind's way until the relay ends it or its time
//            is over, and comes again. None ever completes a message: what they cost shows in the
//            honest connections' figures.
// Owns       Its tasks are the Loop's; Intruders must outlive them.
// Threading  The Loop's.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/stream.h"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string_view>
#include <vector>

namespace dataplane::loadgen {

enum class Mischief : std::uint8_t {
    silent,        // connects and says nothing
    slow_writer,   // one byte of a command at a time
    slow_reader,   // asks for many answers and reads none of them
    garbage,       // bytes that are no SMTP
    abort_in_data, // resets in the middle of a message
    endless_line,  // a command that never ends
};
inline constexpr std::size_t mischief_count = 6;
[[nodiscard]] std::string_view to_string(Mischief kind) noexcept;

struct IntruderOptions {
    std::vector<base::SocketAddress> targets;              // in turn
    std::array<std::size_t, mischief_count> connections{}; // at a time, of each kind
    std::chrono::milliseconds life{20'000}; // of a connection that the relay bears with
    std::chrono::milliseconds pause{100};   // before the next one
    std::uint64_t seed = 1;

    [[nodiscard]] bool any() const noexcept {
        for (const std::size_t count : connections) {
            if (count != 0) return true;
        }
        return false;
    }
};

struct IntruderTally {
    std::uint64_t connections = 0;
    std::uint64_t not_let_in = 0; // no connection was made
    std::uint64_t ended = 0;      // by the relay, before the intruder's time was over
};

class Intruders {
public:
    Intruders(base::Loop& loop, base::Transport& transport, IntruderOptions options);
    void start();
    void stop() noexcept;
    [[nodiscard]] const std::array<IntruderTally, mischief_count>& tally() const noexcept {
        return tally_;
    }

private:
    base::Task<void> come_again(Mischief kind, std::size_t number);
    /// Until the relay ends it or the time is over; true when the relay did.
    base::Task<bool> misbehave(base::Stream& stream, Mischief kind, base::Deadline end);
    base::Task<base::NetResult<>> say(base::Stream& stream, std::string_view text,
                                      base::Deadline end);

    base::Loop& loop_;
    base::Transport& transport_;
    IntruderOptions options_;
    std::array<IntruderTally, mischief_count> tally_{};
    std::mt19937_64 random_;
    base::CancelSource stopping_;
};

} // namespace dataplane::loadgen
