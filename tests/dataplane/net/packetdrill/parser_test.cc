// parser_test.cc: what scripts say becomes the right values, and mistakes are told with their line.

#include "tests/dataplane/net/packetdrill/parser.h"
#include "tests/dataplane/net/packetdrill/profile.h"
#include "tests/dataplane/net/packetdrill/wire.h"

#include <gtest/gtest.h>

namespace tests::packetdrill {

namespace {

using namespace std::chrono_literals;

Event only_event(std::string_view text) {
    auto script = parse_script(text, "test.pkt");
    EXPECT_TRUE(script) << (script ? "" : script.error().message);
    if (!script || script->events.size() != 1) {
        ADD_FAILURE() << "not one event: " << text;
        return {};
    }
    return script->events[0];
}
TcpPacket only_segment(std::string_view text) {
    const Event event = only_event(text);
    const auto* const packet = std::get_if<Packet>(&event.what);
    const auto* const segment = packet == nullptr ? nullptr : std::get_if<TcpPacket>(&packet->what);
    if (segment == nullptr) {
        ADD_FAILURE() << "not a segment: " << text;
        return {};
    }
    return *segment;
}
Syscall only_call(std::string_view text) {
    const Event event = only_event(text);
    const auto* const call = std::get_if<Syscall>(&event.what);
    if (call == nullptr) {
        ADD_FAILURE() << "not a system call: " << text;
        return {};
    }
    return *call;
}
void expect_mistake(std::string_view text, unsigned line, std::string_view part) {
    const auto script = parse_script(text, "test.pkt");
    ASSERT_FALSE(script) << text;
    EXPECT_EQ(script.error().line, line) << text;
    EXPECT_NE(script.error().message.find(part), std::string::npos) << script.error().message;
}

TEST(PacketdrillParser, ReadsEveryKindOfTime) {
    const auto time = [](std::string_view prefix) {
        return only_event(std::string(prefix) + " close(3) = 0").time;
    };
    EXPECT_EQ(time("0.25").kind, EventTime::Kind::absolute);
    EXPECT_EQ(time("0.25").begin, 250ms);
    EXPECT_EQ(time("+.1").kind, EventTime::Kind::relative);
    EXPECT_EQ(time("+.1").begin, 100ms);
    EXPECT_EQ(time("+0").begin, 0ms);
    EXPECT_EQ(time("+0.000001").begin, 1us);
    EXPECT_EQ(time("*").kind, EventTime::Kind::any);
    EXPECT_EQ(time("0.1~0.3").end, 300ms);
    EXPECT_FALSE(time("0.1~0.3").blocking);
    EXPECT_EQ(time("+0.1~+0.3").kind, EventTime::Kind::relative);
    EXPECT_EQ(time("+0.1~+0.3").end, 300ms);
    EXPECT_TRUE(time("0.1...0.2").blocking);
    EXPECT_EQ(time("0.1...0.2").end, 200ms);
    EXPECT_TRUE(time("+0...0.2").blocking);
    EXPECT_EQ(time("+0...0.2").begin, 0ms);
}

TEST(PacketdrillParser, ReadsASynWithItsOptions) {
    const TcpPacket syn =
        only_segment("+0 < S 0:0(0) win 32792 <mss 1000,sackOK,nop,nop,nop,wscale 7>");
    EXPECT_EQ(syn.flags, tcp::flag::syn);
    EXPECT_EQ(syn.window, 32792);
    EXPECT_FALSE(syn.ack);
    ASSERT_TRUE(syn.options);
    ASSERT_EQ(syn.options->size(), 6U);
    EXPECT_EQ((*syn.options)[0].kind, TcpOption::Kind::mss);
    EXPECT_EQ((*syn.options)[0].value, 1000U);
    EXPECT_EQ((*syn.options)[5].value, 7U);
}

TEST(PacketdrillParser, ReadsFlagsAndNumbers) {
    const TcpPacket data = only_segment("+0 > FP.EW 1:1001(1000) ack 501 win 7 urg 3");
    EXPECT_EQ(data.flags,
              tcp::flag::fin | tcp::flag::psh | tcp::flag::ack | tcp::flag::ece | tcp::flag::cwr);
    EXPECT_EQ(data.seq, 1U);
    EXPECT_EQ(data.payload_bytes, 1000U);
    EXPECT_EQ(data.ack, 501U);
    EXPECT_EQ(data.urgent, 3U);
    EXPECT_TRUE(data.options->empty()); // none, as against `<...>`
    EXPECT_FALSE(only_segment("+0 > . 1:1(0) ack 1 <...>").options);
    EXPECT_EQ(only_segment("+0 < - 0:0(0) win 1").flags, 0);
    EXPECT_EQ(only_segment("+0 < . 4294967295:4(5) ack 1").payload_bytes, 5U); // wraps
}

TEST(PacketdrillParser, ReadsTimestampsSackAndRawOptions) {
    const TcpPacket segment = only_segment(
        "+0 < . 1:1(0) ack 1 win 9 <nop,nop,TS val 100 ecr ...,sack 1:2 5:9,raw fd03ff,eol>");
    const TcpOptions& options = *segment.options;
    ASSERT_EQ(options.size(), 6U);
    EXPECT_EQ(options[2].value, 100U);
    EXPECT_TRUE(options[2].any_echo);
    EXPECT_FALSE(options[2].any_value);
    EXPECT_EQ(options[3].blocks.size(), 2U);
    EXPECT_EQ(options[3].blocks[1], std::pair(5U, 9U));
    EXPECT_EQ(options[4].bytes.size(), 3U);
}

TEST(PacketdrillParser, ReadsEcnPrefixes) {
    EXPECT_EQ(only_segment("+0 < [ce] . 1:1(0) ack 1").ecn, EcnWish::ce);
    EXPECT_EQ(only_segment("+0 > [ect01] . 1:1(0) ack 1").ecn, EcnWish::ect01);
    EXPECT_EQ(only_segment("+0 > [noecn] . 1:1(0) ack 1").ecn, EcnWish::not_ect);
    EXPECT_FALSE(only_segment("+0 > . 1:1(0) ack 1").ecn);
}

TEST(PacketdrillParser, ReadsIcmp) {
    const Event event = only_event("+0 < icmp unreachable frag_needed mtu 1300 [1:1001(1000)]");
    const auto& icmp = std::get<IcmpPacket>(std::get<Packet>(event.what).what);
    EXPECT_EQ(icmp.type, 3);
    EXPECT_EQ(icmp.code, 4);
    EXPECT_EQ(icmp.mtu, 1300U);
    EXPECT_EQ(icmp.quoted, std::pair(1U, 1000U));
    const Event six = only_event("--ip_version=ipv6\n+0 < icmpv6 packet_too_big mtu 1280 [1:2(1)]");
    EXPECT_EQ(std::get<IcmpPacket>(std::get<Packet>(six.what).what).type, 2);
}

TEST(PacketdrillParser, ReadsSystemCalls) {
    const Syscall plain = only_call("+0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3");
    EXPECT_EQ(plain.arguments[0].kind, Value::Kind::ellipsis);
    EXPECT_EQ(plain.arguments[1].text, "SOCK_STREAM");
    EXPECT_EQ(plain.result.number, 3);
    const Syscall failing =
        only_call("0 connect(3, ..., ...) = -1 EINPROGRESS (Operation now in progress)");
    EXPECT_EQ(failing.error, "EINPROGRESS");
    EXPECT_EQ(failing.result.number, -1);
    EXPECT_EQ(only_call("0 fcntl(3, F_GETFL) = 0x2 (flags O_RDWR)").result.number, 2);
    EXPECT_EQ(only_call("0 fcntl(3, F_SETFL, O_RDWR|O_NONBLOCK) = 0").arguments[2].text,
              "O_RDWR|O_NONBLOCK");
    const Syscall poll =
        only_call("0 poll([{fd=4, events=POLLIN|POLLOUT, revents=POLLOUT}], 1, 0) = 1");
    EXPECT_EQ(poll.arguments[0].items[0].names[2], "revents");
    const Syscall address = only_call("0 bind(3, {sa_family = AF_INET, sin_port = htons(8080), "
                                      "sin_addr = inet_addr(\"192.168.0.1\")}, ...) = 0");
    EXPECT_EQ(address.arguments[1].items[1].kind, Value::Kind::call);
    EXPECT_EQ(address.arguments[1].items[2].items[0].text, "192.168.0.1");
}

TEST(PacketdrillParser, SkipsCommentsAndReadsShellLinesOptionsAndCode) {
    const auto script =
        parse_script("// one\n--tolerance_usecs=10000 --mss=1000\n/* two\n lines */\n"
                     "`sysctl -q net.ipv4.tcp_sack=0`\n# three\n+0 `true`\n"
                     "+0 %{ assert tcpi_snd_cwnd == 10 }%\n+0 close(3) = 0 // four\n",
                     "test.pkt");
    ASSERT_TRUE(script) << script.error().message;
    EXPECT_EQ(script->options.size(), 2U);
    ASSERT_EQ(script->events.size(), 4U);
    EXPECT_EQ(std::get<Command>(script->events[0].what).text, "sysctl -q net.ipv4.tcp_sack=0");
    EXPECT_TRUE(std::holds_alternative<Code>(script->events[2].what));
    EXPECT_EQ(script->events[3].line, 9U);
}

TEST(PacketdrillParser, TellsMistakesWithTheirLine) {
    expect_mistake("+0 close(3) = 0\n+0 < S 0:5(4)\n", 2, "do not agree");
    expect_mistake("+0 < X 0:0(0)", 1, "flag");
    expect_mistake("+0 > . 1:1(0)", 1, "ack number");
    expect_mistake("+0 < S 0:0(0) win 99999", 1, "too large");
    expect_mistake("+0 < S 0:0(0) <mss>", 1, "number");
    expect_mistake("+0 < S 0:0(0) <frob 1>", 1, "frob");
    expect_mistake("\n\n0.3~0.1 close(3) = 0", 3, "range");
    expect_mistake("+0 close(3", 1, "expected");
    expect_mistake("+0 `never closed", 1, "end of the script");
    expect_mistake("/* never closed", 1, "end of the script");
    expect_mistake("+0 < icmp unreachable frobbed", 1, "ICMP");
    expect_mistake("99999999999 close(3) = 0", 1, "too large");
}

TEST(PacketdrillProfile, TurnsShellLinesAndSocketOptionsIntoSettings) {
    const auto script =
        parse_script("`sysctl -q net.ipv4.tcp_timestamps=0\n sysctl -q net.ipv4.tcp_rmem=\"4096 "
                     "131072 65536\"`\n"
                     "`../common/set.py /proc/sys/net/ipv4/tcp_ecn=0 /proc/sys/net/core/frob=1`\n"
                     "`: millrace time_wait=2s delayed_ack_max=20ms nonsense=3`\n"
                     "0 setsockopt(3, SOL_TCP, TCP_USER_TIMEOUT, [3000], 4) = 0\n",
                     "test.pkt");
    ASSERT_TRUE(script) << script.error().message;
    const Profile profile = profile_of(*script);
    EXPECT_FALSE(profile.stack.tcp.timestamps);
    EXPECT_TRUE(profile.stack.tcp.sack);
    EXPECT_FALSE(profile.stack.tcp.ecn);
    EXPECT_EQ(profile.stack.tcp.receive_bytes_max, 65536U);
    EXPECT_EQ(profile.stack.tcp.time_wait, 2s);
    EXPECT_EQ(profile.stack.tcp.delayed_ack_max, 20ms);
    EXPECT_EQ(profile.stack.tcp.user_timeout, 3s);
    EXPECT_EQ(profile.notes.size(), 2U); // frob and nonsense
}

TEST(PacketdrillProfile, KnowsSymbols) {
    EXPECT_EQ(number_of_symbol("O_RDWR|O_NONBLOCK"), 0x802);
    EXPECT_EQ(number_of_symbol("NO_SUCH_THING"), std::nullopt);
    EXPECT_EQ(errno_name(11), "EAGAIN");
}

WireSegment sample(bool ipv6) {
    WireSegment segment;
    segment.source = {remote_ip(ipv6), 40001};
    segment.destination = {local_ip(ipv6), 8080};
    segment.flags = tcp::flag::psh | tcp::flag::ack;
    segment.ecn = 3;
    segment.seq = 0xfffffff0;
    segment.ack = 77;
    segment.window = 512;
    segment.options =
        *only_segment("+0 < . 1:1(0) ack 1 <nop,nop,TS val 7 ecr 9,nop,nop,sack 1:2>").options;
    segment.payload.assign(33, std::byte{0x5a});
    return segment;
}

TEST(PacketdrillWire, KeepsASegmentThroughBytesAndBack) {
    for (const bool ipv6 : {false, true}) {
        const WireSegment segment = sample(ipv6);
        const auto back = decode(encode(segment));
        ASSERT_TRUE(back);
        EXPECT_EQ(back->source, segment.source);
        EXPECT_EQ(back->destination, segment.destination);
        EXPECT_EQ(back->ecn, segment.ecn);
        EXPECT_EQ(back->flags, segment.flags);
        EXPECT_EQ(back->seq, segment.seq);
        EXPECT_EQ(back->ack, segment.ack);
        EXPECT_EQ(back->window, segment.window);
        EXPECT_EQ(back->options, segment.options);
        EXPECT_EQ(back->payload, segment.payload);
    }
}

TEST(PacketdrillWire, RefusesEveryFlippedBit) {
    for (const bool ipv6 : {false, true}) {
        const Bytes packet = encode(sample(ipv6));
        // IPv6 leaves its own header's first and eighth byte out of every checksum.
        for (std::size_t i = ipv6 ? 40 : 0; i < packet.size(); ++i) {
            Bytes bad = packet;
            bad[i] ^= std::byte{0x10};
            EXPECT_FALSE(decode(bad)) << "byte " << i;
        }
    }
}

TEST(PacketdrillWire, ShowsASegmentInPacketdrillsWords) {
    constexpr std::string_view text = "[ce] FP.";
    const TcpPacket segment =
        only_segment("+0 < [ce] FP. 1:11(10) ack 5 win 6 <mss 9,nop,sack 1:2 3:4>");
    EXPECT_EQ(describe(segment),
              std::string(text) + " 1:11(10) ack 5 win 6 <mss 9,nop,sack 1:2 3:4>");
    EXPECT_EQ(describe(base::Duration{200ms}), "0.200000");
}

} // namespace

} // namespace tests::packetdrill
