// raw_port.h: a Port that carries raw IP packets: a script, or packetdrill itself, is at the other end.
//
// Scope      Puts Ethernet around what is injected and takes it off what the stack sends, so that the
//            link looks point-to-point: ARP and Neighbour Discovery are answered in here. Cuts what is
//            larger than segment_bytes and fills in checksums, as a Port must.
// Owns       Copies of the frames that the stack has not released yet.
// Threading  The Loop's.
// Failure    None; it takes every frame.
#pragma once

#include "dataplane/net/port/port.h"
#include "tests/dataplane/net/packetdrill/wire.h"

#include <deque>
#include <functional>
#include <memory>

namespace tests::packetdrill {

namespace net = dataplane::net;

class RawPort final : public net::Port {
public:
    /// Of everything at the other end.
    static constexpr net::MacAddress peer_mac{0x02, 0, 0, 0, 0, 0x02};

    /// \param sink  gets every IP packet that the stack sends, at once; valid for the call only
    RawPort(std::uint16_t mtu, std::function<void(std::span<const std::byte>)> sink);

    /// Towards the stack: it takes it with its next poll.
    void inject(std::span<const std::byte> ip_packet);
    [[nodiscard]] bool has_incoming() const noexcept { return !incoming_.empty(); }

    [[nodiscard]] const net::PortInfo& info() const noexcept override { return info_; }
    [[nodiscard]] std::size_t receive(std::span<net::ReceivedFrame> frames) noexcept override;
    void release(std::span<const net::ReceivedFrame> frames) noexcept override;
    [[nodiscard]] net::SendResult send(const net::TransmitFrame& frame) noexcept override;
    [[nodiscard]] std::size_t send_room() const noexcept override { return 4096; }
    void flush() noexcept override {}
    [[nodiscard]] const net::PortCounters& counters() const noexcept override { return counters_; }
    /// Frames that the stack holds: none when it is idle.
    [[nodiscard]] std::size_t unreleased_count() const noexcept { return unreleased_.size(); }

private:
    void push_frame(std::uint16_t ether_type, std::span<const std::byte> packet);
    void answer_arp(std::span<const std::byte> request);
    [[nodiscard]] bool answer_neighbour_solicitation(std::span<const std::byte> packet);
    void send_one(const net::TransmitFrame& frame, std::size_t offset,
                  std::span<const std::byte> piece, bool last);

    net::PortInfo info_;
    net::PortCounters counters_;
    std::function<void(std::span<const std::byte>)> sink_;
    std::deque<std::unique_ptr<Bytes>> incoming_;
    std::vector<std::unique_ptr<Bytes>> unreleased_;
};

} // namespace tests::packetdrill
