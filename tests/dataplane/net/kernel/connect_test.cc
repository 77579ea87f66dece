// Goal: connecting and accepting end with the cause kept, in time, and leave nothing behind.
#include "tests/dataplane/net/kernel/raw_peer.h"
#include "tests/dataplane/net/kernel/shard_fixture.h"

#include <fcntl.h>
#include <optional>
#include <sys/resource.h>

namespace dataplane::net::kernel {
namespace {

using namespace std::chrono_literals;

using Connected = std::optional<base::NetResult<base::StreamPtr>>;

base::Task<void> connect_once(Shard& shard, base::SocketAddress remote,
                              std::optional<base::IpAddress> source, base::Deadline deadline,
                              Connected& result) {
    auto stream = co_await shard.transport.connect(remote, source, deadline);
    result.emplace(std::move(stream));
}

base::Task<void> accept_once(base::Listener& listener, base::Deadline deadline, Connected& result) {
    auto stream = co_await listener.accept(deadline);
    result.emplace(std::move(stream));
}

struct KernelConnectTest : testing::Test {
    Connected connect(base::SocketAddress remote,
                      std::optional<base::IpAddress> source = std::nullopt,
                      base::Duration limit = 5s) {
        Connected result;
        shard.loop.spawn(connect_once(shard, remote, source, shard.in(limit), result), "connect");
        EXPECT_TRUE(shard.run_until([&] { return result.has_value(); }));
        return result;
    }
    Connected accept(base::Listener& listener, base::Duration limit = 5s) {
        Connected result;
        shard.loop.spawn(accept_once(listener, shard.in(limit), result), "accept");
        EXPECT_TRUE(shard.run_until([&] { return result.has_value(); }));
        return result;
    }
    bool run_until_gone() {
        return shard.run_until([&] { return shard.transport.connection_count() == 0; });
    }
    Shard shard;
};

base::SocketAddress closed_port() {
    Shard other;
    return other.listen()->local(); // nobody listens there any more when it is returned
}

TEST_F(KernelConnectTest, APortWithoutAListenerRefuses) {
    const auto result = connect(closed_port());
    ASSERT_FALSE(*result);
    EXPECT_EQ(result->error(), base::NetError::refused);
    EXPECT_TRUE(run_until_gone());
    EXPECT_EQ(shard.transport.counters().connect_errors, 1U);
}

TEST_F(KernelConnectTest, ComesFromTheSourceAddressAskedFor) {
    const auto listener = shard.listen();
    const auto source = base::IpAddress::parse("127.0.0.77");
    auto result = connect(listener->local(), source);
    ASSERT_TRUE(*result);
    EXPECT_EQ((**result)->info().local.ip, *source);
    const auto accepted = accept(*listener);
    ASSERT_TRUE(*accepted);
    EXPECT_EQ((**accepted)->info().peer, (**result)->info().local);
    EXPECT_EQ((**accepted)->info().local, listener->local());
}

TEST_F(KernelConnectTest, ASourceAddressThatIsNotOursIsNamedAsTheCause) {
    const auto listener = shard.listen();
    const auto foreign = connect(listener->local(), base::IpAddress::parse("192.0.2.1"));
    ASSERT_FALSE(*foreign);
    EXPECT_EQ(foreign->error(), base::NetError::address_not_available);
    const auto other_family = connect(listener->local(), base::IpAddress::parse("::1"));
    ASSERT_FALSE(*other_family);
    EXPECT_EQ(other_family->error(), base::NetError::address_not_available);
    EXPECT_EQ(shard.transport.connection_count(), 0U);
}

/// A listener whose queue is full drops what knocks: connecting to it hangs.
struct FullListener {
    FullListener() {
        descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const KernelAddress any{*base::SocketAddress::parse("127.0.0.1:0")};
        EXPECT_EQ(::bind(descriptor, &any.any, any.bytes), 0);
        EXPECT_EQ(::listen(descriptor, 0), 0);
        address = local_address(descriptor);
        for (int& filler : fillers) {
            filler = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
            const KernelAddress to{address};
            static_cast<void>(::connect(filler, &to.any, to.bytes));
        }
    }
    ~FullListener() {
        for (const int filler : fillers)
            ::close(filler);
        ::close(descriptor);
    }
    FullListener(const FullListener&) = delete;
    FullListener& operator=(const FullListener&) = delete;
    int descriptor;
    int fillers[3];
    base::SocketAddress address;
};

TEST_F(KernelConnectTest, ADeadlineEndsAnAttemptThatHangs) {
    const FullListener full;
    const auto start = shard.clock.now();
    const auto result = connect(full.address, std::nullopt, 50ms);
    ASSERT_FALSE(*result);
    EXPECT_EQ(result->error(), base::NetError::timed_out);
    EXPECT_LT(shard.clock.now() - start, 5s);
    EXPECT_TRUE(run_until_gone());
}

TEST_F(KernelConnectTest, CancellationEndsAnAttemptThatHangs) {
    const FullListener full;
    base::CancelSource cancel;
    Connected result;
    shard.loop.spawn(connect_once(shard, full.address, std::nullopt,
                                  base::Deadline::in(shard.loop, 10s, &cancel), result),
                     "connect");
    const base::TimePoint end = shard.clock.now() + 20ms;
    shard.run_until([&] { return shard.clock.now() > end; });
    EXPECT_FALSE(result);
    cancel.cancel();
    EXPECT_TRUE(shard.run_until([&] { return result.has_value(); }));
    EXPECT_EQ(result->error(), base::NetError::cancelled);
    EXPECT_TRUE(run_until_gone());
}

TEST_F(KernelConnectTest, AnAttemptWhoseTaskIsDestroyedLeavesNothingBehind) {
    const FullListener full;
    Connected result;
    shard.loop.spawn(connect_once(shard, full.address, std::nullopt, shard.in(10s), result),
                     "connect");
    const base::TimePoint end = shard.clock.now() + 10ms;
    shard.run_until([&] { return shard.clock.now() > end; });
    EXPECT_EQ(shard.transport.connection_count(), 1U);
    shard.loop.drop_tasks();
    EXPECT_TRUE(run_until_gone());
}

TEST_F(KernelConnectTest, ListeningOnATakenAddressFails) {
    const int taken = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const KernelAddress any{*base::SocketAddress::parse("127.0.0.1:0")};
    ASSERT_EQ(::bind(taken, &any.any, any.bytes), 0);
    ASSERT_EQ(::listen(taken, 1), 0); // without SO_REUSEPORT: it does not share
    const auto result = shard.transport.listen(local_address(taken), {});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error(), base::NetError::address_in_use);
    ::close(taken);
    const auto foreign = shard.transport.listen(*base::SocketAddress::parse("192.0.2.1:25"), {});
    ASSERT_FALSE(foreign);
    EXPECT_EQ(foreign.error(), base::NetError::address_not_available);
}

TEST_F(KernelConnectTest, SeveralShardsListenOnOneAddress) {
    const auto first = shard.listen();
    Shard other;
    const auto second = other.listen(first->local().to_string());
    ASSERT_NE(second, nullptr);
    EXPECT_EQ(second->local(), first->local());
}

TEST_F(KernelConnectTest, Ipv4AndIpv6ListenSideBySideOnOnePort) {
    const auto four = shard.listen("0.0.0.0:0");
    const auto six = shard.listen("[::]:" + std::to_string(four->local().port));
    ASSERT_NE(six, nullptr);
}

TEST_F(KernelConnectTest, ClosingAListenerEndsItsAcceptAndResetsWhatNobodyTook) {
    auto listener = shard.listen();
    RawPeer untaken{listener->local()};
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.counters().accepted == 1; }));
    listener->close();
    const auto result = accept(*listener);
    ASSERT_FALSE(*result);
    EXPECT_EQ(result->error(), base::NetError::closed);
    EXPECT_TRUE(run_until_gone());
    int error = 0;
    EXPECT_EQ(untaken.read_to_end(error), "");
    EXPECT_EQ(error, ECONNRESET);
}

