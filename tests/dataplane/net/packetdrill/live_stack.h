// live_stack.h: a Stack in real time on a thread of its own, called from other threads.
//
// Scope      Jobs are tried on the stack's thread after each of its turns until they have a result;
//            whoever asked sleeps on a condition variable meanwhile, which is how packetdrill sees that
//            a call blocks.
// Owns       The thread, the stack, the sockets, and the packets that nobody has fetched yet.
// Threading  run(), inject() and fetch() from any thread; everything else on the stack's.
// Failure    A job that waits when the stack ends gets EINTR.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/base/loop.h"
#include "dataplane/net/stack/stack.h"
#include "tests/dataplane/net/packetdrill/profile.h"
#include "tests/dataplane/net/packetdrill/raw_port.h"
#include "tests/dataplane/net/packetdrill/sockets.h"

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

namespace tests::packetdrill {

class LiveStack {
public:
    explicit LiveStack(const Profile& profile);
    ~LiveStack();
    LiveStack(const LiveStack&) = delete;
    LiveStack& operator=(const LiveStack&) = delete;

    using Attempt = std::function<std::optional<CallResult>(SocketTable&)>;
    /// Sleeps until the attempt has a result. With a limit, the attempt is made at its end as well.
    [[nodiscard]] CallResult run(Attempt attempt, std::optional<base::Duration> limit = {});
    void inject(Bytes packet);

    struct Packet {
        Bytes bytes;
        long long time_us = 0; // of gettimeofday()
    };
    /// The oldest packet that the stack has sent; nullopt after `limit`.
    [[nodiscard]] std::optional<Packet> fetch(base::Duration limit);
    /// Makes `ip` one of the stack's own: packetdrill draws its local address at random, and bind() is the first to
    /// say it. Only from within an attempt. False when sockets are in use already.
    [[nodiscard]] bool adopt(const base::IpAddress& ip);
    [[nodiscard]] base::TimePoint now() const noexcept { return clock_.now(); }

private:
    struct Job {
        Attempt attempt;
        std::optional<base::TimePoint> due;
        std::optional<CallResult> result;
    };
    void work();
    void capture(std::span<const std::byte> packet);
    [[nodiscard]] base::TimePoint next_due();
    void make_stack();

    base::RealClock clock_;
    base::Loop loop_{clock_};
    RawPort port_;
    const Profile profile_;
    std::vector<net::ip::LayerOptions::Address> addresses_;
    std::optional<net::stack::Stack> stack_;
    std::optional<SocketTable> sockets_;

    std::mutex mutex_;                 // held while the stack works; guards what follows
    std::condition_variable wanted_;   // something for the stack's thread
    std::condition_variable finished_; // some job
    std::condition_variable sent_;     // some packet
    bool wanted_now_ = false;
    bool stopping_ = false;
    std::deque<Bytes> injected_;
    std::deque<Packet> outgoing_;
    std::vector<Job*> jobs_;
    std::thread thread_; // last: it uses everything above
};

} // namespace tests::packetdrill
