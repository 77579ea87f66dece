// EthdevPort on devices that need no hardware: rings within the process, null, and memif to a second
// process, which is this program again.
#include "dataplane/net/port/eal.h"
#include "dataplane/net/port/ethdev_port.h"
#include "dataplane/net/port/frame_view.h"
#include "frames.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <optional>
#include <thread>

extern char** environ;

namespace dataplane::net::test {
namespace {

using namespace std::chrono_literals;
using Steady = std::chrono::steady_clock;

constexpr std::uint32_t end_ethertype = 0x88b5; // local experimental: tells the peer to go

std::optional<Eal> eal;
std::string why_no_eal;

EalOptions eal_options(const std::string& prefix) {
    return {
        .huge_pages = false, .memory_mb = 256, .file_prefix = prefix + std::to_string(::getpid())};
}

bool wait_for(const std::function<bool()>& done) {
    for (const auto end = Steady::now() + 10s; Steady::now() < end;) {
        if (done()) return true;
        std::this_thread::sleep_for(1ms);
    }
    return false;
}

class Ethdev : public testing::Test {
protected:
    void SetUp() override {
        if (!eal) GTEST_SKIP() << why_no_eal;
    }
    /// Two ports of one pair of rings, each read by this thread alone.
    struct Pair {
        std::unique_ptr<EthdevPort> a;
        std::unique_ptr<EthdevPort> b;
    };
    static Pair ring_pair(EthdevOptions options = {}) {
        static int number = 0;
        auto names = eal->add_ring_pair("t" + std::to_string(number++), options.queue_count);
        if (!names) {
            ADD_FAILURE() << names.error().text;
            return {};
        }
        Pair pair;
        options.device = names->second;
        auto b = EthdevPort::open(options);
        options.device = names->first;
        auto a = EthdevPort::open(options);
        EXPECT_TRUE(a) << a.error().text;
        EXPECT_TRUE(b) << b.error().text;
        if (a && b) pair = {std::move(*a), std::move(*b)};
        return pair;
    }
    base::SlabPool pool_{4096, 2048};
};

TEST_F(Ethdev, DpdkStartsOnlyOnce) {
    const auto again = Eal::start(eal_options("again"));
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().kind, PortErrorKind::already_started);
}

TEST_F(Ethdev, TheCallingThreadKeepsItsCpus) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    ASSERT_EQ(sched_getaffinity(0, sizeof cpus, &cpus), 0);
    EXPECT_EQ(static_cast<unsigned>(CPU_COUNT(&cpus)), std::thread::hardware_concurrency());
}

TEST(EalArguments, OneLcoreThatIsPinnedNowhere) {
    const auto words = Eal::arguments({.huge_pages = false, .memory_mb = 64}, {0, 3});
    EXPECT_NE(std::ranges::find(words, "--lcores=0@(0,3)"), words.end());
    EXPECT_NE(std::ranges::find(words, "--no-pci"), words.end());
    EXPECT_NE(std::ranges::find(words, "--no-huge"), words.end());
    EXPECT_EQ(std::ranges::find(words, "--in-memory"), words.end()) << "DPDK refuses both together";
}

TEST_F(Ethdev, ErrorsNameTheDeviceAndTheRemedy) {
    const auto driver = eal->add_device("net_nonesuch0");
    ASSERT_FALSE(driver);
    EXPECT_NE(driver.error().text.find("net_nonesuch0"), std::string::npos);
    const auto interface = eal->add_device("net_af_packet7,iface=nonesuch");
    ASSERT_FALSE(interface);
    EXPECT_NE(interface.error().text.find("does the interface exist"), std::string::npos);
    const auto port = EthdevPort::open({.device = "net_memif9"});
    ASSERT_FALSE(port);
    EXPECT_EQ(port.error().kind, PortErrorKind::no_device);
}

TEST_F(Ethdev, FramesCrossARingAsTheyMustBeOnTheWire) {
    auto [a, b] = ring_pair();
    ASSERT_TRUE(a && b);
    for (const bool v6 : {false, true}) {
        for (const std::size_t bytes : {0UL, 1UL, 511UL, 512UL, 1400UL}) {
            const Headers headers{.v6 = v6, .flags = 0x18};
            Outgoing out{pool_, headers, pattern(bytes), 0, 333};
            ASSERT_EQ(a->queue(0).send(out.frame()), SendResult::queued);
            a->queue(0).flush();
            const auto arrived = receive_all(b->queue(0));
            EXPECT_EQ(arrived, std::vector<Bytes>{wire_frame(headers, pattern(bytes))}) << bytes;
        }
    }
    EXPECT_EQ(a->queue(0).counters().frames_out, 10U);
    EXPECT_EQ(b->queue(0).counters().frames_in, 10U);
    EXPECT_EQ(a->queue(0).counters().slabs_held, 0U);
}

