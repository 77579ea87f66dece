#include "dataplane/base/slab.h"
#include "queue/disk/crc32c.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace {

using queue::crc32c;
using queue::crc32c_copy;

std::uint32_t bit_by_bit(std::uint32_t start, std::span<const std::byte> bytes) {
    std::uint32_t crc = ~start;
    for (const std::byte byte : bytes) {
        crc ^= static_cast<std::uint32_t>(byte);
        for (int i = 0; i < 8; ++i)
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78U : 0U);
    }
    return ~crc;
}

// RFC 3720 §B.4 and the usual check value.
TEST(Crc32c, GivesThePublishedValues) {
    EXPECT_EQ(crc32c(0, dataplane::base::as_bytes("123456789")), 0xE3069283U);
    EXPECT_EQ(crc32c(0, std::vector<std::byte>(32, std::byte{0})), 0x8A9136AAU);
    EXPECT_EQ(crc32c(0, std::vector<std::byte>(32, std::byte{0xFF})), 0x62A8AB43U);
}

/// Each way that this CPU has.
class Crc32cWays : public testing::TestWithParam<bool> {
protected:
    void SetUp() override {
        if (GetParam() && !had_) GTEST_SKIP() << "no AVX-512 with VPCLMULQDQ here";
        queue::crc32c_wide = GetParam();
    }
    void TearDown() override { queue::crc32c_wide = had_; }

private:
    bool had_ = queue::crc32c_wide;
};

INSTANTIATE_TEST_SUITE_P(OfTheCpu, Crc32cWays, testing::Bool(),
                         [](const auto& way) { return way.param ? "folded" : "streams"; });

TEST_P(Crc32cWays, AgreeWithOneBitAtATime) {
    std::mt19937_64 random{7};
    std::vector<std::size_t> sizes{255, 256, 257, 511, 512, 1023, 1024, 1024 + 63, 4096, 65'537};
    for (std::size_t bytes = 0; bytes < 5000; bytes += 1 + random() % 97)
        sizes.push_back(bytes);
    for (const std::size_t bytes : sizes) {
        std::vector<std::byte> data(bytes);
        for (std::byte& byte : data)
            byte = static_cast<std::byte>(random());
        const auto start = static_cast<std::uint32_t>(random());
        const std::size_t at = random() % 130; // in a line, and what lies around stays as it is
        std::vector<std::byte> copy(at + bytes + 64);
        std::vector<std::byte> expected(copy);
        std::ranges::copy(data, expected.begin() + static_cast<std::ptrdiff_t>(at));
        ASSERT_EQ(crc32c(start, data), bit_by_bit(start, data)) << bytes;
        ASSERT_EQ(crc32c_copy(start, copy.data() + at, data), bit_by_bit(start, data)) << bytes;
        ASSERT_EQ(copy, expected) << bytes << " at " << at;
    }
}

TEST(Crc32c, PartsAddUpToTheWhole) {
    const auto whole = dataplane::base::as_bytes("the quick brown fox jumps over the lazy dog");
    EXPECT_EQ(crc32c(crc32c(5, whole.first(11)), whole.subspan(11)), crc32c(5, whole));
}

} // namespace
