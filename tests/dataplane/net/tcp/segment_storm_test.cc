// Goal: a hundred million segments of every kind, to connections in every state, break nothing. Method: the fuzzer's own
// target, fed from a seed with headers that parse, so that most of them reach the state machine; its CHECKs are
// the test. MILLRACE_SEGMENTS says how many (100000000 take some minutes), MILLRACE_SEED where to begin.
#include "dataplane/net/tcp/segment.h"

#include <cstdint>
#include <cstdlib>
#include <gtest/gtest.h>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace dataplane::net::tcp::test {
namespace {

std::uint64_t number_from(const char* name, std::uint64_t otherwise) {
    const char* const given = std::getenv(name);
    return given != nullptr ? std::strtoull(given, nullptr, 10) : otherwise;
}

class Storm {
public:
    explicit Storm(std::uint64_t seed) : random_(seed) {}

    /// One life of a connection; returns how many segments it was sent.
    std::uint64_t play() {
        bytes_.clear();
        add(random_() % 16);
        const unsigned records = 20 + random_() % 80;
        std::uint64_t segments = 0;
        for (unsigned i = 0; i < records; ++i) {
            const unsigned kind = random_() % 16;
            if (kind < 7) { // the application, time, ICMP
                add(kind);
                const unsigned length = random_() % (kind == 2 ? 40 : 120);
                add(length);
                for (unsigned j = 0; j < length; ++j)
                    add(random_());
            } else {
                segment();
                ++segments;
            }
        }
        LLVMFuzzerTestOneInput(bytes_.data(), bytes_.size());
        return segments;
    }

private:
    void add(std::uint64_t byte) { bytes_.push_back(static_cast<std::uint8_t>(byte)); }
    void add16(std::uint64_t value) {
        add(value >> 8);
        add(value);
    }
    void add32(std::uint64_t value) {
        add16(value >> 16);
        add16(value);
    }
    /// Mostly where the connection is, sometimes anywhere.
    std::uint64_t sequence() {
        switch (random_() % 8) {
        case 0:
            return 0xee00'0000 | random_();
        case 1:
        case 2:
            return static_cast<std::uint16_t>(random_());
        case 3:
            return static_cast<std::uint32_t>(-static_cast<std::int32_t>(random_() % 3000)) &
                   0xffff;
        default:
            return random_() % 3;
        }
    }
    void segment() {
        constexpr std::uint8_t usual[] = {
            flag::ack, flag::ack, flag::ack | flag::psh, flag::ack | flag::fin,
            flag::rst, flag::syn, flag::rst | flag::ack, flag::ack | flag::ece};
        add(7);
        const std::size_t length_at = bytes_.size();
        add(0);
        const std::size_t begin = bytes_.size();
        add16(1000);
        add16(25);
        add32(sequence());
        add32(sequence());
        const std::size_t offset_at = bytes_.size();
        add(0);
        add(random_() % 8 == 0 ? random_() : usual[random_() % std::size(usual)]);
        add16(random_() % 4 == 0 ? random_() % 4 : random_());
        add32(0);
        if (random_() % 4 != 0) {
            for (const unsigned byte : {1, 1, 8, 10})
                add(byte);
            add32(random_() % 4 == 0 ? random_() : 2 + random_() % 100);
            add32(random_() % 4 == 0 ? random_() : 78 + random_() % 100);
        }
        if (random_() % 3 == 0) {
            const unsigned blocks = 1 + random_() % 2;
            for (const unsigned byte : {1U, 1U, 5U, 2U + 8U * blocks})
                add(byte);
            for (unsigned i = 0; i < blocks; ++i) {
                const std::uint64_t from = random_() % 5000;
                add32(from);
                add32(from + random_() % 3000);
            }
        }
        bytes_[offset_at] = static_cast<std::uint8_t>((bytes_.size() - begin) / 4 << 4);
        for (std::uint64_t left = random_() % 2 * (random_() % 120); left > 0; --left)
            add(left);
        bytes_[length_at] = static_cast<std::uint8_t>(bytes_.size() - begin);
    }

    std::minstd_rand random_;
    std::vector<std::uint8_t> bytes_;
};

// T64
TEST(SegmentStorm, AnySegmentsInAnyStateBreakNothing) {
    const std::uint64_t wanted = number_from("MILLRACE_SEGMENTS", 1'000'000);
    std::uint64_t seed = number_from("MILLRACE_SEED", 1);
    for (std::uint64_t sent = 0; sent < wanted; ++seed) {
        Storm storm{seed * 0x9e37'79b9 + 1};
        for (int life = 0; life < 100 && sent < wanted; ++life)
            sent += storm.play();
    }
    RecordProperty("last_seed", std::to_string(seed));
}

} // namespace
} // namespace dataplane::net::tcp::test