TEST_F(Ethdev, LargeFramesAreCutInSoftware) {
    for (const bool attach : {false, true}) {
        auto [a, b] = ring_pair({.attach_always = attach});
        ASSERT_TRUE(a && b);
        const Headers headers{.v6 = attach, .flags = 0x19};
        const Bytes payload = pattern(60'000);
        Outgoing out{pool_, headers, payload, 1400};
        ASSERT_EQ(a->queue(0).send(out.frame()), SendResult::queued);
        a->queue(0).flush();
        const auto arrived = receive_all(b->queue(0));
        ASSERT_EQ(arrived.size(), 43U);
        Bytes joined;
        for (std::size_t i = 0; i < arrived.size(); ++i) {
            EXPECT_EQ(verify_checksums(arrived[i]).l4, ChecksumState::good) << i;
            const std::size_t tcp = 14U + headers.l3_bytes();
            EXPECT_EQ(get32(arrived[i], tcp + 4), headers.seq + i * 1400);
            EXPECT_EQ(std::to_integer<int>(arrived[i][tcp + 13]), i == 42 ? 0x19 : 0x10);
            joined.insert(joined.end(),
                          arrived[i].begin() + static_cast<std::ptrdiff_t>(tcp + tcp_bytes),
                          arrived[i].end());
        }
        EXPECT_EQ(joined, payload);
    }
}

// T29, T59: a slab is held as long as the device has its bytes, and not longer.
TEST_F(Ethdev, AttachedSlabsAreHeldUntilTheDeviceIsDone) {
    auto [a, b] = ring_pair({.attach_always = true});
    ASSERT_TRUE(a && b);
    {
        Outgoing out{pool_, {}, pattern(1400), 0, 700};
        ASSERT_EQ(a->queue(0).send(out.frame()), SendResult::queued);
        a->queue(0).flush();
        EXPECT_EQ(out.slabs()[0].references(), 2U);
        EXPECT_EQ(out.slabs()[1].references(), 2U);
        EXPECT_EQ(a->queue(0).counters().slabs_held, 2U);
    } // the sender lets go: the device's references are the last
    EXPECT_EQ(pool_.free_count(), pool_.slab_count() - 2);
    EXPECT_EQ(receive_all(b->queue(0)), std::vector<Bytes>{wire_frame({}, pattern(1400))});
    EXPECT_EQ(a->queue(0).counters().slabs_held, 0U);
    EXPECT_EQ(pool_.free_count(), pool_.slab_count());
}

TEST_F(Ethdev, SmallPayloadIsCopiedAndHoldsNoSlab) {
    auto [a, b] = ring_pair({.attach_always = true});
    ASSERT_TRUE(a && b);
    Outgoing out{pool_, {}, pattern(511)};
    ASSERT_EQ(a->queue(0).send(out.frame()), SendResult::queued);
    EXPECT_EQ(out.slabs()[0].references(), 1U);
    a->queue(0).flush();
    EXPECT_EQ(receive_all(b->queue(0)), std::vector<Bytes>{wire_frame({}, pattern(511))});
}

// T68: the transmit pool is empty, control frames still go, and all recovers by itself.
TEST_F(Ethdev, TheReserveCarriesControlFramesWhenThePoolIsEmpty) {
    auto [a, b] = ring_pair({.transmit_buffers = 600});
    ASSERT_TRUE(a && b);
    Port& port = a->queue(0);
    Outgoing data{pool_, {}, pattern(100)};
    std::size_t sent = 0;
    EXPECT_EQ(port.send_room(), 600U);
    while (port.send(data.frame()) == SendResult::queued)
        ASSERT_LE(++sent, 600U);
    EXPECT_EQ(sent, 600U);
    EXPECT_EQ(port.send_room(), 0U);
    Outgoing ack{pool_, {}, {}};
    ack.frame().control = true;
    for (unsigned i = 0; i < control_reserve_min; ++i)
        ASSERT_EQ(port.send(ack.frame()), SendResult::queued) << i;
    EXPECT_EQ(port.send(ack.frame()), SendResult::no_buffers);
    EXPECT_EQ(port.counters().no_buffers, 2U);
    port.flush();
    EXPECT_EQ(receive_all(b->queue(0)).size(), 600U + control_reserve_min);
    EXPECT_EQ(port.send_room(), 600U);
    EXPECT_EQ(port.send(data.frame()), SendResult::queued);
}

// T68: attached payload needs mbufs of its own; without them it is copied.
TEST_F(Ethdev, WithoutAttachBuffersPayloadIsCopied) {
    auto [a, b] = ring_pair({.attached_buffers = 64, .attach_always = true});
    ASSERT_TRUE(a && b);
    Outgoing out{pool_, {}, pattern(1200)};
    for (unsigned i = 0; i < 100; ++i)
        ASSERT_EQ(a->queue(0).send(out.frame()), SendResult::queued);
    EXPECT_EQ(a->queue(0).counters().slabs_held, 64U);
    a->queue(0).flush();
    EXPECT_EQ(receive_all(b->queue(0)), std::vector<Bytes>(100, wire_frame({}, pattern(1200))));
    EXPECT_EQ(out.slabs()[0].references(), 1U);
}

// T69: a device that takes nothing. Here: a memif whose peer never comes.
TEST_F(Ethdev, ADeviceThatTakesNothingFillsTheRingAndIsNotSpunOn) {
    auto name = eal->add_device("net_memif5,role=server,id=5,socket=/tmp/millrace_none_" +
                                std::to_string(::getpid()));
    ASSERT_TRUE(name) << name.error().text;
    auto port = EthdevPort::open({.device = *name});
    ASSERT_TRUE(port) << port.error().text;
    EXPECT_FALSE((*port)->link_up());
    Port& queue = (*port)->queue(0);
    Outgoing data{pool_, {}, pattern(1200)};
    std::size_t sent = 0;
    const auto began = Steady::now();
    while (queue.send(data.frame()) == SendResult::queued) {
        ++sent;
        queue.flush();
    }
    EXPECT_EQ(sent, transmit_wait_max - transmit_wait_control);
    Outgoing ack{pool_, {}, {}};
    ack.frame().control = true;
    for (std::size_t i = 0; i < transmit_wait_control; ++i)
        ASSERT_EQ(queue.send(ack.frame()), SendResult::queued);
    EXPECT_EQ(queue.send(ack.frame()), SendResult::ring_full);
    EXPECT_EQ(queue.send_room(), 0U);
    EXPECT_LT(Steady::now() - began, 1s);
    EXPECT_GT(queue.counters().slabs_held, 0U);
    port->reset(); // gives back what waited
    EXPECT_EQ(pool_.free_count(), pool_.slab_count() - 1);
    eal->remove_device(*name);
}

TEST_F(Ethdev, KeyAndTableOfTheDeviceAreReadBack) {
    const auto name = eal->add_device("net_null3");
    ASSERT_TRUE(name) << name.error().text;
    const auto port = EthdevPort::open({.device = *name, .queue_count = 4});
    ASSERT_TRUE(port) << port.error().text;
    const auto layout = (*port)->queue(2).rss_layout();
    ASSERT_TRUE(layout);
    EXPECT_EQ(layout->key.size(), 40U);
    EXPECT_EQ(layout->table.size(), 128U);
    EXPECT_EQ((*port)->queue(2).info().queue, 2U);
    const std::string text = (*port)->report().text();
    EXPECT_NE(text.find("net_null on vdev"), std::string::npos) << text;
    EXPECT_NE(text.find("transmit checksum: in software (not offered)"), std::string::npos) << text;
    EXPECT_NE(text.find("spreading over queues (RSS): by the device"), std::string::npos) << text;
}

TEST_F(Ethdev, SeveralQueuesOnlyOfADeviceThatSpreadsFlowsOverThem) {
    const auto name = eal->add_device("net_null4");
    ASSERT_TRUE(name) << name.error().text;
    const auto spreads =
        EthdevPort::open({.device = *name, .queue_count = 2, .spread_or_one = true});
    ASSERT_TRUE(spreads) << spreads.error().text;
    EXPECT_EQ((*spreads)->queue_count(), 2U);
    const auto [a, b] = ring_pair({.queue_count = 2, .spread_or_one = true});
    ASSERT_TRUE(a && b);
    EXPECT_EQ(a->queue_count(), 1U);
    EXPECT_EQ(a->queue(0).info().queue_count, 1U);
    EXPECT_EQ(a->report().features.back().name, "spreading over queues (RSS)");
    EXPECT_EQ(a->report().features.back().why, "not offered");
}

// What a NIC needs, with a device that would read anything: the payload of registered slabs is not copied.
TEST_F(Ethdev, PayloadInRegisteredMemoryIsReadInPlace) {
    auto [a, b] = ring_pair({.attach_always = true, .reads_registered_only = true});
    ASSERT_TRUE(a && b);
    Port& port = a->queue(0);
    Outgoing out{pool_, {}, pattern(1400), 0, 700};
    ASSERT_EQ(port.send(out.frame()), SendResult::queued);
    port.flush();
    EXPECT_EQ(port.counters().payload_copied, 1U);
    EXPECT_EQ(port.counters().slabs_held, 0U);
    ASSERT_TRUE(port.register_memory(pool_.arena()));
    for (unsigned i = 0; i < 20; ++i)
        ASSERT_EQ(port.send(out.frame()), SendResult::queued);
    port.flush();
    EXPECT_EQ(port.counters().slabs_held, 40U);
    EXPECT_EQ(port.counters().payload_copied, 1U);
    base::SlabPool elsewhere{4096, 4};
    Outgoing other{elsewhere, {}, pattern(1400)};
    ASSERT_EQ(port.send(other.frame()), SendResult::queued);
    port.flush();
    EXPECT_EQ(port.counters().payload_copied, 2U);
    EXPECT_EQ(receive_all(b->queue(0)), std::vector<Bytes>(22, wire_frame({}, pattern(1400))));
    EXPECT_EQ(port.counters().slabs_held, 0U);
}

TEST_F(Ethdev, SettlingGetsBackWhatTheDeviceNeverTook) {
    auto name = eal->add_device("net_memif6,role=server,id=6,socket=/tmp/millrace_settle_" +
                                std::to_string(::getpid()));
    ASSERT_TRUE(name) << name.error().text;
    auto port = EthdevPort::open({.device = *name});
    ASSERT_TRUE(port) << port.error().text;
    Outgoing data{pool_, {}, pattern(1200)};
    Port& queue = (*port)->queue(0);
    ASSERT_EQ(queue.send(data.frame()), SendResult::queued);
    EXPECT_EQ(queue.counters().slabs_held, 1U);
    EXPECT_TRUE(queue.settle());
    EXPECT_EQ(queue.counters().slabs_held, 0U);
    EXPECT_EQ(queue.send(data.frame()), SendResult::ring_full);
}

TEST_F(Ethdev, AShardsThreadIsEnteredAndLeft) {
    auto [a, b] = ring_pair();
    ASSERT_TRUE(a && b);
    std::thread shard{[&port = a->queue(0)] {
        const auto entered = ShardThread::enter();
        ASSERT_TRUE(entered);
        base::SlabPool pool{2048, 4};
        Outgoing out{pool, {}, pattern(700)};
        ASSERT_EQ(port.send(out.frame()), SendResult::queued);
        port.flush();
    }};
    shard.join();
    EXPECT_EQ(receive_all(b->queue(0)).size(), 1U);
}

/// What comes out of a kernel interface: our frames, those from the kernel itself left out.
class RawSocket {
public:
    explicit RawSocket(const char* interface)
        : fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL))) {
        sockaddr_ll address{};
        address.sll_family = AF_PACKET;
        address.sll_protocol = htons(ETH_P_ALL);
        address.sll_ifindex = static_cast<int>(::if_nametoindex(interface));
        bound_ = ::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    }
    ~RawSocket() { ::close(fd_); }
    RawSocket(const RawSocket&) = delete;
    RawSocket& operator=(const RawSocket&) = delete;
    [[nodiscard]] bool bound() const { return bound_; }
    [[nodiscard]] std::optional<Bytes> next() {
        Bytes frame(4096);
        sockaddr_ll from{};
        socklen_t from_bytes = sizeof from;
        const auto got = ::recvfrom(fd_, frame.data(), frame.size(), 0,
                                    reinterpret_cast<sockaddr*>(&from), &from_bytes);
        if (got <= 0 || from.sll_pkttype == PACKET_OUTGOING) return std::nullopt;
        frame.resize(static_cast<std::size_t>(got));
        return frame;
    }

