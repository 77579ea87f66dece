// Goal: behind a balancer a listener believes the PROXY header and nothing else, and a slow or
// silent balancer holds up nobody.
#include "tests/dataplane/net/kernel/raw_peer.h"
#include "tests/dataplane/net/kernel/shard_fixture.h"

#include <vector>

namespace dataplane::net::kernel {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;

base::Task<void> accept_all(base::Listener& listener, std::vector<base::StreamPtr>& out) {
    for (;;) {
        auto stream = co_await listener.accept(base::Deadline::never());
        if (!stream) co_return;
        out.push_back(std::move(*stream));
    }
}

struct KernelProxyTest : testing::Test {
    KernelProxyTest() : shard({.proxy_limit = 100ms}) {
        shard.loop.spawn(accept_all(*listener, accepted), "accept");
    }
    bool run_until_accepted(std::size_t count) {
        return shard.run_until([&] { return accepted.size() == count; }, 3s);
    }
    bool run_until_refused(std::uint64_t count) {
        return shard.run_until([&] { return shard.transport.counters().proxy_refused == count; },
                               3s);
    }
    bool run_until_unread(base::Stream& stream, std::string_view text) {
        return shard.run_until([&] { return base::as_text(stream.unread()) == text; }, 3s);
    }
    Shard shard;
    std::unique_ptr<base::Listener> listener =
        shard.listen("127.0.0.1:0", {.proxy_protocol = true});
    std::vector<base::StreamPtr> accepted;
};

const std::string v2_fixed = "\r\n\r\n\0\r\nQUIT\n\x21\x11"s;
const std::string v2_block = "\xc0\x00\x02\x01\xc6\x33\x64\x02\x12\x34\x00\x19"s;

TEST_F(KernelProxyTest, TheToldClientIsTheClientAndTheDialogueFollows) {
    RawPeer peer{listener->local()};
    peer.send("PROXY TCP6 2001:db8::1 2001:db8::2 4660 25\r\nEHLO a\r\n");
    ASSERT_TRUE(run_until_accepted(1));
    EXPECT_EQ(accepted[0]->info().client, *base::SocketAddress::parse("[2001:db8::1]:4660"));
    EXPECT_EQ(accepted[0]->info().peer.ip, *base::IpAddress::parse("127.0.0.1"));
    EXPECT_TRUE(run_until_unread(*accepted[0], "EHLO a\r\n"));
}

TEST_F(KernelProxyTest, AHeaderSplitIntoBytesIsTheSame) {
    RawPeer peer{listener->local()};
    const int on = 1;
    setsockopt(peer.descriptor(), IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof on);
    const std::string header = v2_fixed + "\0\x0c"s + v2_block + "EHLO";
    for (const char byte : header) {
        peer.send({&byte, 1});
        const std::uint64_t before = shard.transport.counters().receives;
        shard.run_until([&] { return shard.transport.counters().receives > before; }, 1s);
    }
    ASSERT_TRUE(run_until_accepted(1));
    EXPECT_EQ(accepted[0]->info().client, *base::SocketAddress::parse("192.0.2.1:4660"));
    EXPECT_TRUE(run_until_unread(*accepted[0], "EHLO"));
}

TEST_F(KernelProxyTest, TrailingValuesLongerThanABufferAreSkipped) {
    RawPeer peer{listener->local()};
    const std::string values(20'000, '\x04');
    const std::size_t length = v2_block.size() + values.size();
    peer.send(v2_fixed + static_cast<char>(length >> 8) + static_cast<char>(length & 255) +
              v2_block + values + "EHLO");
    ASSERT_TRUE(run_until_accepted(1));
    EXPECT_EQ(accepted[0]->info().client, *base::SocketAddress::parse("192.0.2.1:4660"));
    EXPECT_TRUE(run_until_unread(*accepted[0], "EHLO"));
}

TEST_F(KernelProxyTest, UnknownLeavesThePeerAsTheClient) {
    RawPeer peer{listener->local()};
    peer.send("PROXY UNKNOWN\r\n");
    ASSERT_TRUE(run_until_accepted(1));
    EXPECT_EQ(accepted[0]->info().client, accepted[0]->info().peer);
}

TEST_F(KernelProxyTest, AConnectionWithoutAHeaderIsResetAndCounted) {
    RawPeer peer{listener->local()};
    peer.send("EHLO impostor.example\r\n");
    EXPECT_TRUE(run_until_refused(1));
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.connection_count() == 0; }));
    int error = 0;
    EXPECT_EQ(peer.read_to_end(error), "");
    EXPECT_EQ(error, ECONNRESET);
    EXPECT_TRUE(accepted.empty());
}

TEST_F(KernelProxyTest, SilentConnectionsHoldUpNobodyAndAreDroppedInTime) {
    std::vector<RawPeer> silent;
    for (int i = 0; i < 20; ++i)
        silent.emplace_back(listener->local());
    for (const RawPeer& peer : silent)
        peer.send("PROXY TCP4 ");
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.counters().accepted == 20; }));
    RawPeer quick{listener->local()};
    quick.send("PROXY TCP4 192.0.2.1 198.51.100.2 4660 25\r\n");
    ASSERT_TRUE(run_until_accepted(1));
    EXPECT_EQ(shard.transport.counters().proxy_refused, 0U);
    EXPECT_TRUE(run_until_refused(20));
    EXPECT_EQ(accepted.size(), 1U);
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.connection_count() == 1; }));
}

TEST_F(KernelProxyTest, ClosingTheListenerEndsConnectionsThatStillGreet) {
    RawPeer peer{listener->local()};
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.counters().accepted == 1; }));
    listener->close();
    peer.send("PROXY UNKNOWN\r\n");
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.connection_count() == 0; }));
    EXPECT_TRUE(accepted.empty());
}

} // namespace
} // namespace dataplane::net::kernel
