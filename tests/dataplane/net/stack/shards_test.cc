// Goal: two shards on one port open and accept connections of their own, whether the device spreads flows over
// queues, says that it does and errs, or does not.
#include "tests/dataplane/net/stack/world.h"

#include "dataplane/net/stack/neighbour_exchange.h"
#include "dataplane/net/stack/port_allocator.h"
#include "dataplane/net/stack/rss_guard.h"
#include "dataplane/net/stack/steering.h"

#include <array>
#include <vector>

namespace dataplane::net::stack {
namespace {

constexpr unsigned shards = 2;

/// A queue whose device spreads by another key than it shows.
class LyingQueue final : public Port {
public:
    explicit LyingQueue(Port& below) : below_(below) { key_.fill(0x5a); }
    [[nodiscard]] const PortInfo& info() const noexcept override { return below_.info(); }
    [[nodiscard]] std::optional<RssLayout> rss_layout() const noexcept override {
        return RssLayout{.key = key_, .table = below_.rss_layout()->table};
    }
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept override {
        return below_.receive(frames);
    }
    void release(std::span<const ReceivedFrame> frames) noexcept override {
        below_.release(frames);
    }
    [[nodiscard]] SendResult send(const TransmitFrame& frame) noexcept override {
        return below_.send(frame);
    }
    [[nodiscard]] std::size_t send_room() const noexcept override { return below_.send_room(); }
    void flush() noexcept override { below_.flush(); }
    [[nodiscard]] const PortCounters& counters() const noexcept override {
        return below_.counters();
    }

private:
    Port& below_;
    std::array<std::uint8_t, 40> key_{};
};

enum class Device : std::uint8_t { one_queue, rss, lying_rss };

/// The relay's side: a stack for each shard on one port. Its peer: one stack. All on one thread, by turns.
struct ShardedWorld {
    explicit ShardedWorld(Device device) : link(link_options(device)) {
        if (device == Device::one_queue) {
            steering.emplace(link.port(0), shards);
        } else {
            std::vector<Port*> queues;
            for (std::uint16_t queue = 0; queue < shards; ++queue) {
                liars.push_back(std::make_unique<LyingQueue>(link.port(0, queue)));
                queues.push_back(device == Device::rss ? static_cast<Port*>(&link.port(0, queue))
                                                       : liars.back().get());
            }
            guard.emplace(queues);
        }
        WorldOptions options;
        options.client.shard_count = shards;
        for (unsigned shard = 0; shard < shards; ++shard) {
            options.client.shard = shard;
            Port& port = steering ? steering->port(shard) : guard->port(shard);
            relays.push_back(
                std::make_unique<Stack>(loop, port, options.client_ip, options.client));
            exchange.attach(shard, *relays.back());
        }
        peer = std::make_unique<Stack>(loop, link.port(1), options.server_ip, options.server);
    }
    ~ShardedWorld() { loop.drop_tasks(); }
    static SimLinkOptions link_options(Device device) {
        SimLinkOptions options = WorldOptions{}.link;
        if (device != Device::one_queue) options.ports[0].queue_count = shards;
        return options;
    }
    template <class Done>
    bool run_until(const Done& done, base::Duration limit = 60s) {
        const base::TimePoint end = clock.now() + limit;
        while (!done()) {
            if (clock.now() > end) return false;
            link.run_until(clock.now());
            std::size_t frames = peer->poll();
            for (unsigned shard = 0; shard < shards; ++shard) {
                frames += relays[shard]->poll();
                exchange.inbox(shard).drain();
            }
            if (loop.turn() || frames > 0) continue;
            clock.advance(100us);
        }
        return true;
    }
    [[nodiscard]] std::uint64_t handed_over() const {
        if (steering) return steering->counters().forwarded;
        return guard->counters(0).forwarded + guard->counters(1).forwarded;
    }