private:
    int fd_;
    bool bound_ = false;
};

// A veth whose other end refuses a frame keeps it in AF_PACKET's ring for good: it must not get one.
TEST_F(Ethdev, AFrameBeyondTheOtherEndsMtuDoesNotBlockAVeth) {
    std::string why_not;
    std::thread elsewhere{[&] { // of its own network namespace, with all that it makes
        if (::unshare(CLONE_NEWNET) != 0 ||
            std::system("ip link add mrk0 mtu 1400 type veth peer name mrp0 mtu 1500 && "
                        "ip link set mrk0 up && ip link set mrp0 up promisc on") != 0) {
            why_not = "no network namespace, or no veth";
            return;
        }
        const auto name = eal->add_device("net_af_packet8,iface=mrp0");
        ASSERT_TRUE(name) << name.error().text;
        auto port = EthdevPort::open({.device = *name});
        ASSERT_TRUE(port) << port.error().text;
        EXPECT_EQ((*port)->report().mtu, 1400U);
        EXPECT_EQ((*port)->report().mtu_wanted, 1500U);
        EXPECT_NE((*port)->report().why_mtu.find("other end of the veth"), std::string::npos);
        Port& queue = (*port)->queue(0);
        EXPECT_EQ(queue.info().mtu, 1400U);
        RawSocket kernel{"mrk0"};
        ASSERT_TRUE(kernel.bound());
        Outgoing large{pool_, {}, pattern(1400)};
        EXPECT_EQ(queue.send(large.frame()), SendResult::queued);
        EXPECT_EQ(queue.counters().transmit_errors, 1U);
        Outgoing full{pool_, {}, pattern(1348)};
        constexpr std::size_t frames = 20;
        for (std::size_t i = 0; i < frames; ++i)
            EXPECT_EQ(queue.send(full.frame()), SendResult::queued);
        queue.flush();
        std::size_t seen = 0;
        EXPECT_TRUE(wait_for([&] {
            while (auto got = kernel.next())
                seen += *got == wire_frame({}, pattern(1348)) ? 1 : 0;
            return seen >= frames;
        })) << seen;
        port->reset();
        eal->remove_device(*name);
    }};
    elsewhere.join();
    if (!why_not.empty()) GTEST_SKIP() << why_not;
}