TEST_F(KernelConnectTest, ClosingAListenerEndsAnAcceptThatWaits) {
    auto listener = shard.listen();
    Connected result;
    shard.loop.spawn(accept_once(*listener, shard.in(10s), result), "accept");
    const base::TimePoint end = shard.clock.now() + 5ms;
    shard.run_until([&] { return shard.clock.now() > end; });
    listener.reset();
    EXPECT_TRUE(shard.run_until([&] { return result.has_value(); }));
    EXPECT_EQ(result->error(), base::NetError::closed);
}

TEST_F(KernelConnectTest, ConnectionsBeyondTheMaximumAreClosedAtOnceAndThereIsRoomAgainLater) {
    const auto listener = shard.listen("127.0.0.1:0", {.connections_max = 2});
    RawPeer first{listener->local()};
    RawPeer second{listener->local()};
    RawPeer third{listener->local()};
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.counters().refused_at_max == 1; }));
    int error = 0;
    EXPECT_EQ(third.read_to_end(error), "");
    {
        const auto taken = accept(*listener);
        ASSERT_TRUE(*taken);
    }
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.connection_count() == 1; }));
    RawPeer fourth{listener->local()};
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.counters().accepted == 3; }));
}

TEST_F(KernelConnectTest, AcceptingGoesOnAfterTheDescriptorsRanOut) {
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    const int first_free = fcntl(0, F_DUPFD, 0);
    const int second_free = fcntl(0, F_DUPFD, 0);
    ASSERT_LT(first_free, second_free);
    ::close(first_free);
    ::close(second_free);
    // Room for the listener and the peer; an accept takes the limit when it is armed.
    rlimit tight = before;
    tight.rlim_cur = static_cast<rlim_t>(second_free) + 1;
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
    const auto listener = shard.listen();
    RawPeer waiting{listener->local()};
    const bool ran_out =
        shard.run_until([&] { return shard.transport.counters().accept_errors >= 1; }, 2s);
    const std::uint64_t accepted = shard.transport.counters().accepted;
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_TRUE(ran_out);
    EXPECT_EQ(accepted, 0U);
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.counters().accepted == 1; }));
}

