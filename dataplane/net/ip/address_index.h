// address_index.h: from an IP address to the row of a table that is about it.
//
// Scope      A chained hash over rows 0 .. capacity - 1, each with at most one address. The hash is
//            seeded, so that nobody can choose addresses that all fall into one chain.
// Owns       The keys. All memory is taken at construction.
// Threading  One shard.
// Failure    None: the owner of the table says which row, and keeps within the capacity.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/check.h"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace dataplane::net::ip {

class AddressIndex {
public:
    static constexpr std::uint32_t none = 0xffff'ffff;

    AddressIndex(std::size_t capacity, std::uint64_t seed)
        : heads_(std::bit_ceil(capacity + 1), none), nodes_(capacity), seed_(seed | 1) {}

    [[nodiscard]] std::uint32_t find(const base::IpAddress& ip) const noexcept {
        const Words words = words_of(ip);
        std::uint32_t row = heads_[bucket(words)];
        while (row != none && nodes_[row].words != words)
            row = nodes_[row].next;
        return row;
    }
    void insert(const base::IpAddress& ip, std::uint32_t row) noexcept {
        DCHECK(find(ip) == none);
        const Words words = words_of(ip);
        std::uint32_t& head = heads_[bucket(words)];
        nodes_[row] = {words, ip, head};
        head = row;
    }
    /// The row's own address, which was inserted.
    void erase(std::uint32_t row) noexcept {
        std::uint32_t* link = &heads_[bucket(nodes_[row].words)];
        while (*link != row) {
            CHECK(*link != none);
            link = &nodes_[*link].next;
        }
        *link = nodes_[row].next;
    }
    [[nodiscard]] const base::IpAddress& key(std::uint32_t row) const noexcept {
        return nodes_[row].key;
    }

private:
    // The address in registers. An IPv4 one is read as the four bytes that it was just written as: a
    // wider load would wait until they are in the cache, which costs more than all the rest. No
    // IPv6 address has the second word of IPv4's, as mapped ones are IPv4.
    struct Words {
        std::uint64_t first = 0;
        std::uint64_t second = 0;
        friend bool operator==(const Words&, const Words&) noexcept = default;
    };
    struct Node {
        Words words;
        base::IpAddress key;
        std::uint32_t next = none;
    };

    [[nodiscard]] static Words words_of(const base::IpAddress& ip) noexcept {
        Words words;
        if (ip.is_v6()) {
            std::memcpy(&words, ip.bytes().data(), sizeof words);
        } else {
            std::uint32_t four;
            std::memcpy(&four, ip.bytes().data(), sizeof four);
            words = {0, std::uint64_t{four} << 32 | mapped};
        }
        return words;
    }
    [[nodiscard]] std::size_t bucket(const Words& words) const noexcept {
        // The high half of a 128-bit product depends on every bit of both factors.
        const auto mix = [](std::uint64_t a, std::uint64_t b) {
            const auto product = static_cast<Wide>(a) * b;
            return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
        };
        const std::uint64_t first = mix(words.first ^ seed_, 0x9e37'79b9'7f4a'7c15);
        const std::uint64_t both = mix(words.second ^ first, seed_ ^ 0xd6e8'feb8'6659'fd93);
        return static_cast<std::size_t>(both) & (heads_.size() - 1);
    }
    __extension__ using Wide = unsigned __int128;

    static constexpr std::uint64_t mapped = 0xffff'0000; // ::ffff:a.b.c.d, as a word in memory

    std::vector<std::uint32_t> heads_;
    std::vector<Node> nodes_;
    std::uint64_t seed_;
};

} // namespace dataplane::net::ip
