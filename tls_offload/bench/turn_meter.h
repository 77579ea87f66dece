// turn_meter.h: runs a loop on its ring as Loop::run() does, and measures each turn.
//
// Scope      A turn here is the ring's completions and the loop's turn: all that a shard does between two looks at its
//            sockets. By the wall, which counts whatever else the machine ran meanwhile, and by the thread's own CPU
//            time, which does not.
// Threading  The loop's.
#pragma once

#include "dataplane/base/uring.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <vector>

namespace tls_offload::bench {

namespace base = dataplane::base;

/// This thread's CPU time, in nanoseconds.
[[nodiscard]] inline std::int64_t thread_cpu_ns() noexcept {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

class TurnMeter {
public:
    TurnMeter() {
        turns_.reserve(turns_max);
        // What the clock itself costs between two readings.
        for (int i = 0; i < 1000; ++i) {
            const std::int64_t from = thread_cpu_ns();
            overhead_ns_ = std::min(overhead_ns_, thread_cpu_ns() - from);
        }
    }

    /// Until loop.stop(). \param worked  asked after each turn: whether it did any of the work that counts
    template <class Worked>
    void run(base::Loop& loop, base::Uring& ring, bool busy_poll, const Worked& worked) {
        while (!loop.stopped()) {
            const auto wall = std::chrono::steady_clock::now();
            const std::int64_t cpu = thread_cpu_ns();
            ring.poll();
            const bool more = loop.turn();
            const std::int64_t cpu_ns =
                std::max<std::int64_t>(thread_cpu_ns() - cpu - overhead_ns_, 0);
            const std::chrono::nanoseconds wall_ns = std::chrono::steady_clock::now() - wall;
            if (worked()) {
                worked_ns_ += cpu_ns;
                if (turns_.size() < turns_max) turns_.push_back({wall_ns.count(), cpu_ns});
            }
            if (!more && !busy_poll && !loop.stopped())
                ring.sleep_until(loop.now(), loop.next_due());
        }
    }

    [[nodiscard]] std::size_t turns() const noexcept { return turns_.size(); }
    /// CPU time of all turns that did something.
    [[nodiscard]] double worked_us() const noexcept {
        return static_cast<double>(worked_ns_) / 1e3;
    }
    [[nodiscard]] double wall_us_max() const { return us_max(&Turn::wall_ns); }
    [[nodiscard]] double cpu_us_max() const { return us_max(&Turn::cpu_ns); }
    [[nodiscard]] std::size_t over(double us) const {
        return static_cast<std::size_t>(std::ranges::count_if(turns_, [us](const Turn& turn) {
            return static_cast<double>(turn.cpu_ns) > us * 1e3;
        }));
    }

private:
    static constexpr std::size_t turns_max = std::size_t{1} << 20;
    struct Turn {
        std::int64_t wall_ns, cpu_ns;
    };
    [[nodiscard]] double us_max(std::int64_t Turn::* which) const {
        if (turns_.empty()) return 0;
        return static_cast<double>(std::ranges::max(turns_, {}, which).*which) / 1e3;
    }
    std::vector<Turn> turns_;
    std::int64_t worked_ns_ = 0;
    std::int64_t overhead_ns_ = 1'000'000;
};

} // namespace tls_offload::bench
