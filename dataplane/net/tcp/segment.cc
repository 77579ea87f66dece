#include "dataplane/net/tcp/segment.h"

#include "dataplane/base/check.h"

#include <algorithm>

namespace dataplane::net::tcp {

namespace {

enum OptionKind : std::uint8_t {
    kind_end = 0,
    kind_nop = 1,
    kind_mss = 2,
    kind_window_scale = 3,
    kind_sack_permitted = 4,
    kind_sack = 5,
    kind_timestamps = 8,
};

std::uint8_t load8(const std::byte* at) noexcept {
    return static_cast<std::uint8_t>(*at);
}
std::uint16_t load16(const std::byte* at) noexcept {
    return static_cast<std::uint16_t>((load8(at) << 8) | load8(at + 1));
}
std::uint32_t load32(const std::byte* at) noexcept {
    return (std::uint32_t{load16(at)} << 16) | load16(at + 2);
}

/// Writes big-endian numbers one behind the other.
class Writer {
public:
    explicit Writer(std::byte* at) noexcept : at_(at) {}
    void u8(std::uint8_t value) noexcept { *at_++ = std::byte{value}; }
    void u16(std::uint16_t value) noexcept {
        u8(static_cast<std::uint8_t>(value >> 8));
        u8(static_cast<std::uint8_t>(value));
    }
    void u32(std::uint32_t value) noexcept {
        u16(static_cast<std::uint16_t>(value >> 16));
        u16(static_cast<std::uint16_t>(value));
    }
    [[nodiscard]] std::byte* at() const noexcept { return at_; }

private:
    std::byte* at_;
};

void parse_sack(std::span<const std::byte> body, Options& options) noexcept {
    const std::size_t count = std::min(body.size() / 8, sack_blocks_max);
    for (std::size_t i = 0; i < count; ++i) {
        const std::byte* block = body.data() + i * 8;
        options.sack[i] = {Seq{load32(block)}, Seq{load32(block + 4)}};
    }
    options.sack_count = static_cast<std::uint8_t>(count);
}

void parse_options(std::span<const std::byte> bytes, Options& options) noexcept {
    // Most segments of an open connection carry exactly this.
    if (bytes.size() == 12 && load32(bytes.data()) == 0x0101080a) {
        options.timestamps = Timestamps{load32(bytes.data() + 4), load32(bytes.data() + 8)};
        return;
    }
    while (!bytes.empty()) {
        const std::uint8_t kind = load8(bytes.data());
        if (kind == kind_end) return;
        if (kind == kind_nop) {
            bytes = bytes.subspan(1);
            continue;
        }
        if (bytes.size() < 2) return;
        const std::uint8_t length = load8(bytes.data() + 1);
        if (length < 2 || length > bytes.size()) return;
        const auto body = bytes.subspan(2, length - 2U);
        bytes = bytes.subspan(length);
        // A known option of a wrong length is passed over as an unknown one is.
        if (kind == kind_mss && body.size() == 2) {
            options.mss = load16(body.data());
        } else if (kind == kind_window_scale && body.size() == 1) {
            options.window_scale = load8(body.data());
        } else if (kind == kind_sack_permitted && body.empty()) {
            options.sack_permitted = true;
        } else if (kind == kind_timestamps && body.size() == 8) {
            options.timestamps = Timestamps{load32(body.data()), load32(body.data() + 4)};
        } else if (kind == kind_sack && body.size() >= 8 && body.size() % 8 == 0) {
            parse_sack(body, options);
        }
    }
}

constexpr std::size_t options_bytes_max = header_bytes_max - header_bytes_min;

/// How many of the SACK blocks have room behind the other options of a segment without SYN.
std::size_t sack_blocks_that_fit(const Options& options) noexcept {
    const std::size_t room = options_bytes_max - (options.timestamps ? 12 : 0);
    return std::min<std::size_t>(options.sack_count, (room - 4) / 8);
}

} // namespace

std::expected<Segment, ParseError> parse(std::span<const std::byte> bytes) noexcept {
    if (bytes.size() < header_bytes_min) return std::unexpected(ParseError::truncated);
    const std::byte* raw = bytes.data();
    const std::size_t header_bytes = std::size_t{load8(raw + 12)} >> 4 << 2;
    if (header_bytes < header_bytes_min) return std::unexpected(ParseError::bad_data_offset);
    if (header_bytes > bytes.size()) return std::unexpected(ParseError::bad_data_offset);

    Segment segment;
    segment.source_port = load16(raw);
    segment.destination_port = load16(raw + 2);
    segment.seq = Seq{load32(raw + 4)};
    segment.ack = Seq{load32(raw + 8)};
    segment.flags = load8(raw + 13);
    segment.window = load16(raw + 14);
    parse_options(bytes.subspan(header_bytes_min, header_bytes - header_bytes_min),
                  segment.options);
    segment.payload = bytes.subspan(header_bytes);
    return segment;
}

std::size_t encoded_options_bytes(const Options& options, bool syn) noexcept {
    if (syn) {
        std::size_t bytes = options.mss ? 4 : 0;
        if (options.timestamps) {
            bytes += 12; // two bytes of SACK-permitted or of padding go before it
        } else if (options.sack_permitted) {
            bytes += 4;
        }
        return bytes + (options.window_scale ? 4 : 0);
    }
    std::size_t bytes = options.timestamps ? 12 : 0;
    if (const std::size_t blocks = sack_blocks_that_fit(options); blocks > 0) {
        bytes += 4 + blocks * 8;
    }
    return bytes;
}

std::size_t encode(std::span<std::byte, header_bytes_max> to, const Header& header) noexcept {
    const Options& options = header.options;
    const bool syn = (header.flags & flag::syn) != 0;
    const std::size_t length = header_bytes_min + encoded_options_bytes(options, syn);
    CHECK(length <= header_bytes_max && length % 4 == 0);

    Writer out{to.data()};
    out.u16(header.source_port);
    out.u16(header.destination_port);
    out.u32(header.seq.raw());
    out.u32(header.ack.raw());
    out.u8(static_cast<std::uint8_t>(length / 4 << 4));
    out.u8(header.flags);
    out.u16(header.window);
    out.u16(0); // checksum
    out.u16(0); // urgent pointer

    if (syn && options.mss) {
        out.u8(kind_mss);
        out.u8(4);
        out.u16(*options.mss);
    }
    const bool sack_permitted = syn && options.sack_permitted;
    if (sack_permitted) {
        if (!options.timestamps) out.u16(0x0101);
        out.u8(kind_sack_permitted);
        out.u8(2);
    }
    if (options.timestamps) {
        if (!sack_permitted) out.u16(0x0101);
        out.u8(kind_timestamps);
        out.u8(10);
        out.u32(options.timestamps->value);
        out.u32(options.timestamps->echo);
    }
    if (syn && options.window_scale) {
        out.u8(kind_nop);
        out.u8(kind_window_scale);
        out.u8(3);
        out.u8(*options.window_scale);
    }
    const std::size_t blocks = syn ? 0 : sack_blocks_that_fit(options);
    if (blocks > 0) {
        out.u16(0x0101);
        out.u8(kind_sack);
        out.u8(static_cast<std::uint8_t>(2 + blocks * 8));
        for (std::size_t i = 0; i < blocks; ++i) {
            out.u32(options.sack[i].begin.raw());
            out.u32(options.sack[i].end.raw());
        }
    }
    DCHECK(out.at() == to.data() + length);
    return length;
}

} // namespace dataplane::net::tcp
