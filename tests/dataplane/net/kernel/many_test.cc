// Goal: ten thousand connections stay open on one shard and cost no receive buffers while they are
// silent; all of them are answered when they speak. Method: the peers live in a child process, so
// that each side stays within the usual limit of descriptors.
#include "tests/dataplane/net/kernel/raw_peer.h"
#include "tests/dataplane/net/kernel/shard_fixture.h"

#include <algorithm>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <vector>

namespace dataplane::net::kernel {
namespace {

using namespace std::chrono_literals;

constexpr std::uint32_t connection_count = 10'000;
constexpr std::uint32_t batch_count = 500; // within the listen backlog
constexpr std::string_view line = "NOOP\r\n";

[[nodiscard]] bool raise_descriptor_limit(rlim_t wanted) {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur >= wanted) return true;
    limit.rlim_cur = wanted;
    limit.rlim_max = std::max(limit.rlim_max, wanted);
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

enum class Order : char { connect, send, receive, leave };

/// Ten thousand plain sockets in a process of their own, which does one order at a time.
class Peers {
public:
    Peers() {
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_), 0);
        child_ = fork();
        if (child_ == 0) {
            ::close(ends_[0]);
            serve(ends_[1]);
        }
        ::close(ends_[1]);
    }
    ~Peers() {
        ::close(ends_[0]); // the child leaves at the end of its orders
        waitpid(child_, nullptr, 0);
    }
    Peers(const Peers&) = delete;
    Peers& operator=(const Peers&) = delete;

    void order(Order what, std::uint16_t port = 0) {
        finished_ = false;
        const char message[3] = {static_cast<char>(what), static_cast<char>(port >> 8),
                                 static_cast<char>(port & 255)};
        EXPECT_EQ(write(ends_[0], message, sizeof message), 3);
    }
    /// Whether the last order has been carried out.
    [[nodiscard]] bool finished() {
        pollfd ready{ends_[0], POLLIN, 0};
        if (!finished_ && poll(&ready, 1, 0) == 1) {
            finished_ = read(ends_[0], &good_, sizeof good_) == sizeof good_;
        }
        return finished_;
    }
    /// For how many peers it went well.
    [[nodiscard]] std::uint32_t good() const { return good_; }

private:
    [[noreturn]] static void serve(int orders) {
        std::vector<int> peers;
        unsigned char message[3];
        while (read(orders, message, sizeof message) == sizeof message) {
            std::uint32_t good = 0;
            switch (static_cast<Order>(message[0])) {
            case Order::connect:
                for (std::uint32_t i = 0; i < batch_count; ++i) {
                    const auto port = static_cast<std::uint16_t>(message[1] << 8 | message[2]);
                    const KernelAddress to{{*base::IpAddress::parse("127.0.0.1"), port}};
                    peers.push_back(::socket(AF_INET, SOCK_STREAM, 0));
                    good += ::connect(peers.back(), &to.any, to.bytes) == 0 ? 1 : 0;
                }
                break;
            case Order::send:
                for (const int peer : peers) {
                    const ssize_t sent = ::send(peer, line.data(), line.size(), MSG_NOSIGNAL);
                    good += sent == static_cast<ssize_t>(line.size()) ? 1 : 0;
                }
                break;
            case Order::receive:
                for (const int peer : peers) {
                    char text[64];
                    const ssize_t got = ::recv(peer, text, sizeof text, 0);
                    good += got > 0 && std::string_view(text, static_cast<std::size_t>(got)) == line
                                ? 1
                                : 0;
                }
                break;
            case Order::leave:
                for (const int peer : peers)
                    good += ::close(peer) == 0 ? 1 : 0;
                peers.clear();
                break;
            }
            static_cast<void>(!write(orders, &good, sizeof good));
        }
        _exit(0);
    }

    int ends_[2]{};
    pid_t child_ = -1;
    bool finished_ = false;
    std::uint32_t good_ = 0;
};

TEST(KernelMany, TenThousandOpenConnectionsHoldNoBuffersAndAreAllAnswered) {
    if (!raise_descriptor_limit(connection_count + 200)) {
        GTEST_SKIP() << "may not open 10,200 descriptors here: raise RLIMIT_NOFILE";
    }
    Peers peers; // before the ring, which a child must not share
    Shard shard;
    const auto listener = shard.listen();
    shard.loop.spawn(serve_echo(shard.loop, *listener), "serve");
    for (std::uint32_t open = batch_count; open <= connection_count; open += batch_count) {
        peers.order(Order::connect, listener->local().port);
        ASSERT_TRUE(shard.run_until([&] { return peers.finished(); }));
        ASSERT_EQ(peers.good(), batch_count);
        ASSERT_TRUE(shard.run_until([&] { return shard.transport.counters().accepted == open; }));
    }
    ASSERT_TRUE(
        shard.run_until([&] { return shard.loop.spawned_count() == connection_count + 1; }));
    EXPECT_EQ(shard.transport.connection_count(), connection_count);
    EXPECT_EQ(shard.transport.free_receive_buffers(), receive_buffers);
    EXPECT_EQ(shard.transport.free_send_chunks(), send_chunks);

    for (int round = 0; round < 2; ++round) {
        peers.order(Order::send);
        ASSERT_TRUE(shard.run_until([&] { return peers.finished(); }));
        EXPECT_EQ(peers.good(), connection_count);
        peers.order(Order::receive);
        ASSERT_TRUE(shard.run_until([&] { return peers.finished(); }));
        EXPECT_EQ(peers.good(), connection_count);
    }
    EXPECT_EQ(shard.transport.free_receive_buffers(), receive_buffers);
    EXPECT_EQ(shard.transport.free_send_chunks(), send_chunks);
    peers.order(Order::leave);
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.connection_count() == 0; }));
}

} // namespace
} // namespace dataplane::net::kernel
