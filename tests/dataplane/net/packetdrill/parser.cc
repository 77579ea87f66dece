#include "tests/dataplane/net/packetdrill/parser.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <limits>
#include <tuple>

namespace tests::packetdrill {

namespace {

/// Ends the parse from any depth; caught in parse_script() and nowhere else.
struct Mistake {
    ParseError error;
};

struct IcmpName {
    std::string_view type;
    std::string_view code;
    std::uint8_t type_number;
    std::uint8_t code_number;
};
// RFC 792, 1122 §3.2.2.1, 1812 §5.2.7.1
constexpr auto icmp4_names = std::to_array<IcmpName>({
    {"unreachable", "net_unreachable", 3, 0},
    {"unreachable", "host_unreachable", 3, 1},
    {"unreachable", "protocol_unreachable", 3, 2},
    {"unreachable", "port_unreachable", 3, 3},
    {"unreachable", "frag_needed", 3, 4},
    {"unreachable", "source_route_failed", 3, 5},
    {"unreachable", "net_unknown", 3, 6},
    {"unreachable", "host_unknown", 3, 7},
    {"unreachable", "source_host_isolated", 3, 8},
    {"unreachable", "net_prohibited", 3, 9},
    {"unreachable", "host_prohibited", 3, 10},
    {"unreachable", "net_unreachable_for_tos", 3, 11},
    {"unreachable", "host_unreachable_for_tos", 3, 12},
    {"unreachable", "packet_filtered", 3, 13},
    {"source_quench", "", 4, 0},
    {"time_exceeded", "exceeded_in_transit", 11, 0},
    {"time_exceeded", "exceeded_reassembly", 11, 1},
    {"parameter_problem", "", 12, 0},
});
// RFC 4443 §3
constexpr auto icmp6_names = std::to_array<IcmpName>({
    {"unreachable", "no_route", 1, 0},
    {"unreachable", "admin_prohibited", 1, 1},
    {"unreachable", "beyond_scope", 1, 2},
    {"unreachable", "addr_unreachable", 1, 3},
    {"unreachable", "address_unreachable", 1, 3},
    {"unreachable", "port_unreachable", 1, 4},
    {"packet_too_big", "", 2, 0},
    {"time_exceeded", "hop_limit_exceeded", 3, 0},
    {"time_exceeded", "exceeded_in_transit", 3, 0},
    {"time_exceeded", "exceeded_reassembly", 3, 1},
    {"parameter_problem", "", 4, 0},
});

bool is_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}
bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

class Parser {
public:
    Parser(std::string_view text, std::string file) : text_(text) {
        script_.file = std::move(file);
    }

    Script parse() {
        skip_space();
        while (looking_at("--"))
            parse_option();
        while (!at_end()) {
            parse_event();
            skip_space();
        }
        return std::move(script_);
    }

private:
    [[noreturn]] void fail(std::string message) const {
        throw Mistake{{line_, std::move(message)}};
    }

    // --- characters
    [[nodiscard]] bool at_end() const { return position_ >= text_.size(); }
    [[nodiscard]] char peek(std::size_t ahead = 0) const {
        return position_ + ahead < text_.size() ? text_[position_ + ahead] : '\0';
    }
    [[nodiscard]] bool looking_at(std::string_view word) const {
        return text_.substr(std::min(position_, text_.size())).starts_with(word);
    }
    char next() {
        const char c = peek();
        if (at_end()) fail("unexpected end of the script");
        if (c == '\n') ++line_;
        ++position_;
        return c;
    }
    void skip(std::size_t count) {
        for (std::size_t i = 0; i < count; ++i)
            next();
    }
    void skip_space() {
        while (!at_end()) {
            if (std::isspace(static_cast<unsigned char>(peek())) != 0) {
                next();
            } else if (peek() == '#' || looking_at("//")) {
                while (!at_end() && peek() != '\n')
                    next();
            } else if (looking_at("/*")) {
                while (!looking_at("*/"))
                    next();
                skip(2);
            } else {
                return;
            }
        }
    }
    bool accept(std::string_view token) {
        skip_space();
        if (!looking_at(token)) return false;
        // A word must end where the token ends: "ack" is not the beginning of "acknowledge".
        if (is_word(token.back()) && is_word(peek(token.size()))) return false;
        skip(token.size());
        return true;
    }
    void expect(std::string_view token) {
        if (!accept(token))
            fail("expected '" + std::string(token) + "' at '" + rest_of_line() + "'");
    }
    [[nodiscard]] std::string rest_of_line() const {
        const std::string_view rest = text_.substr(std::min(position_, text_.size()));
        return std::string(rest.substr(0, std::min(rest.find('\n'), std::size_t{40})));
    }
    std::string word() {
        skip_space();
        std::string result;
        while (is_word(peek()))
            result += next();
        if (result.empty()) fail("expected a word at '" + rest_of_line() + "'");
        return result;
    }
    std::string until(std::string_view token) {
        std::string result;
        while (!looking_at(token))
            result += next();
        skip(token.size());
        return result;
    }