// The offloads' own path: what we only ask for must come out as what we would have made.
TEST_F(Ethdev, WhatTheDeviceFillsInAndCutsIsWhatWeWouldHaveMade) {
    const auto name = eal->add_device("net_tap6,iface=mrtest6");
    if (!name) GTEST_SKIP() << name.error().text;
    const auto port = EthdevPort::open({.device = *name, .use_software_offloads = true});
    ASSERT_TRUE(port) << port.error().text;
    RawSocket kernel{"mrtest6"};
    ASSERT_TRUE(kernel.bound());
    Port& queue = (*port)->queue(0);
    EXPECT_TRUE(queue.info().tso);
    EXPECT_TRUE(queue.info().transmit_checksum);
    const auto sent_and_seen = [&](const TransmitFrame& frame, std::size_t count) {
        EXPECT_EQ(queue.send(frame), SendResult::queued);
        queue.flush();
        std::vector<Bytes> seen;
        wait_for([&] {
            while (auto got = kernel.next())
                seen.push_back(std::move(*got));
            return seen.size() >= count;
        });
        return seen;
    };
    for (const bool v6 : {false, true}) {
        const Headers headers{.v6 = v6, .flags = 0x18};
        Outgoing out{pool_, headers, pattern(1301), 0, 700};
        EXPECT_EQ(sent_and_seen(out.frame(), 1),
                  std::vector<Bytes>{wire_frame(headers, pattern(1301))});
    }
    const Headers headers{.flags = 0x19, .id = 50};
    const Bytes payload = pattern(4000);
    Outgoing large{pool_, headers, payload, 1400};
    const auto seen = sent_and_seen(large.frame(), 3);
    ASSERT_EQ(seen.size(), 3U);
    EXPECT_EQ(queue.counters().frames_out, 3U) << "the large one left as one";
    for (std::size_t i = 0; i < 3; ++i) {
        Headers piece = headers;
        piece.seq += static_cast<std::uint32_t>(i * 1400);
        piece.id = static_cast<std::uint16_t>(50 + i);
        piece.flags = i == 2 ? 0x19 : 0x10;
        const auto part = std::span{payload}.subspan(i * 1400, i == 2 ? 1200 : 1400);
        EXPECT_EQ(seen[i], wire_frame(piece, part)) << i;
    }
}

