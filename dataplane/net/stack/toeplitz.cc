#include "dataplane/net/stack/toeplitz.h"

#include "dataplane/base/check.h"

#include <algorithm>

namespace dataplane::net::stack {
namespace {

// Where the destination port lies in the hash's input: behind both addresses and the source port.
constexpr std::size_t destination_port_v4 = 10;
constexpr std::size_t destination_port_v6 = 34;
constexpr std::size_t input_bytes_max = 36;

} // namespace

std::uint32_t toeplitz_bitwise(std::span<const std::uint8_t> key,
                               std::span<const std::uint8_t> input) noexcept {
    CHECK(key.size() >= input.size() + 4);
    std::uint32_t window = static_cast<std::uint32_t>(key[0]) << 24 |
                           static_cast<std::uint32_t>(key[1]) << 16 |
                           static_cast<std::uint32_t>(key[2]) << 8 | key[3];
    std::uint32_t hash = 0;
    for (std::size_t i = 0; i < input.size(); ++i) {
        for (int bit = 7; bit >= 0; --bit) {
            if ((input[i] >> bit & 1) != 0) hash ^= window;
            window = window << 1 | (key[i + 4] >> bit & 1U);
        }
    }
    return hash;
}

Toeplitz::Toeplitz(std::span<const std::uint8_t> key) : key_(key.begin(), key.end()) {
    CHECK(key.size() >= key_bytes_min);
    for (unsigned family = 0; family < tables_.size(); ++family) {
        const std::size_t port_at = family == 0 ? destination_port_v4 : destination_port_v6;
        std::array<std::uint8_t, input_bytes_max> input{};
        const std::span used{input.data(), port_at + 2};
        for (unsigned value = 0; value < 256; ++value) {
            input[port_at] = static_cast<std::uint8_t>(value);
            tables_[family].high[value] = toeplitz_bitwise(key_, used);
            input[port_at] = 0;
            input[port_at + 1] = static_cast<std::uint8_t>(value);
            tables_[family].low[value] = toeplitz_bitwise(key_, used);
            input[port_at + 1] = 0;
        }
    }
}

std::uint32_t Toeplitz::hash_without_local_port(const FlowKey& flow) const noexcept {
    const std::size_t ip_bytes = flow.local.is_v6() ? 16 : 4;
    std::array<std::uint8_t, input_bytes_max> input{};
    std::copy_n(flow.remote.bytes().begin(), ip_bytes, input.begin());
    std::copy_n(flow.local.bytes().begin(), ip_bytes, input.data() + ip_bytes);
    input[2 * ip_bytes] = static_cast<std::uint8_t>(flow.remote_port >> 8);
    input[2 * ip_bytes + 1] = static_cast<std::uint8_t>(flow.remote_port & 255);
    return toeplitz_bitwise(key_, {input.data(), 2 * ip_bytes + 2});
}

} // namespace dataplane::net::stack
