#include "dataplane/policy/siphash.h"

#include <bit>
#include <cstddef>
#include <cstring>

namespace dataplane::policy {
namespace {

class SipState {
public:
    explicit SipState(const SipKey& key) noexcept
        : v0_(0x736f6d6570736575ULL ^ key[0]), v1_(0x646f72616e646f6dULL ^ key[1] ^ 0xee),
          v2_(0x6c7967656e657261ULL ^ key[0]), v3_(0x7465646279746573ULL ^ key[1]) {}

    void feed(std::string_view text) noexcept {
        for (const char byte : text) {
            word_ |= std::uint64_t{static_cast<unsigned char>(byte)} << (8 * (bytes_ % 8));
            if (++bytes_ % 8 == 0) {
                compress(word_);
                word_ = 0;
            }
        }
    }
    [[nodiscard]] Digest finish() noexcept {
        compress(word_ | (bytes_ & 0xff) << 56);
        v2_ ^= 0xee;
        rounds(4);
        const std::uint64_t low = v0_ ^ v1_ ^ v2_ ^ v3_;
        v1_ ^= 0xdd;
        rounds(4);
        return {low, v0_ ^ v1_ ^ v2_ ^ v3_};
    }

private:
    void compress(std::uint64_t word) noexcept {
        v3_ ^= word;
        rounds(2);
        v0_ ^= word;
    }
    void rounds(int count) noexcept {
        for (int round = 0; round < count; ++round) {
            v0_ += v1_;
            v1_ = std::rotl(v1_, 13) ^ v0_;
            v0_ = std::rotl(v0_, 32);
            v2_ += v3_;
            v3_ = std::rotl(v3_, 16) ^ v2_;
            v0_ += v3_;
            v3_ = std::rotl(v3_, 21) ^ v0_;
            v2_ += v1_;
            v1_ = std::rotl(v1_, 17) ^ v2_;
            v2_ = std::rotl(v2_, 32);
        }
    }

    std::uint64_t v0_, v1_, v2_, v3_;
    std::uint64_t word_ = 0;
    std::uint64_t bytes_ = 0;
};

} // namespace

Digest sip_digest(const SipKey& key, std::string_view text) noexcept {
    SipState state(key);
    state.feed(text);
    return state.finish();
}

Digest sip_digest(const SipKey& key, std::string_view first, std::string_view second) noexcept {
    const std::uint64_t first_bytes = first.size(); // fed first, so that "ab"+"c" is not "a"+"bc"
    std::array<char, sizeof first_bytes> length{};
    std::memcpy(length.data(), &first_bytes, sizeof first_bytes);
    SipState state(key);
    state.feed({length.data(), length.size()});
    state.feed(first);
    state.feed(second);
    return state.finish();
}

} // namespace dataplane::policy