    // --- numbers
    std::uint64_t unsigned_number(std::uint64_t most) {
        skip_space();
        int base = 10;
        if (looking_at("0x") || looking_at("0X")) {
            skip(2);
            base = 16;
        }
        std::uint64_t value = 0;
        const char* const begin = text_.data() + position_;
        const auto [end, status] = std::from_chars(begin, text_.data() + text_.size(), value, base);
        if (status != std::errc{}) fail("expected a number at '" + rest_of_line() + "'");
        if (value > most) fail("number too large: " + std::string(begin, end));
        skip(static_cast<std::size_t>(end - begin));
        return value;
    }
    std::uint32_t number32() {
        return static_cast<std::uint32_t>(
            unsigned_number(std::numeric_limits<std::uint32_t>::max()));
    }
    std::uint16_t number16() { return static_cast<std::uint16_t>(unsigned_number(0xffff)); }

    /// "0.2", ".1", "3": seconds. A fraction ends before "...".
    base::Duration seconds() {
        skip_space();
        if (!is_digit(peek()) && !(peek() == '.' && is_digit(peek(1))))
            fail("expected a time at '" + rest_of_line() + "'");
        std::int64_t nanoseconds = 0;
        unsigned digits = 0;
        while (is_digit(peek())) {
            if (++digits > 9) fail("time too large");
            nanoseconds = nanoseconds * 10 + (next() - '0');
        }
        std::int64_t unit = 1'000'000'000;
        nanoseconds *= unit;
        if (peek() == '.' && peek(1) != '.') {
            next();
            while (is_digit(peek())) {
                unit /= 10;
                nanoseconds += (next() - '0') * unit;
            }
        }
        return base::Duration{nanoseconds};
    }

    // --- events
    void parse_option() {
        skip(2);
        std::string name;
        while (is_word(peek()) || peek() == '-')
            name += next();
        std::string value;
        if (peek() == '=') {
            next();
            while (!at_end() && std::isspace(static_cast<unsigned char>(peek())) == 0)
                value += next();
        }
        if (value == "ipv6" && name == "ip_version") ipv6_ = true;
        script_.options.emplace_back(std::move(name), std::move(value));
        skip_space();
    }

    void parse_event() {
        Event event;
        event.line = line_;
        event.time = parse_time();
        skip_space();
        if (peek() == '<' || peek() == '>') {
            if (event.time.blocking) fail("only a system call can block");
            event.what = parse_packet();
        } else if (peek() == '`') {
            next();
            event.what = Command{until("`")};
        } else if (looking_at("%{")) {
            skip(2);
            event.what = Code{until("}%")};
        } else {
            event.what = parse_syscall();
        }
        script_.events.push_back(std::move(event));
    }

    EventTime parse_time() {
        EventTime time;
        skip_space();
        if (peek() == '`' || looking_at("%{")) return time; // at once
        if (accept("*")) {
            time.kind = EventTime::Kind::any;
            return time;
        }
        const bool relative = accept("+");
        time.kind = relative ? EventTime::Kind::relative : EventTime::Kind::absolute;
        time.begin = seconds();
        skip_space();
        if (looking_at("...")) {
            skip(3);
            time.blocking = true;
            accept("+");
            time.end = seconds();
        } else if (peek() == '~') {
            next();
            accept("+");
            time.end = seconds();
        }
        if (time.end && *time.end < time.begin) fail("a time range that ends before it begins");
        return time;
    }

    Packet parse_packet() {
        Packet packet;
        packet.inbound = next() == '<';
        skip_space();
        std::optional<EcnWish> ecn;
        if (peek() == '[') ecn = parse_ecn();
        skip_space();
        if (accept("icmp") || accept("icmpv6")) {
            packet.what = parse_icmp();
            return packet;
        }
        if (looking_at("udp") || looking_at("sctp")) fail("this is an interpreter for TCP");
        TcpPacket segment = parse_segment(packet.inbound);
        segment.ecn = ecn;
        packet.what = std::move(segment);
        return packet;
    }

