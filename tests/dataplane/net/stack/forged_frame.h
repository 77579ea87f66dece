// forged_frame.h: a TCP segment from anybody, as a frame for the server of a World: right in all its checksums.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

namespace dataplane::net::stack {

struct Forged {
    std::uint8_t host = 77; // 10.0.0.x
    std::uint16_t source_port = 0;
    std::uint16_t destination_port = 25;
    std::uint32_t seq = 0;
    std::uint32_t ack = 0;
    std::uint8_t flags = 0;
};

[[nodiscard]] inline std::vector<std::byte> forge(const Forged& segment) {
    std::vector<std::byte> frame;
    const auto put = [&frame](std::initializer_list<unsigned> bytes) {
        for (const unsigned byte : bytes)
            frame.push_back(static_cast<std::byte>(byte & 255));
    };
    const auto put32 = [&put](std::uint32_t word) {
        put({word >> 24, word >> 16, word >> 8, word});
    };
    put({2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, segment.host, 8, 0});
    put({0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, segment.host, 10, 0, 0, 2});
    put({segment.source_port / 256U, segment.source_port, segment.destination_port / 256U,
         segment.destination_port});
    put32(segment.seq);
    put32(segment.ack);
    put({0x50, segment.flags, 255, 255, 0, 0, 0, 0});
    const auto fill = [&frame](std::size_t at, std::size_t from, std::uint32_t sum) {
        for (std::size_t i = from; i < (at < 34 ? 34U : 54U); ++i)
            sum += std::to_integer<unsigned>(frame[i]) << (i % 2 == 0 ? 8 : 0);
        while (sum >> 16 != 0)
            sum = (sum & 0xffff) + (sum >> 16);
        frame[at] = static_cast<std::byte>(~sum >> 8 & 255);
        frame[at + 1] = static_cast<std::byte>(~sum & 255);
    };
    fill(24, 14, 0);
    fill(50, 26, 6 + 20);
    frame.resize(60);
    return frame;
}

} // namespace dataplane::net::stack
