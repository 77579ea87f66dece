// frames.h: TCP frames for the ports' tests, and checksums computed the slow, plain way.
//
// Scope      Headers as the IP layer gives them to a port, all checksums zero; whole frames as they must
//            be on the wire, made without any of the code under test.
#pragma once

#include "dataplane/base/slab.h"
#include "dataplane/net/port/port.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <vector>

namespace dataplane::net::test {

using Bytes = std::vector<std::byte>;

inline void put16(Bytes& out, std::size_t at, std::uint32_t value) {
    out[at] = static_cast<std::byte>(value >> 8);
    out[at + 1] = static_cast<std::byte>(value);
}
inline void put32(Bytes& out, std::size_t at, std::uint32_t value) {
    put16(out, at, value >> 16);
    put16(out, at + 2, value & 0xffff);
}
inline std::uint32_t get16(std::span<const std::byte> in, std::size_t at) {
    return std::to_integer<std::uint32_t>(in[at]) << 8 | std::to_integer<std::uint32_t>(in[at + 1]);
}
inline std::uint32_t get32(std::span<const std::byte> in, std::size_t at) {
    return get16(in, at) << 16 | get16(in, at + 2);
}

/// RFC 1071 by the book: 16 bits at a time, carry added at the end.
inline std::uint16_t plain_checksum(const Bytes& bytes) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i)
        sum += std::to_integer<std::uint64_t>(bytes[i]) << (i % 2 == 0 ? 8 : 0);
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum);
}

struct Headers {
    bool v6 = false;
    std::uint32_t seq = 1000;
    std::uint8_t flags = 0x10;
    std::uint16_t id = 7;
    std::uint16_t source_port = 40000;
    std::uint16_t destination_port = 25;
    std::uint8_t ecn = 0;

    [[nodiscard]] std::uint16_t l3_bytes() const { return v6 ? 40 : 20; }
};

constexpr std::uint16_t tcp_bytes = 32; // with a timestamp option

inline Bytes header_bytes(const Headers& h, std::size_t payload_bytes) {
    Bytes out(14U + h.l3_bytes() + tcp_bytes);
    out[5] = std::byte{2};
    out[11] = std::byte{1};
    put16(out, 12, h.v6 ? 0x86dd : 0x0800);
    const std::size_t tcp = 14U + h.l3_bytes();
    if (h.v6) {
        put32(out, 14, 0x6000'0000U | std::uint32_t{h.ecn} << 20);
        put16(out, 18, static_cast<std::uint32_t>(tcp_bytes + payload_bytes));
        out[20] = std::byte{6};
        out[21] = std::byte{64};
        for (std::size_t at : {std::size_t{22}, std::size_t{38}}) {
            put32(out, at, 0x2001'0db8);
            out[at + 15] = static_cast<std::byte>(at);
        }
    } else {
        out[14] = std::byte{0x45};
        out[15] = std::byte{h.ecn};
        put16(out, 16, static_cast<std::uint32_t>(20 + tcp_bytes + payload_bytes));
        put16(out, 18, h.id);
        put16(out, 20, 0x4000);
        out[22] = std::byte{64};
        out[23] = std::byte{6};
        put32(out, 26, 0xc000'0201);
        put32(out, 30, 0xc000'0202);
    }
    put16(out, tcp, h.source_port);
    put16(out, tcp + 2, h.destination_port);
    put32(out, tcp + 4, h.seq);
    put32(out, tcp + 8, 77);
    out[tcp + 12] = std::byte{tcp_bytes / 4 << 4};
    out[tcp + 13] = std::byte{h.flags};
    put16(out, tcp + 14, 512);
    put32(out, tcp + 20, 0x0101'080a);
    put32(out, tcp + 24, 123456);
    return out;
}

/// The frame as it must be on the wire: header, payload, checksums.
inline Bytes wire_frame(const Headers& h, std::span<const std::byte> payload) {
    Bytes out = header_bytes(h, payload.size());
    out.insert(out.end(), payload.begin(), payload.end());
    const std::size_t tcp = 14U + h.l3_bytes();
    Bytes pseudo;
    if (h.v6) {
        pseudo.assign(out.begin() + 22, out.begin() + 54);
    } else {
        pseudo.assign(out.begin() + 26, out.begin() + 34);
        put16(out, 24, plain_checksum(Bytes(out.begin() + 14, out.begin() + 34)));
    }
    const std::size_t l4 = out.size() - tcp;
    pseudo.resize(pseudo.size() + 8);
    put32(pseudo, pseudo.size() - 8, static_cast<std::uint32_t>(l4));
    put32(pseudo, pseudo.size() - 4, 6);
    pseudo.insert(pseudo.end(), out.begin() + static_cast<std::ptrdiff_t>(tcp), out.end());
    put16(out, tcp + 16, plain_checksum(pseudo));
    return out;
}

inline Bytes pattern(std::size_t bytes, unsigned seed = 1) {
    Bytes out(bytes);
    for (std::size_t i = 0; i < bytes; ++i)
        out[i] = static_cast<std::byte>((i * 31 + seed * 7 + i / 251) & 0xff);
    return out;
}

/// Payload in slabs, and a TransmitFrame over it; borrowed parts live in here.
class Outgoing {
public:
    Outgoing(base::SlabPool& pool, const Headers& headers, const Bytes& payload,
             std::uint16_t segment_bytes = 0, std::size_t slice_bytes = SIZE_MAX)
        : header_(header_bytes(headers, payload.size())) {
        for (std::size_t at = 0; at < payload.size();) {
            base::SlabRef slab = pool.take();
            EXPECT_TRUE(slab);
            const std::size_t bytes =
                std::min({payload.size() - at, slice_bytes, std::size_t{slab.capacity()}});
            std::memcpy(slab.data(), payload.data() + at, bytes);
            slices_.push_back({slab.get(), 0, static_cast<std::uint32_t>(bytes)});
            slabs_.push_back(std::move(slab));
            at += bytes;
        }
        frame_ = {.header = header_,
                  .payload = slices_,
                  .l2_bytes = 14,
                  .l3_bytes = headers.l3_bytes(),
                  .l4_bytes = tcp_bytes,
                  .ipv4_checksum = !headers.v6,
                  .l4_checksum = L4::tcp,
                  .segment_bytes = segment_bytes};
    }
    Outgoing(const Outgoing&) = delete;
    Outgoing& operator=(const Outgoing&) = delete;

    [[nodiscard]] TransmitFrame& frame() { return frame_; }
    [[nodiscard]] std::vector<base::SlabRef>& slabs() { return slabs_; }

private:
    Bytes header_;
    std::vector<base::SlabRef> slabs_;
    std::vector<FrameSlice> slices_;
    TransmitFrame frame_;
};

inline std::vector<Bytes> receive_all(Port& port) {
    std::vector<Bytes> out;
    std::array<ReceivedFrame, receive_burst_max> burst;
    for (std::size_t count = port.receive(burst); count > 0; count = port.receive(burst)) {
        for (const ReceivedFrame& frame : std::span{burst}.first(count))
            out.emplace_back(frame.bytes.begin(), frame.bytes.end());
        port.release(std::span{burst}.first(count));
    }
    return out;
}

} // namespace dataplane::net::test
