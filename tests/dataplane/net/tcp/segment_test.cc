#include "dataplane/net/tcp/segment.h"

#include "dataplane/base/slab.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace dataplane::net::tcp {
namespace {

std::vector<std::uint8_t> encoded(const Header& header) {
    std::array<std::byte, header_bytes_max> raw;
    const std::size_t length = encode(raw, header);
    std::vector<std::uint8_t> bytes;
    for (std::size_t i = 0; i < length; ++i)
        bytes.push_back(static_cast<std::uint8_t>(raw[i]));
    return bytes;
}

std::vector<std::uint8_t> options_of(const Header& header) {
    const auto all = encoded(header);
    return {all.begin() + 20, all.end()};
}

std::vector<std::byte> raw_segment(const std::vector<std::uint8_t>& options,
                                   std::string_view payload = {}) {
    std::vector<std::byte> bytes(20);
    for (const std::uint8_t byte : options)
        bytes.push_back(std::byte{byte});
    while (bytes.size() % 4 != 0)
        bytes.push_back(std::byte{0});
    bytes[12] = static_cast<std::byte>(bytes.size() / 4 << 4);
    for (const char c : payload)
        bytes.push_back(static_cast<std::byte>(c));
    return bytes;
}

Options parsed_options(const std::vector<std::uint8_t>& options) {
    const auto bytes = raw_segment(options);
    const auto segment = parse(bytes);
    EXPECT_TRUE(segment.has_value());
    return segment->options;
}

using Bytes = std::vector<std::uint8_t>;

TEST(Segment, SynOptionsStandInLinuxOrder) {
    Header syn{.flags = flag::syn};
    syn.options.mss = 1460;
    syn.options.sack_permitted = true;
    syn.options.window_scale = 8;
    EXPECT_EQ(options_of(syn), (Bytes{2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 8}));
    syn.options.timestamps = Timestamps{0x01020304, 0};
    EXPECT_EQ(options_of(syn),
              (Bytes{2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 8}));
    syn.options.sack_permitted = false;
    EXPECT_EQ(options_of(syn),
              (Bytes{2, 4, 5, 0xb4, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 8}));
}

TEST(Segment, AcknowledgementOptionsArePaddedInFront) {
    Header ack{.flags = flag::ack};
    ack.options.timestamps = Timestamps{1, 2};
    ack.options.sack = {SackBlock{Seq{10}, Seq{20}}};
    ack.options.sack_count = 1;
    EXPECT_EQ(options_of(ack),
              (Bytes{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 5, 10, 0, 0, 0, 10, 0, 0, 0, 20}));
}

TEST(Segment, FourthSackBlockIsLeftOutBesideTimestamps) {
    Header ack{.flags = flag::ack};
    ack.options.sack_count = 4;
    EXPECT_EQ(encoded(ack).size(), 20U + 36U);
    ack.options.timestamps.emplace();
    EXPECT_EQ(encoded(ack).size(), 20U + 12U + 28U);
}

TEST(Segment, WhatIsEncodedIsParsedAgain) {
    std::mt19937 random(5);
    for (int round = 0; round < 2000; ++round) {
        Header header;
        header.source_port = static_cast<std::uint16_t>(random());
        header.destination_port = static_cast<std::uint16_t>(random());
        header.seq = Seq{static_cast<std::uint32_t>(random())};
        header.ack = Seq{static_cast<std::uint32_t>(random())};
        header.window = static_cast<std::uint16_t>(random());
        header.flags = static_cast<std::uint8_t>(random());
        const bool syn = (header.flags & flag::syn) != 0;
        if (syn && random() % 2 == 0) header.options.mss = static_cast<std::uint16_t>(random());
        if (syn && random() % 2 == 0) header.options.window_scale = random() % 15;
        header.options.sack_permitted = syn && random() % 2 == 0;
        if (random() % 2 == 0) header.options.timestamps = Timestamps{1U + round, 77};
        if (!syn) header.options.sack_count = random() % 4;
        for (std::size_t i = 0; i < header.options.sack_count; ++i)
            header.options.sack[i] = {Seq{static_cast<std::uint32_t>(random())},
                                      Seq{static_cast<std::uint32_t>(random())}};
        std::array<std::byte, header_bytes_max> raw;
        const std::size_t length = encode(raw, header);
        EXPECT_EQ(length, 20 + encoded_options_bytes(header.options, syn));
        const auto segment = parse(std::span{raw}.first(length));
        ASSERT_TRUE(segment.has_value());
        EXPECT_EQ(segment->source_port, header.source_port);
        EXPECT_EQ(segment->destination_port, header.destination_port);
        EXPECT_EQ(segment->seq, header.seq);
        EXPECT_EQ(segment->ack, header.ack);
        EXPECT_EQ(segment->window, header.window);
        EXPECT_EQ(segment->flags, header.flags);
        EXPECT_EQ(segment->options.mss, header.options.mss);
        EXPECT_EQ(segment->options.window_scale, header.options.window_scale);
        EXPECT_EQ(segment->options.sack_permitted, header.options.sack_permitted);
        EXPECT_EQ(segment->options.timestamps.has_value(), header.options.timestamps.has_value());
        ASSERT_EQ(segment->options.sack_count, header.options.sack_count);
        for (std::size_t i = 0; i < header.options.sack_count; ++i)
            EXPECT_EQ(segment->options.sack[i], header.options.sack[i]);
    }
}

// T62
TEST(Segment, HeaderThatContradictsItselfIsRefused) {
    std::vector<std::byte> bytes(20);
    for (std::size_t length = 0; length < 20; ++length) {
        EXPECT_EQ(parse(std::span{bytes}.first(length)).error(), ParseError::truncated);
    }
    for (const unsigned offset : {0U, 4U, 6U, 15U}) {
        bytes[12] = static_cast<std::byte>(offset << 4);
        EXPECT_EQ(parse(bytes).error(), ParseError::bad_data_offset) << offset;
    }
    bytes[12] = std::byte{0x50};
    EXPECT_TRUE(parse(bytes).has_value());
}

// T5
TEST(Segment, UnknownOptionsAreSkippedAndMalformedOnesEndTheList) {
    EXPECT_EQ(parsed_options({254, 4, 9, 9, 2, 4, 5, 0xb4}).mss, 1460);
    EXPECT_EQ(parsed_options({1, 1, 1, 2, 4, 5, 0xb4}).mss, 1460);
    EXPECT_FALSE(parsed_options({254, 0, 2, 4, 5, 0xb4}).mss); // length zero
    EXPECT_FALSE(parsed_options({254, 1, 2, 4, 5, 0xb4}).mss);
    EXPECT_FALSE(parsed_options({254, 40, 2, 4, 5, 0xb4}).mss);      // beyond the header
    EXPECT_FALSE(parsed_options({0, 2, 4, 5, 0xb4}).mss);            // end of list
    const Options cut = parsed_options({2, 4, 5, 0xb4, 1, 1, 1, 8}); // truncated timestamps
    EXPECT_EQ(cut.mss, 1460);
    EXPECT_FALSE(cut.timestamps);
    EXPECT_EQ(parsed_options({2, 3, 5, 3, 3, 7}).window_scale, 7); // MSS of a wrong length
    EXPECT_FALSE(parsed_options({2, 3, 5, 3, 3, 7}).mss);
    EXPECT_EQ(parsed_options({5, 9, 1, 2, 3, 4, 5, 6, 7}).sack_count, 0); // no whole block
}

TEST(Segment, PayloadIsWhatFollowsTheOptions) {
    const auto bytes = raw_segment({1, 1, 1, 1}, "text");
    const auto segment = parse(bytes);
    ASSERT_TRUE(segment.has_value());
    EXPECT_EQ(base::as_text(segment->payload), "text");
    EXPECT_EQ(segment->sequence_length(), 4U);
}

TEST(Seq, ComparesAcrossTheWrap) {
    const Seq before{0xffff'fff0};
    const Seq after{0x10};
    EXPECT_LT(before, after);
    EXPECT_EQ(distance(before, after), 0x20U);
    EXPECT_EQ(max(before, after), after);
    EXPECT_EQ(before + 0x20, after);
}

} // namespace
} // namespace dataplane::net::tcp