/// The other end of the memif: sends every frame back, until it is told to go.
int echo(const std::string& socket) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    auto peer_eal = Eal::start(eal_options("peer"));
    if (!peer_eal) return 2;
    auto name = peer_eal->add_device("net_memif0,role=client,id=0,socket=" + socket);
    if (!name) return 3;
    auto port = EthdevPort::open({.device = *name});
    if (!port) return 4;
    Port& queue = (*port)->queue(0);
    base::SlabPool slabs{2048, 1024};
    int result = 5;
    const auto end = Steady::now() + 60s;
    std::array<ReceivedFrame, receive_burst_max> burst;
    while (result != 0 && Steady::now() < end) {
        const std::size_t count = queue.receive(burst);
        for (const ReceivedFrame& frame : std::span{burst}.first(count)) {
            if (get16(frame.bytes, 12) == end_ethertype) result = 0;
            const std::size_t header = std::min<std::size_t>(frame.bytes.size(), 64);
            const base::SlabRef slab = slabs.take();
            const auto rest = frame.bytes.subspan(header);
            std::memcpy(slab.data(), rest.data(), rest.size());
            const FrameSlice slice{slab.get(), 0, static_cast<std::uint32_t>(rest.size())};
            const TransmitFrame out{.header = frame.bytes.first(header), .payload = {&slice, 1}};
            while (queue.send(out) != SendResult::queued && Steady::now() < end)
                queue.flush();
        }
        queue.release(std::span{burst}.first(count));
        queue.flush();
    }
    while (queue.counters().slabs_held > 0 && Steady::now() < end)
        queue.flush();
    return result;
}