    EcnWish parse_ecn() {
        expect("[");
        const std::string name = word();
        expect("]");
        if (name == "noecn" || name == "nonect") return EcnWish::not_ect;
        if (name == "ect0") return EcnWish::ect0;
        if (name == "ect1") return EcnWish::ect1;
        if (name == "ect01") return EcnWish::ect01;
        if (name == "ce") return EcnWish::ce;
        fail("unknown ECN name '" + name + "'");
    }

    std::uint8_t parse_flags() {
        skip_space();
        std::uint8_t flags = 0;
        bool any = false;
        while (!at_end() && std::isspace(static_cast<unsigned char>(peek())) == 0) {
            any = true;
            switch (next()) {
            case 'S':
                flags |= tcp::flag::syn;
                break;
            case 'F':
                flags |= tcp::flag::fin;
                break;
            case 'R':
                flags |= tcp::flag::rst;
                break;
            case 'P':
                flags |= tcp::flag::psh;
                break;
            case '.':
                flags |= tcp::flag::ack;
                break;
            case 'U':
                flags |= tcp::flag::urg;
                break;
            case 'E':
                flags |= tcp::flag::ece;
                break;
            case 'W':
                flags |= tcp::flag::cwr;
                break;
            case '-':
                break; // none
            default:
                fail("unknown TCP flag before '" + rest_of_line() + "'");
            }
        }
        if (!any) fail("expected TCP flags");
        return flags;
    }

    /// "1:1001(1000)"
    std::pair<std::uint32_t, std::uint32_t> parse_sequence() {
        const std::uint32_t begin = number32();
        expect(":");
        const std::uint32_t end = number32();
        expect("(");
        const std::uint32_t bytes = number32();
        expect(")");
        if (begin + bytes != end) fail("the sequence numbers and the length do not agree");
        return {begin, bytes};
    }