TEST(KernelErrors, KeepTheCause) {
    EXPECT_EQ(to_net_error(ECONNREFUSED), base::NetError::refused);
    EXPECT_EQ(to_net_error(ECONNRESET), base::NetError::reset);
    EXPECT_EQ(to_net_error(EPIPE), base::NetError::reset);
    EXPECT_EQ(to_net_error(EHOSTUNREACH), base::NetError::unreachable);
    EXPECT_EQ(to_net_error(ENETUNREACH), base::NetError::unreachable);
    EXPECT_EQ(to_net_error(ETIMEDOUT), base::NetError::timed_out);
    EXPECT_EQ(to_net_error(EADDRNOTAVAIL), base::NetError::address_not_available);
    EXPECT_EQ(connect_error(EADDRNOTAVAIL), base::NetError::no_port);
    EXPECT_EQ(connect_error(EADDRINUSE), base::NetError::no_port);
    EXPECT_EQ(connect_error(ECONNREFUSED), base::NetError::refused);
    EXPECT_EQ(to_net_error(EADDRINUSE), base::NetError::address_in_use);
    EXPECT_EQ(to_net_error(EACCES), base::NetError::permission);
    EXPECT_EQ(to_net_error(EPERM), base::NetError::permission);
    EXPECT_EQ(to_net_error(ENOBUFS), base::NetError::no_buffers);
    EXPECT_EQ(to_net_error(ENOMEM), base::NetError::no_buffers);
    EXPECT_EQ(to_net_error(EMFILE), base::NetError::no_buffers);
}

} // namespace
} // namespace dataplane::net::kernel
