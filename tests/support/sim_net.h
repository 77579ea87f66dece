// sim_net.h: an in-memory Transport on a Loop: deterministic connections for tests.
//
// Scope      Listeners and streams that live in one process and one Loop, with a latency, a bounded
//            pipe each way, and seeded fragmentation of what a read sees. No faults by itself: tests
//            abort streams, or refuse addresses.
// Owns       The pipes, shared by both ends.
// Threading  The Loop's.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/stream.h"

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace tests {

namespace base = dataplane::base;

struct SimNetOptions {
    base::Duration latency = std::chrono::microseconds{100}; // one way
    std::size_t pipe_bytes_max = 64 * 1024;
    bool fragment = true; // deliver in pieces of random size, down to one byte
    std::uint64_t seed = 1;
};

class SimNet;
struct SimPipe;

class SimNet final : public base::Transport {
public:
    SimNet(base::Loop& loop, SimNetOptions options = {});
    ~SimNet() override;

    base::NetResult<std::unique_ptr<base::Listener>>
    listen(const base::SocketAddress& local, const base::ListenOptions& options) override;
    base::Task<base::NetResult<base::StreamPtr>> connect(base::SocketAddress remote,
                                                         std::optional<base::IpAddress> source,
                                                         base::Deadline deadline) override;

    /// From now on connects to this address get `error` (timed_out waits for the deadline).
    void fail_connects_to(const base::SocketAddress& remote, base::NetError error) {
        failing_[remote] = error;
    }
    void heal(const base::SocketAddress& remote) { failing_.erase(remote); }
    /// Resets every open connection, as a crashed host does.
    void reset_all();
    [[nodiscard]] std::uint64_t connection_count() const noexcept { return connections_made_; }

    /// Both ends of one connection, without a listener.
    struct Pair {
        base::StreamPtr client, server;
    };
    [[nodiscard]] Pair make_pair(const base::SocketAddress& client,
                                 const base::SocketAddress& server);

private:
    friend class SimListener;
    friend class SimStream;
    base::Loop& loop_;
    SimNetOptions options_;
    std::mt19937_64 random_;
    std::map<base::SocketAddress, class SimListener*> listeners_;
    std::map<base::SocketAddress, base::NetError> failing_;
    std::vector<std::weak_ptr<SimPipe>> pipes_;
    std::uint16_t next_port_ = 30000;
    std::uint64_t connections_made_ = 0;
};

/// Steps a ManualClock through timers and ready work until `done` says so or `limit` has passed.
/// Returns whether it became done.
bool run_until(base::Loop& loop, base::ManualClock& clock, const std::function<bool()>& done,
               base::Duration limit = std::chrono::hours{1});

/// Runs one task to its end on the Loop and returns its value; fails the process when it hangs.
template <class T>
T run(base::Loop& loop, base::ManualClock& clock, base::Task<T> task,
      base::Duration limit = std::chrono::hours{1}) {
    std::optional<T> value;
    auto wrap = [](base::Task<T> inner, std::optional<T>* out) -> base::Task<void> {
        auto result = co_await std::move(inner);
        out->emplace(std::move(result));
    };
    loop.spawn(wrap(std::move(task), &value), "test");
    CHECK(run_until(loop, clock, [&] { return value.has_value(); }, limit));
    return std::move(*value);
}

} // namespace tests