    base::ManualClock clock;
    base::Loop loop{clock};
    SimLink link;
    std::vector<std::unique_ptr<LyingQueue>> liars;
    std::optional<Steering> steering;
    std::optional<RssGuard> guard;
    NeighbourExchange exchange{shards};
    std::vector<std::unique_ptr<Stack>> relays;
    std::unique_ptr<Stack> peer;
};

base::Task<void> ask(ShardedWorld& world, Stack& from, base::SocketAddress remote, std::string text,
                     std::size_t& answered) {
    auto stream = co_await from.connect(remote, std::nullopt, base::Deadline::in(world.loop, 30s));
    EXPECT_TRUE(stream) << base::to_string(stream.error());
    if (!stream) co_return;
    const auto written =
        co_await (*stream)->write(base::as_bytes(text), base::Deadline::in(world.loop, 30s));
    EXPECT_TRUE(written);
    const auto got =
        co_await read_exactly(**stream, text.size(), base::Deadline::in(world.loop, 60s));
    if (got && *got == text) ++answered;
    (*stream)->close();
}

base::Task<void> write_text(base::Stream& stream, std::string_view text, base::Deadline deadline,
                            bool& written) {
    const auto result = co_await stream.write(base::as_bytes(text), deadline);
    written = result.has_value();
}

class Shards : public testing::TestWithParam<Device> {};

// T10, T16
TEST_P(Shards, BothOpenAndAcceptTheirOwnConnectionsOnOnePort) {
    ShardedWorld world{GetParam()};
    std::vector<std::unique_ptr<base::Listener>> listeners;
    const auto serve = [&](Stack& stack, std::string_view address) {
        listeners.push_back(*stack.listen(*base::SocketAddress::parse(address), {}));
        world.loop.spawn(serve_echo(world.loop, *listeners.back()), "serve");
    };
    for (const std::string_view any : {"0.0.0.0:25", "[::]:25"}) {
        for (const auto& relay : world.relays)
            serve(*relay, any);
        serve(*world.peer, any);
    }
    std::size_t answered = 0;
    constexpr std::size_t each_way = 80;
    for (std::size_t i = 0; i < each_way; ++i) {
        const bool v6 = i % 4 > 1;
        const std::string text(100 + i * 997, static_cast<char>('a' + i % 26));
        world.loop.spawn(ask(world, *world.relays[i % shards],
                             *base::SocketAddress::parse(v6 ? "[fd00::2]:25" : "10.0.0.2:25"), text,
                             answered),
                         "out");
        world.loop.spawn(ask(world, *world.peer,
                             *base::SocketAddress::parse(v6 ? "[fd00::1]:25" : "10.0.0.1:25"), text,
                             answered),
                         "in");
    }
    EXPECT_TRUE(world.run_until([&] { return answered == 2 * each_way; }));
    EXPECT_EQ(answered, 2 * each_way);
    std::uint64_t accepted = 0;
    for (const auto& relay : world.relays) {
        const StackStatistics all = relay->statistics();
        EXPECT_EQ(all.stack.connected, each_way / shards);
        EXPECT_GT(all.stack.accepted, each_way / 4) << "the flows are not spread";
        EXPECT_EQ(all.stack.segments_unknown, 0U);
        accepted += all.stack.accepted;
    }
    EXPECT_EQ(accepted, each_way);
    EXPECT_EQ(world.peer->statistics().tcp.resets_received, 0U);
    if (GetParam() == Device::rss) {
        EXPECT_EQ(world.handed_over(), 0U);
        for (unsigned shard = 0; shard < shards; ++shard) {
            EXPECT_TRUE(world.guard->proved(shard, false));
            EXPECT_TRUE(world.guard->proved(shard, true));
        }
    } else {
        EXPECT_GT(world.handed_over(), 100U);
    }
    if (GetParam() == Device::lying_rss) {
        EXPECT_FALSE(world.guard->proved(0, false));
        EXPECT_FALSE(world.guard->proved(1, true));
    }
    world.loop.drop_tasks();
    listeners.clear();
}

std::string name_of(const testing::TestParamInfo<Device>& device) {
    switch (device.param) {
    case Device::one_queue:
        return "OneQueue";
    case Device::rss:
        return "Rss";
    case Device::lying_rss:
        return "LyingRss";
    }
    return "";
}
INSTANTIATE_TEST_SUITE_P(On, Shards,
                         testing::Values(Device::one_queue, Device::rss, Device::lying_rss),
                         name_of);

/// A segment from the peer in two IPv4 fragments, as a router would have cut it.
std::array<std::vector<std::byte>, 2> in_two(std::vector<std::byte> frame) {
    constexpr std::size_t headers = 14 + 20, first_bytes = 200;
    std::array<std::vector<std::byte>, 2> parts;
    const std::size_t payload = frame.size() - headers;
    for (unsigned part = 0; part < 2; ++part) {
        std::vector<std::byte>& to = parts[part];
        const std::size_t from = part == 0 ? 0 : first_bytes;
        const std::size_t bytes = part == 0 ? first_bytes : payload - first_bytes;
        to.assign(frame.begin(), frame.begin() + headers);
        to.insert(to.end(), frame.begin() + static_cast<std::ptrdiff_t>(headers + from),
                  frame.begin() + static_cast<std::ptrdiff_t>(headers + from + bytes));
        const std::size_t total = 20 + bytes;
        to[16] = static_cast<std::byte>(total >> 8);
        to[17] = static_cast<std::byte>(total);
        to[20] = part == 0 ? std::byte{0x20} : std::byte{0};
        to[21] = static_cast<std::byte>(from / 8);
        to[24] = to[25] = std::byte{0};
        std::uint32_t sum = 0;
        for (std::size_t i = 14; i < headers; i += 2)
            sum += std::to_integer<unsigned>(to[i]) << 8 | std::to_integer<unsigned>(to[i + 1]);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = ~((sum & 0xffff) + (sum >> 16));
        to[24] = static_cast<std::byte>(sum >> 8);
        to[25] = static_cast<std::byte>(sum);
    }
    return parts;
}

// A fragment names no port: its flow's shard must be found by putting it together.
TEST_P(Shards, AFragmentedSegmentReachesItsConnectionOnWhicheverShard) {
    ShardedWorld world{GetParam()};
    auto listener = *world.peer->listen(*base::SocketAddress::parse("10.0.0.2:25"), {});
    for (unsigned shard = 0; shard < shards; ++shard) {
        Connected outgoing, incoming;
        world.loop.spawn(connect_once(*world.relays[shard], listener->local(), std::nullopt,
                                      base::Deadline::in(world.loop, 10s), outgoing),
                         "connect");
        world.loop.spawn(accept_once(*listener, base::Deadline::in(world.loop, 10s), incoming),
                         "accept");
        ASSERT_TRUE(world.run_until([&] { return outgoing && incoming; }, 20s));
        ASSERT_TRUE(*outgoing && *incoming);
        // The next segment with data is caught, and comes in two.
        std::vector<std::byte> caught;
        world.link.set_tap([&](unsigned side, SimLink::TapPoint point,
                               std::span<const std::byte> frame, base::TimePoint) {
            if (side == 1 && point == SimLink::TapPoint::sent && frame.size() > 200 &&
                caught.empty()) {
                caught.assign(frame.begin(), frame.end());
                world.link.line(1).change({.loss = 1.0});
            }
        });
        const std::string text(400, 'f');
        bool written = false;
        world.loop.spawn(
            write_text(***incoming, text, base::Deadline::in(world.loop, 10s), written), "write");
        ASSERT_TRUE(world.run_until([&] { return !caught.empty(); }, 5s));
        for (const std::vector<std::byte>& part : in_two(caught))
            world.link.deliver(0, part);
        EXPECT_TRUE(world.run_until([&] { return (**outgoing)->unread().size() == 400; }, 50ms))
            << "shard " << shard;
        world.link.set_tap({});
        world.link.line(1).change({});
        (**outgoing)->close();
        (**incoming)->close();
        world.run_until([] { return false; }, 2s);
    }
    for (const auto& relay : world.relays)
        EXPECT_EQ(relay->statistics().stack.resets_unknown, 0U);
    world.loop.drop_tasks();
    listener.reset();
}

} // namespace
} // namespace dataplane::net::stack
