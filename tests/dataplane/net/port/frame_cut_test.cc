// Cutting and checksums in software, against frames made the plain way.
#include "dataplane/net/port/checksum.h"
#include "dataplane/net/port/frame_cut.h"
#include "dataplane/net/port/frame_view.h"
#include "frames.h"

namespace dataplane::net::test {
namespace {

std::vector<Bytes> cut(const TransmitFrame& frame) {
    FrameCutter cutter{frame};
    WireFrame wire;
    std::vector<Bytes> out;
    while (cutter.next(wire)) {
        fill_checksums(wire.head(), frame, wire.payload());
        out.emplace_back(wire.size_bytes());
        wire.copy_to(out.back());
    }
    return out;
}

class FrameCut : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Families, FrameCut, testing::Bool(),
                         [](const auto& family) { return family.param ? "v6" : "v4"; });

TEST_P(FrameCut, PiecesAreTheFramesTheSenderWouldHaveMadeItself) {
    base::SlabPool pool{4096, 16};
    // FIN, PSH, ACK and CWR: the first two belong to the last piece, the last to the first.
    const Headers headers{.v6 = GetParam(), .seq = 0xffff'fc00, .flags = 0x99, .id = 0xffff};
    const Bytes payload = pattern(9001);
    Outgoing out{pool, headers, payload, 1448, 997}; // odd slices: sums go over odd boundaries
    ASSERT_EQ(wire_frame_count(out.frame()), 7U);

    std::vector<Bytes> expected;
    for (std::size_t at = 0; at < payload.size(); at += 1448) {
        Headers piece = headers;
        const bool last = at + 1448 >= payload.size();
        piece.seq += static_cast<std::uint32_t>(at); // wraps on the way
        piece.id = static_cast<std::uint16_t>(headers.id + at / 1448);
        piece.flags = static_cast<std::uint8_t>(0x10 | (at == 0 ? 0x80 : 0) | (last ? 0x09 : 0));
        const std::size_t bytes = std::min<std::size_t>(1448, payload.size() - at);
        expected.push_back(wire_frame(piece, std::span{payload}.subspan(at, bytes)));
    }
    EXPECT_EQ(cut(out.frame()), expected);
}

TEST_P(FrameCut, WhatFitsOneSegmentIsLeftAsItIs) {
    base::SlabPool pool{4096, 4};
    const Headers headers{.v6 = GetParam(), .flags = 0x99};
    for (const std::size_t bytes : {0UL, 1UL, 1447UL, 1448UL}) {
        const Bytes payload = pattern(bytes);
        Outgoing out{pool, headers, payload, 1448};
        EXPECT_EQ(cut(out.frame()), std::vector<Bytes>{wire_frame(headers, payload)}) << bytes;
    }
}

TEST_P(FrameCut, VerdictsFollowTheBytes) {
    const Headers headers{.v6 = GetParam()};
    Bytes frame = wire_frame(headers, pattern(101));
    frame.resize(frame.size() + 5, std::byte{0xee}); // padding does not count
    EXPECT_EQ(verify_checksums(frame).l4, ChecksumState::good);
    EXPECT_EQ(verify_checksums(frame).ip,
              headers.v6 ? ChecksumState::unknown : ChecksumState::good);
    frame[frame.size() - 10] ^= std::byte{1};
    EXPECT_EQ(verify_checksums(frame).l4, ChecksumState::bad);
}

TEST_P(FrameCut, NoTruncationReadsBeyondTheFrame) {
    const Bytes frame = wire_frame({.v6 = GetParam()}, pattern(10));
    for (std::size_t bytes = 0; bytes < frame.size(); ++bytes) {
        const Bytes cut_off(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(bytes));
        EXPECT_FALSE(view_frame(cut_off)) << bytes;
        static_cast<void>(view_headers(cut_off));
        EXPECT_EQ(verify_checksums(cut_off).l4, ChecksumState::unknown);
    }
}

// The vectors of Microsoft's "Verifying the RSS Hash Calculation".
TEST(RssHash, IsWhatHardwareComputes) {
    Bytes v4 = header_bytes({.source_port = 2794, .destination_port = 1766}, 0);
    put32(v4, 26, 0x420995bb); // 66.9.149.187
    put32(v4, 30, 0xa18e6450); // 161.142.100.80
    EXPECT_EQ(rss_hash(v4, rss_key_default), 0x51cc'c178U);
    Bytes v6 = header_bytes({.v6 = true, .source_port = 2794, .destination_port = 1766}, 0);
    put32(v6, 22, 0x3ffe'2501); // 3ffe:2501:200:1fff::7 to 3ffe:2501:200:3::1
    put32(v6, 26, 0x0200'1fff);
    put32(v6, 30, 0);
    put32(v6, 34, 7);
    put32(v6, 38, 0x3ffe'2501);
    put32(v6, 42, 0x0200'0003);
    put32(v6, 46, 0);
    put32(v6, 50, 1);
    EXPECT_EQ(rss_hash(v6, rss_key_default), 0x4020'7d3dU);
}

TEST(MarkCongestion, OnlyEcnCapablePacketsAndTheChecksumStaysRight) {
    for (const bool v6 : {false, true}) {
        Bytes plain = wire_frame({.v6 = v6}, pattern(8));
        EXPECT_FALSE(mark_congestion(plain));
        Bytes capable = wire_frame({.v6 = v6, .ecn = 2}, pattern(8));
        EXPECT_TRUE(mark_congestion(capable));
        EXPECT_EQ(capable, wire_frame({.v6 = v6, .ecn = 3}, pattern(8)));
    }
}

} // namespace
} // namespace dataplane::net::test