TEST_F(Ethdev, FramesCrossAMemifToAnotherProcessAndBack) {
    const std::string socket = "/tmp/millrace_memif_" + std::to_string(::getpid());
    const auto name = eal->add_device("net_memif0,role=server,id=0,socket=" + socket);
    ASSERT_TRUE(name) << name.error().text;
    auto port = EthdevPort::open({.device = *name});
    ASSERT_TRUE(port) << port.error().text;
    std::string program = "/proc/self/exe";
    std::string mode = "--echo";
    std::string where = socket;
    std::array<char*, 4> argv{program.data(), mode.data(), where.data(), nullptr};
    pid_t peer = 0;
    ASSERT_EQ(posix_spawn(&peer, program.c_str(), nullptr, nullptr, argv.data(), environ), 0);
    ASSERT_TRUE(wait_for([&port] { return (*port)->link_up(); })) << "the peer does not connect";

    Port& queue = (*port)->queue(0);
    constexpr std::uint32_t frames = 20'000;
    std::uint32_t sent = 0;
    std::uint32_t came = 0;
    std::uint32_t wrong = 0;
    const auto end = Steady::now() + 20s;
    std::array<ReceivedFrame, receive_burst_max> burst;
    while (came < frames && Steady::now() < end) {
        for (unsigned i = 0; i < 32 && sent < frames && sent - came < 512; ++i) {
            const Headers headers{.v6 = sent % 2 == 0, .seq = sent};
            Outgoing out{pool_, headers, pattern(sent % 1400, sent), 0, 700};
            if (queue.send(out.frame()) != SendResult::queued) break;
            ++sent;
        }
        queue.flush();
        const std::size_t count = queue.receive(burst);
        for (const ReceivedFrame& frame : std::span{burst}.first(count)) {
            const Headers headers{.v6 = came % 2 == 0, .seq = came};
            const Bytes expected = wire_frame(headers, pattern(came % 1400, came));
            wrong += std::ranges::equal(frame.bytes, expected) ? 0 : 1;
            ++came;
        }
        queue.release(std::span{burst}.first(count));
    }
    EXPECT_EQ(came, frames);
    EXPECT_EQ(wrong, 0U);
    EXPECT_TRUE((*port)->report().features[0].name == "receive checksum");
    Bytes last(60);
    put16(last, 12, end_ethertype);
    ASSERT_EQ(queue.send({.header = last, .control = true}), SendResult::queued);
    queue.flush();
    int status = 0;
    ASSERT_EQ(::waitpid(peer, &status, 0), peer);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
    EXPECT_EQ(queue.counters().slabs_held, 0U);
    EXPECT_EQ(pool_.free_count(), pool_.slab_count());
}

} // namespace
} // namespace dataplane::net::test

int main(int argc, char** argv) {
    using namespace dataplane::net;
    if (argc == 3 && std::string{argv[1]} == "--echo") return test::echo(argv[2]);
    testing::InitGoogleTest(&argc, argv);
    if (auto started = Eal::start(test::eal_options("test")))
        test::eal.emplace(std::move(*started));
    else
        test::why_no_eal = started.error().text;
    const int result = RUN_ALL_TESTS();
    test::eal.reset();
    return result;
}
