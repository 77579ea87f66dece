#include "dataplane/base/siphash.h"

#include <gtest/gtest.h>

#include <string>

namespace dataplane::base {
namespace {

constexpr SipKey key{0x0706050403020100, 0x0f0e0d0c0b0a0908};

// The vectors of the authors' paper and reference (vectors.h): key 00..0f, message 00, 01, 02, ...
std::string message_of(std::size_t bytes) {
    std::string text(bytes, '\0');
    for (std::size_t i = 0; i < bytes; ++i)
        text[i] = static_cast<char>(i);
    return text;
}

TEST(SipHash, SixtyFourBitsMatchThePublishedVectors) {
    const auto of = [](std::size_t bytes) {
        SipMessage message(key);
        for (const char byte : message_of(bytes))
            message.add_number(static_cast<std::uint8_t>(byte));
        return message.hash();
    };
    EXPECT_EQ(of(0), 0x726fdb47dd0e0e31U);
    EXPECT_EQ(of(15), 0xa129ca6149be45e5U);
    // However the pieces are cut: 00 | 01 | 02 03 04 05 | 06 .. 0e.
    SipMessage message(key);
    const std::string text = message_of(15);
    message.add_number(std::uint8_t{0});
    message.add_number(std::uint8_t{1});
    message.add_number(std::uint32_t{0x05040302});
    message.add({reinterpret_cast<const std::uint8_t*>(text.data()) + 6, 9});
    EXPECT_EQ(message.hash(), 0xa129ca6149be45e5U);
}

TEST(SipHash, HundredAndTwentyEightBitsMatchThePublishedVectors) {
    EXPECT_EQ(sip_digest(key, message_of(0)), (SipDigest{0xe6a825ba047f81a3, 0x930255c71472f66d}));
    EXPECT_EQ(sip_digest(key, message_of(1)), (SipDigest{0x44af996bd8c187da, 0x45fc229b11597634}));
}

TEST(SipHash, WhereOneTextEndsMatters) {
    EXPECT_NE(sip_digest(key, "ab", "c"), sip_digest(key, "a", "bc"));
    EXPECT_EQ(sip_digest(key, "ab", "c"), sip_digest(key, "ab", "c"));
}

} // namespace
} // namespace dataplane::base
