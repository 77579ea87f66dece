#include "dataplane/net/port/pcapng.h"

#include "dataplane/base/check.h"

#include <cstring>

namespace dataplane::net {
namespace {

constexpr std::uint32_t section_header = 0x0a0d'0d0a;
constexpr std::uint32_t interface_description = 1;
constexpr std::uint32_t enhanced_packet = 6;
constexpr std::uint32_t byte_order_magic = 0x1a2b'3c4d;
constexpr std::uint32_t link_ethernet = 1;
constexpr std::uint16_t option_comment = 1;
constexpr std::uint16_t option_application = 4;  // of a section
constexpr std::uint16_t option_name = 2;         // of an interface
constexpr std::uint16_t option_mac = 6;          // of an interface
constexpr std::uint16_t option_resolution = 9;   // of an interface: 10^-value seconds
constexpr std::uint16_t option_packet_flags = 2; // of a packet: 1 inbound, 2 outbound
constexpr std::byte nanoseconds{9};
constexpr std::string_view application = "millrace";

constexpr std::size_t padded(std::size_t bytes) noexcept {
    return (bytes + 3) / 4 * 4;
}

std::span<const std::byte> text_bytes(std::string_view text) noexcept {
    return std::as_bytes(std::span{text.data(), text.size()});
}

} // namespace

PcapngWriter::PcapngWriter(std::size_t bytes_max, std::uint32_t first_interface)
    : bytes_max_(bytes_max), interfaces_(first_interface) {
    bytes_.reserve(bytes_max);
    const std::size_t began_at = begin_block(section_header);
    put32(byte_order_magic);
    put32(1); // version 1.0: two 16-bit numbers, the minor one behind
    put32(0xffff'ffff);
    put32(0xffff'ffff); // the section's length: not given
    put_option(option_application, text_bytes(application));
    put32(0); // end of options
    end_block(began_at);
}

void PcapngWriter::put32(std::uint32_t value) {
    const auto raw = std::as_bytes(std::span{&value, 1}); // in our order: the magic tells readers
    bytes_.insert(bytes_.end(), raw.begin(), raw.end());
}

void PcapngWriter::put_padded(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    bytes_.resize(padded(bytes_.size()));
}

void PcapngWriter::put_option(std::uint16_t code, std::span<const std::byte> value) {
    put32(std::uint32_t{code} | static_cast<std::uint32_t>(value.size()) << 16);
    put_padded(value);
}

std::size_t PcapngWriter::begin_block(std::uint32_t type) {
    const std::size_t began_at = bytes_.size();
    put32(type);
    put32(0); // its length, which end_block() fills in
    return began_at;
}

void PcapngWriter::end_block(std::size_t began_at) {
    const auto bytes = static_cast<std::uint32_t>(bytes_.size() - began_at + sizeof(std::uint32_t));
    put32(bytes);
    std::memcpy(bytes_.data() + began_at + sizeof(std::uint32_t), &bytes, sizeof bytes);
}

std::uint32_t PcapngWriter::add_interface(std::string_view name, const MacAddress& mac,
                                          std::uint32_t snap_bytes) {
    const std::size_t began_at = begin_block(interface_description);
    put32(link_ethernet);
    put32(snap_bytes);
    put_option(option_name, text_bytes(name));
    put_option(option_mac, std::as_bytes(std::span{mac}));
    put_option(option_resolution, {&nanoseconds, 1});
    put32(0);
    end_block(began_at);
    handed_out_ = bytes_.size();
    return interfaces_++;
}

std::span<const std::byte> PcapngWriter::next_packets(std::size_t bytes_max) noexcept {
    const std::size_t first = handed_out_;
    while (handed_out_ < bytes_.size() &&
           (handed_out_ == first || handed_out_ - first < bytes_max)) {
        std::uint32_t block_bytes = 0;
        std::memcpy(&block_bytes, bytes_.data() + handed_out_ + sizeof block_bytes,
                    sizeof block_bytes);
        handed_out_ += block_bytes;
    }
    return std::span{bytes_}.subspan(first, handed_out_ - first);
}

bool PcapngWriter::add_packet(std::uint32_t interface, std::int64_t time_ns,
                              std::span<const std::byte> frame, Direction direction,
                              std::uint32_t original_bytes, std::string_view comment) {
    CHECK(interface < interfaces_);
    constexpr std::size_t fixed_bytes = 28 + 8 + 4 + 4; // header, flags, end of options, length
    const std::size_t comment_bytes = comment.empty() ? 0 : 4 + padded(comment.size());
    if (left_out_ > 0 || // then a smaller packet that still fits would be out of context
        bytes_.size() + fixed_bytes + padded(frame.size()) + comment_bytes > bytes_max_) {
        ++left_out_;
        return false;
    }
    const auto time = static_cast<std::uint64_t>(time_ns);
    const std::size_t began_at = begin_block(enhanced_packet);
    put32(interface);
    put32(static_cast<std::uint32_t>(time >> 32));
    put32(static_cast<std::uint32_t>(time));
    put32(static_cast<std::uint32_t>(frame.size()));
    put32(original_bytes != 0 ? original_bytes : static_cast<std::uint32_t>(frame.size()));
    put_padded(frame);
    const std::uint32_t flags = direction == Direction::in    ? 1
                                : direction == Direction::out ? 2
                                                              : 0;
    put_option(option_packet_flags, std::as_bytes(std::span{&flags, 1}));
    if (!comment.empty()) put_option(option_comment, text_bytes(comment));
    put32(0);
    end_block(began_at);
    ++packets_;
    return true;
}

} // namespace dataplane::net