    TcpPacket parse_segment(bool inbound) {
        TcpPacket segment;
        segment.flags = parse_flags();
        std::tie(segment.seq, segment.payload_bytes) = parse_sequence();
        if (segment.payload_bytes > 65'535) fail("payload too large");
        if (accept("ack")) segment.ack = number32();
        if (accept("win")) segment.window = number16();
        if (accept("urg")) segment.urgent = number16();
        segment.options = parse_options();
        const bool has_ack = (segment.flags & tcp::flag::ack) != 0;
        if (has_ack && !segment.ack) fail("the ACK flag needs an ack number");
        // `< R 1:1(0) ack 9` says what lies in the field though the flag says that it does not count.
        if (!has_ack && segment.ack && !inbound) fail("an ack number without the ACK flag");
        return segment;
    }

    std::optional<TcpOptions> parse_options() {
        TcpOptions options;
        skip_space();
        if (peek() != '<') return options;
        expect("<");
        if (accept("...")) {
            expect(">");
            return std::nullopt;
        }
        do {
            options.push_back(parse_option_item());
        } while (accept(","));
        expect(">");
        return options;
    }

    TcpOption parse_option_item() {
        TcpOption option;
        const std::string name = word();
        using Kind = TcpOption::Kind;
        if (name == "mss") {
            option.kind = Kind::mss;
            option.value = number16();
        } else if (name == "nop") {
            option.kind = Kind::nop;
        } else if (name == "eol") {
            option.kind = Kind::end_of_list;
        } else if (name == "sackOK") {
            option.kind = Kind::sack_permitted;
        } else if (name == "wscale") {
            option.kind = Kind::window_scale;
            option.value = static_cast<std::uint32_t>(unsigned_number(255));
        } else if (name == "TS") {
            option.kind = Kind::timestamps;
            expect("val");
            if (accept("..."))
                option.any_value = true;
            else
                option.value = number32();
            expect("ecr");
            if (accept("..."))
                option.any_echo = true;
            else
                option.echo = number32();
        } else if (name == "sack") {
            option.kind = Kind::sack;
            skip_space();
            while (is_digit(peek())) {
                const std::uint32_t begin = number32();
                expect(":");
                const std::uint32_t end = number32();
                option.blocks.emplace_back(begin, end);
                skip_space();
            }
            if (option.blocks.size() > 4) fail("more than four SACK blocks do not fit");
        } else if (name == "raw") {
            option.kind = Kind::raw;
            option.bytes = parse_hex();
        } else {
            fail("unknown TCP option '" + name + "'");
        }
        return option;
    }

    std::vector<std::byte> parse_hex() {
        const std::string digits = word();
        std::vector<std::byte> bytes;
        if (digits.size() % 2 != 0) fail("an odd number of hex digits");
        for (std::size_t i = 0; i < digits.size(); i += 2) {
            unsigned value = 0;
            const char* const end = digits.data() + i + 2;
            if (std::from_chars(digits.data() + i, end, value, 16).ptr != end) fail("not hex");
            bytes.push_back(static_cast<std::byte>(value));
        }
        return bytes;
    }

    IcmpPacket parse_icmp() {
        IcmpPacket packet;
        const std::string type = word();
        std::string code;
        skip_space();
        if (std::isalpha(static_cast<unsigned char>(peek())) != 0 && !looking_at("mtu "))
            code = word();
        packet.name = code.empty() ? type : type + " " + code;
        if (!ipv6_ && type == "packet_too_big") fail("packet_too_big is ICMPv6's");
        if (!name_icmp(packet, type, code)) fail("unknown ICMP message '" + packet.name + "'");
        if (accept("mtu")) packet.mtu = number32();
        if (accept("[")) {
            packet.quoted = parse_sequence();
            expect("]");
        }
        return packet;
    }

    bool name_icmp(IcmpPacket& packet, std::string_view type, std::string_view code) const {
        const auto look = [&](auto& names) {
            for (const IcmpName& name : names) {
                if (name.type != type || (!code.empty() && name.code != code)) continue;
                packet.type = name.type_number;
                packet.code = name.code_number;
                return true;
            }
            return false;
        };
        return ipv6_ ? look(icmp6_names) : look(icmp4_names);
    }

    // --- system calls
    Syscall parse_syscall() {
        Syscall call;
        call.name = word();
        expect("(");
        if (!accept(")")) {
            do {
                call.arguments.push_back(parse_value());
            } while (accept(","));
            expect(")");
        }
        expect("=");
        call.result = parse_value();
        skip_space();
        // "-1 EAGAIN (Resource temporarily unavailable)", "0x2 (flags O_RDWR)"
        if (call.result.kind == Value::Kind::integer && peek() == 'E') call.error = word();
        skip_space();
        if (peek() == '(') {
            next();
            static_cast<void>(until(")"));
        }
        return call;
    }

    Value parse_value() {
        skip_space();
        if (accept("...")) return {};
        Value value;
        const char first = peek();
        if (first == '[') {
            value.kind = Value::Kind::list;
            next();
            if (!accept("]")) {
                do {
                    value.items.push_back(parse_value());
                } while (accept(","));
                expect("]");
            }
        } else if (first == '{') {
            parse_structure(value);
        } else if (first == '"') {
            next();
            value.kind = Value::Kind::text;
            value.text = until("\"");
        } else if (first == '-' || is_digit(first)) {
            parse_integer(value);
        } else {
            parse_symbol(value);
        }
        return value;
    }

    void parse_integer(Value& value) {
        value.kind = Value::Kind::integer;
        const bool negative = accept("-");
        const auto magnitude = static_cast<std::int64_t>(
            unsigned_number(static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())));
        value.number = negative ? -magnitude : magnitude;
        skip_space();
        if (peek() == '|') { // 0x800|O_RDWR: kept as a symbol list
            value.kind = Value::Kind::symbol;
            value.text = std::to_string(value.number);
            while (accept("|"))
                value.text += "|" + word();
        }
    }

    void parse_symbol(Value& value) {
        value.kind = Value::Kind::symbol;
        value.text = word();
        if (accept("(")) {
            value.kind = Value::Kind::call;
            value.items.push_back(parse_value());
            expect(")");
            return;
        }
        while (accept("|"))
            value.text += "|" + word();
    }

    void parse_structure(Value& value) {
        value.kind = Value::Kind::structure;
        expect("{");
        if (accept("}")) return;
        do {
            Value item = parse_value();
            std::string name;
            if (item.kind == Value::Kind::symbol && accept("=")) {
                name = item.text;
                item = parse_value();
            }
            value.names.push_back(std::move(name));
            value.items.push_back(std::move(item));
        } while (accept(","));
        expect("}");
    }

    std::string_view text_;
    std::size_t position_ = 0;
    unsigned line_ = 1;
    bool ipv6_ = false;
    Script script_;
};

} // namespace

std::expected<Script, ParseError> parse_script(std::string_view text, std::string file) {
    try {
        return Parser{text, std::move(file)}.parse();
    } catch (Mistake& mistake) {
        return std::unexpected(std::move(mistake.error));
    }
}

} // namespace tests::packetdrill
