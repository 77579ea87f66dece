// frames.h: a port that keeps what is sent, a host on it, and frames built by hand.
//
// Scope      For the tests of ip/ only. The port fills in checksums as a device would.
#pragma once

#include "dataplane/net/ip/layer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

namespace dataplane::net::ip::test {

using namespace std::chrono_literals;
using Frame = std::vector<std::byte>;

IpAddress ip(std::string_view text);
Frame bytes(std::initializer_list<int> values);
Frame operator+(Frame left, const Frame& right);
Frame run(std::size_t count, int first = 0); // first, first + 1, ...
std::uint16_t get16(const Frame& frame, std::size_t at);
std::uint32_t get32(const Frame& frame, std::size_t at);
IpAddress get_v4(const Frame& frame, std::size_t at);
IpAddress get_v6(const Frame& frame, std::size_t at);
MacAddress get_mac(const Frame& frame, std::size_t at);
Frame in16(unsigned value);
Frame in32(std::uint32_t value);
Frame in_mac(const MacAddress& mac);
Frame in_ip(const IpAddress& address);

inline constexpr MacAddress our_mac{0x02, 0, 0, 0, 0, 0x01}, peer_mac{0x02, 0, 0, 0, 0, 0x02},
    other_mac{0x02, 0, 0, 0, 0, 0x03}, everybody{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

// Frames, from the inside out. Checksums are right unless a test breaks them afterwards.
Frame ethernet(const MacAddress& to, const MacAddress& from, unsigned type, const Frame& l3);
Frame arp(bool reply, const MacAddress& sender_mac, const IpAddress& sender,
          const MacAddress& target_mac, const IpAddress& target);
struct V4 {
    IpAddress from, to;
    unsigned protocol = 6;
    Frame options;
    unsigned place = 0; // flags and fragment offset
    unsigned id = 0;
    unsigned tos = 0;
};
Frame ipv4(const V4& header, const Frame& payload);
struct V6 {
    IpAddress from, to;
    unsigned next = 6;
    unsigned hop_limit = 64;
    unsigned traffic_class = 0;
};
Frame ipv6(const V6& header, const Frame& payload);
/// A TCP header with these ports and sequence number, a right checksum, and `payload`.
Frame tcp(const IpAddress& from, const IpAddress& to, const Frame& payload = {},
          unsigned source_port = 25, unsigned destination_port = 40000, std::uint32_t seq = 1000);
/// Fills in the checksum of an ICMP message.
Frame icmp(Frame message);
Frame icmp6(const IpAddress& from, const IpAddress& to, Frame message);

class FakePort final : public Port {
public:
    explicit FakePort(MacAddress mac) { info_.mac = mac; }
    const PortInfo& info() const noexcept override { return info_; }
    std::size_t receive(std::span<ReceivedFrame>) noexcept override { return 0; }
    void release(std::span<const ReceivedFrame>) noexcept override {}
    SendResult send(const TransmitFrame& frame) noexcept override;
    std::size_t send_room() const noexcept override { return 64; }
    void flush() noexcept override {}
    const PortCounters& counters() const noexcept override { return counters_; }

    std::vector<Frame> sent;
    std::vector<bool> control;
    std::uint16_t last_segment_bytes = 0;
    SendResult answer = SendResult::queued;

private:
    PortInfo info_;
    PortCounters counters_;
};

struct Host {
    explicit Host(LayerOptions options, MacAddress mac = our_mac, unsigned seed = 1);

    std::optional<Datagram> receive(Frame frame, ChecksumState ip_state = ChecksumState::unknown,
                                    ChecksumState l4_state = ChecksumState::unknown);
    /// Sends a TCP header with `payload` behind it.
    Sent send(const IpAddress& to, Path& path, const Frame& payload = {});
    Sent send(const IpAddress& to) {
        Path path;
        return send(to, path);
    }
    /// Moves the clock on, stopping at every deadline.
    void pass(Duration time);
    Frame take(); // the oldest frame sent
    const LayerCounters& count() const { return layer.counters(); }

    FakePort port;
    std::minstd_rand random;
    base::SlabPool slabs;
    Layer layer;
    TimePoint now{1000s};
    Frame last; // what the datagram that receive() gave is a view of
    std::optional<TransportError> error;
    std::vector<std::pair<IpAddress, bool>> settled;
    std::vector<std::pair<IpAddress, MacAddress>> learned;
};

/// 192.0.2.10/24 and 2001:db8::10/64, gateways .1 and ::1.
LayerOptions usual_options();

} // namespace dataplane::net::ip::test
