// pcapng parsed back by a reader of its own, filters, bounds.
#include "dataplane/net/port/capture_port.h"
#include "dataplane/net/port/sim_link.h"
#include "frames.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace dataplane::net::test {
namespace {

using namespace std::chrono_literals;
using base::TimePoint;
using base::WallTime;

struct Packet {
    std::uint64_t time_ns = 0;
    std::uint32_t original = 0;
    std::uint32_t flags = 0;
    Bytes bytes;
};

std::uint32_t native32(std::span<const std::byte> in, std::size_t at) {
    std::uint32_t value = 0;
    std::memcpy(&value, in.data() + at, sizeof value);
    return value;
}

/// Reads the blocks that PcapngWriter writes, and holds each against the format.
std::vector<Packet> parse(std::span<const std::byte> file) {
    std::vector<Packet> packets;
    std::size_t index = 0;
    while (!file.empty()) {
        EXPECT_GE(file.size(), 12U);
        const std::uint32_t type = native32(file, 0);
        const std::uint32_t bytes = native32(file, 4);
        EXPECT_EQ(bytes % 4, 0U);
        if (bytes > file.size() || bytes < 12) {
            ADD_FAILURE() << "block " << index << " has " << bytes << " bytes";
            return packets;
        }
        EXPECT_EQ(native32(file, bytes - 4), bytes);
        if (index == 0) {
            EXPECT_EQ(type, 0x0a0d0d0aU);
            EXPECT_EQ(native32(file, 8), 0x1a2b3c4dU);
        } else if (index == 1) {
            EXPECT_EQ(type, 1U);
            EXPECT_EQ(native32(file, 8) & 0xffff, 1U); // Ethernet
        } else {
            EXPECT_EQ(type, 6U);
            Packet packet;
            packet.time_ns = std::uint64_t{native32(file, 12)} << 32 | native32(file, 16);
            const std::uint32_t kept = native32(file, 20);
            packet.original = native32(file, 24);
            packet.bytes.assign(file.begin() + 28, file.begin() + 28 + kept);
            const std::size_t options = 28 + (kept + 3) / 4 * 4;
            EXPECT_EQ(native32(file, options), 2U | 4U << 16);
            packet.flags = native32(file, options + 4);
            packets.push_back(std::move(packet));
        }
        file = file.subspan(bytes);
        ++index;
    }
    return packets;
}

constexpr WallTime wall{std::chrono::milliseconds{1'767'225'600'123}};

class Capture : public testing::Test {
protected:
    base::SlabPool pool_{4096, 16};
    SimLink link_{{}};
    CapturePort port_{link_.port(0)};
};

TEST_F(Capture, BothDirectionsWithTimesAndWholeFrames) {
    port_.start({}, {}, TimePoint{5s}, wall);
    Outgoing out{pool_, {}, pattern(3001), 1448};
    port_.advance(TimePoint{5s + 7ns});
    ASSERT_EQ(port_.send(out.frame()), SendResult::queued);
    port_.flush();
    link_.deliver(0, wire_frame({.v6 = true}, pattern(99)));
    port_.advance(TimePoint{6s});
    ASSERT_EQ(receive_all(port_).size(), 1U);

    const auto packets = parse(port_.stop());
    ASSERT_EQ(packets.size(), 4U); // three segments, as they leave, and one in
    EXPECT_EQ(packets[0].time_ns, 1'767'225'600'123'000'007U);
    EXPECT_EQ(packets[0].flags, 2U);
    const Bytes payload = pattern(3001);
    EXPECT_EQ(packets[2].bytes,
              wire_frame({.seq = 1000 + 2896, .id = 9}, std::span{payload}.subspan(2896)));
    EXPECT_EQ(packets[3].flags, 1U);
    EXPECT_EQ(packets[3].bytes, wire_frame({.v6 = true}, pattern(99)));
    EXPECT_EQ(packets[3].time_ns, 1'767'225'601'123'000'000U);
    EXPECT_TRUE(port_.stop().empty());
}

TEST_F(Capture, FilterTakesAddressPortOrConnection) {
    const Bytes v4 = wire_frame({}, {});
    const Bytes v6 = wire_frame({.v6 = true}, {});
    const Bytes arp(60);
    const auto network = [](const char* text) { return *base::Network::parse(text); };
    const auto socket = [](const char* text) { return *base::SocketAddress::parse(text); };
    EXPECT_TRUE(CaptureFilter{}.matches(arp));
    EXPECT_FALSE(CaptureFilter{.port = 25}.matches(arp));
    EXPECT_TRUE(CaptureFilter{.port = 25}.matches(v4));
    EXPECT_TRUE(CaptureFilter{.port = 40000}.matches(v6));
    EXPECT_FALSE(CaptureFilter{.port = 26}.matches(v4));
    EXPECT_TRUE(CaptureFilter{.address = network("192.0.2.2")}.matches(v4));
    EXPECT_FALSE(CaptureFilter{.address = network("192.0.2.2")}.matches(v6));
    EXPECT_TRUE(CaptureFilter{.address = network("2001:db8::/32")}.matches(v6));
    const auto a = socket("192.0.2.1:40000");
    const auto b = socket("192.0.2.2:25");
    EXPECT_TRUE((CaptureFilter{.connection_a = a, .connection_b = b}).matches(v4));
    EXPECT_TRUE((CaptureFilter{.connection_a = b, .connection_b = a}).matches(v4));
    EXPECT_FALSE(
        (CaptureFilter{.connection_a = a, .connection_b = socket("192.0.2.2:26")}).matches(v4));
}

TEST_F(Capture, EndsAtItsBytesAndKeepsAWholeFile) {
    port_.start({}, {.bytes = 4096}, TimePoint{1s}, wall);
    for (unsigned i = 0; i < 10; ++i) {
        link_.deliver(0, wire_frame({}, pattern(900)));
        EXPECT_EQ(receive_all(port_).size(), 1U) << "frames pass on";
    }
    EXPECT_FALSE(port_.running());
    const auto file = port_.stop();
    EXPECT_LE(file.size(), 4096U);
    EXPECT_EQ(parse(file).size(), 3U);
}

TEST_F(Capture, EndsAtItsTimeAndCutsFramesAtTheSnapLength) {
    port_.start({}, {.time = 1s, .snap_bytes = 50}, TimePoint{1s}, wall);
    link_.deliver(0, wire_frame({}, pattern(900)));
    receive_all(port_);
    port_.advance(TimePoint{2s});
    EXPECT_FALSE(port_.running());
    link_.deliver(0, wire_frame({}, pattern(900)));
    receive_all(port_);
    const auto packets = parse(port_.stop());
    ASSERT_EQ(packets.size(), 1U);
    EXPECT_EQ(packets[0].bytes.size(), 50U);
    EXPECT_EQ(packets[0].original, 966U);
}

TEST_F(Capture, TsharkReadsIt) {
    if (std::system("tshark --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "no tshark here";
    port_.start({}, {}, TimePoint{1s}, wall);
    Outgoing out{pool_, {.v6 = true}, pattern(5000), 1428};
    ASSERT_EQ(port_.send(out.frame()), SendResult::queued);
    const auto file = port_.stop();
    const auto path = std::filesystem::temp_directory_path() /
                      ("capture_test." + std::to_string(::getpid()) + ".pcapng");
    {
        std::ofstream stream{path, std::ios::binary};
        stream.write(reinterpret_cast<const char*>(file.data()),
                     static_cast<std::streamsize>(file.size()));
    }
    const std::string command = "tshark -r " + path.string() +
                                " -o tcp.check_checksum:TRUE -T fields -e tcp.len"
                                " -e tcp.checksum.status -e frame.interface_name 2>/dev/null";
    std::FILE* pipe = ::popen(command.c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    std::string said;
    std::array<char, 256> chunk{};
    while (std::fgets(chunk.data(), chunk.size(), pipe) != nullptr)
        said += chunk.data();
    ::pclose(pipe);
    std::filesystem::remove(path);
    EXPECT_EQ(said, "1428\t1\tsim0\n1428\t1\tsim0\n1428\t1\tsim0\n716\t1\tsim0\n");
}

} // namespace
} // namespace dataplane::net::test
