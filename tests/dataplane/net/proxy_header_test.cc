// Goal: only a well-formed PROXY header is believed, however it is split; the bounds of HAProxy's
// proxy-protocol.txt hold.
#include "dataplane/net/proxy_header.h"

#include "dataplane/base/slab.h"

#include <gtest/gtest.h>
#include <string>
#include <string_view>

namespace dataplane::net {
namespace {

using namespace std::string_literals;

std::expected<ProxyHeader, ProxyHeaderError> parse(std::string_view text) {
    return parse_proxy_header(base::as_bytes(text));
}

base::SocketAddress address(std::string_view text) {
    return *base::SocketAddress::parse(text);
}

const std::string signature = "\r\n\r\n\0\r\nQUIT\n"s;

std::string v2(char version_and_command, char family_and_protocol, std::string_view block) {
    return signature + version_and_command + family_and_protocol +
           static_cast<char>(block.size() >> 8) + static_cast<char>(block.size() & 255) +
           std::string{block};
}

const std::string block_v4 = "\xc0\x00\x02\x01\xc6\x33\x64\x02\x12\x34\x00\x19"s;
const std::string block_v6 = "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
                             "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\xff\xff\x02\x4b"s;

TEST(ProxyHeader, Version1TellsIpv4AndIpv6) {
    const auto four = parse("PROXY TCP4 192.0.2.1 198.51.100.2 4660 25\r\nEHLO");
    ASSERT_TRUE(four);
    EXPECT_TRUE(four->told);
    EXPECT_EQ(four->source, address("192.0.2.1:4660"));
    EXPECT_EQ(four->destination, address("198.51.100.2:25"));
    EXPECT_EQ(four->bytes, 43U);
    const auto six = parse("PROXY TCP6 2001:db8::1 2001:db8::2 65535 587\r\n");
    ASSERT_TRUE(six);
    EXPECT_EQ(six->source, address("[2001:db8::1]:65535"));
    EXPECT_EQ(six->destination, address("[2001:db8::2]:587"));
}

TEST(ProxyHeader, Version1UnknownLeavesTheConnectionsOwnEnds) {
    for (const auto text : {"PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 garbage 1 2\r\n"}) {
        const auto header = parse(text);
        ASSERT_TRUE(header) << text;
        EXPECT_FALSE(header->told);
        EXPECT_EQ(header->bytes, std::string_view{text}.size());
    }
}

TEST(ProxyHeader, Version1RefusesEverythingThatIsNotExact) {
    for (const auto text : {
             "PROXY TCP4 192.0.2.1 198.51.100.2 4660 25\n",    // bare LF
             "PROXY TCP4 192.0.2.1 198.51.100.2 4660 25 \r\n", // a word too many
             "PROXY TCP4 192.0.2.1 198.51.100.2 4660 25 x\r\n",
             "PROXY TCP4 192.0.2.1 198.51.100.2 4660\r\n",     // a word too few
             "PROXY TCP4  192.0.2.1 198.51.100.2 4660 25\r\n", // two spaces
             "PROXY TCP4 192.0.2.1 198.51.100.2 65536 25\r\n", // port out of range
             "PROXY TCP4 192.0.2.1 198.51.100.2 +466 25\r\n",
             "PROXY TCP4 192.0.2.1 198.51.100.2 0466 25\r\n", // leading zero
             "PROXY TCP4 192.0.2.1 198.51.100.2 4660 -1\r\n",
             "PROXY TCP4 2001:db8::1 2001:db8::2 4660 25\r\n", // the other family
             "PROXY TCP6 192.0.2.1 198.51.100.2 4660 25\r\n",
             "PROXY TCP4 192.0.2.256 198.51.100.2 4660 25\r\n",
             "PROXY UDP4 192.0.2.1 198.51.100.2 4660 25\r\n",
             "PROXY tcp4 192.0.2.1 198.51.100.2 4660 25\r\n",
             "PROXY UNKNOWNX\r\n",
             "PROXY \r\n",
             "PROXY\r\n",
             "PROXZ TCP4",
             "EHLO balancer.example\r\n",
         }) {
        const auto header = parse(text);
        ASSERT_FALSE(header) << text;
        EXPECT_EQ(header.error(), ProxyHeaderError::bad) << text;
    }
}

TEST(ProxyHeader, Version1EndsAt107BytesAtTheLatest) {
    const std::string start = "PROXY UNKNOWN ";
    const std::string longest = start + std::string(107 - start.size() - 2, 'x') + "\r\n";
    EXPECT_TRUE(parse(longest));
    EXPECT_EQ(parse(longest.substr(0, 106)).error(), ProxyHeaderError::need_more);
    EXPECT_EQ(parse(start + std::string(107 - start.size() - 1, 'x') + "\r\n").error(),
              ProxyHeaderError::bad);
    EXPECT_EQ(parse(start + std::string(93, 'x')).error(), ProxyHeaderError::bad);
}

TEST(ProxyHeader, Version2TellsIpv4AndIpv6) {
    const auto four = parse(v2('\x21', '\x11', block_v4));
    ASSERT_TRUE(four);
    EXPECT_TRUE(four->told);
    EXPECT_EQ(four->source, address("192.0.2.1:4660"));
    EXPECT_EQ(four->destination, address("198.51.100.2:25"));
    EXPECT_EQ(four->bytes, 28U);
    const auto six = parse(v2('\x21', '\x21', block_v6));
    ASSERT_TRUE(six);
    EXPECT_EQ(six->source, address("[2001:db8::1]:65535"));
    EXPECT_EQ(six->destination, address("[2001:db8::2]:587"));
    EXPECT_EQ(six->bytes, 52U);
}

TEST(ProxyHeader, Version2CountsItsTrailingValuesAsPartOfTheHeader) {
    const std::string values(40'000, '\x04');
    const std::string whole = v2('\x21', '\x11', block_v4 + values);
    const auto header = parse(whole.substr(0, 28)); // the addresses are there; the values are not
    ASSERT_TRUE(header);
    EXPECT_EQ(header->bytes, whole.size());
}

TEST(ProxyHeader, Version2WithoutIpAddressesLeavesTheConnectionsOwnEnds) {
    for (const std::string& text : {
             v2('\x20', '\0', ""),                      // LOCAL: the balancer's health check
             v2('\x20', '\xff', block_v4),              // whose family must be ignored
             v2('\x21', '\0', ""),                      // UNSPEC
             v2('\x21', '\x12', block_v4),              // UDP
             v2('\x21', '\x31', std::string(216, 'u')), // AF_UNIX
         }) {
        const auto header = parse(text);
        ASSERT_TRUE(header);
        EXPECT_FALSE(header->told);
        EXPECT_EQ(header->bytes, text.size());
    }
}

TEST(ProxyHeader, Version2RefusesWhatTheSpecificationDoesNotKnow) {
    for (const std::string& text : {
             v2('\x11', '\x11', block_v4),           // version
             v2('\x22', '\x11', block_v4),           // command
             v2('\x21', '\x41', block_v4),           // family
             v2('\x21', '\x13', block_v4),           // protocol
             v2('\x21', '\x11', block_v4.substr(1)), // too short for its family
             v2('\x21', '\x21', block_v4),
         }) {
        const auto header = parse(text);
        ASSERT_FALSE(header);
        EXPECT_EQ(header.error(), ProxyHeaderError::bad);
    }
}

TEST(ProxyHeader, EveryPrefixAsksForMoreAndNothingElse) {
    for (const std::string& text :
         {"PROXY TCP4 192.0.2.1 198.51.100.2 4660 25\r\n"s, v2('\x21', '\x11', block_v4),
          v2('\x21', '\x21', block_v6), v2('\x20', '\0', "")}) {
        for (std::size_t bytes = 0; bytes < text.size(); ++bytes) {
            const auto header = parse(std::string_view{text}.substr(0, bytes));
            ASSERT_FALSE(header) << bytes;
            EXPECT_EQ(header.error(), ProxyHeaderError::need_more) << bytes;
        }
        EXPECT_TRUE(parse(text));
    }
}

} // namespace
} // namespace dataplane::net
