// keyring.h: the operator's keys, and the segments' own keys that they wrap.
//
// Scope      Reading keys from a file or the environment; making a segment's key, wrapping it for its header
//            and unwrapping it again. The first key wraps, all of them unwrap: that is how a key is replaced.
// Owns       The keys; clears them from memory at its end.
// Threading  Immutable once read: shared by all shards, except for its source of random bytes, which OpenSSL's
//            own may be used from all of them.
// Failure    A text for people, naming the source, the line and the remedy. KeyError when a segment's key does not
//            unwrap.
#pragma once

#include "queue/cipher.h"

#include <array>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace queue {

/// Names an operator's key without giving anything of it away.
using KeyId = std::array<std::byte, 8>;
[[nodiscard]] std::string to_string(const KeyId& id);

enum class KeyError : std::uint8_t {
    unknown,  // wrapped by a key that is not here
    given_up, // ... and that the operator has said is lost
    refused,  // the key is here and says that the bytes are not its own
};

class KeyRing {
public:
    using Random = std::function<void(std::span<std::byte>)>;

    /// \param text    one key a line, 64 hexadecimal digits. A first line `none` leaves new segments unencrypted;
    ///                `lost ID` gives up what a key wrapped that exists no more. `#` begins a comment.
    /// \param source  how errors name it
    [[nodiscard]] static std::expected<std::shared_ptr<const KeyRing>, std::string>
    parse(std::string_view text, const std::string& source, Random random = {});
    /// \param source  a file that nobody but its owner may read, or env:NAME
    [[nodiscard]] static std::expected<std::shared_ptr<const KeyRing>, std::string>
    load(const std::string& source);

    ~KeyRing();
    KeyRing(const KeyRing&) = delete;
    KeyRing& operator=(const KeyRing&) = delete;

    /// Whether new segments are encrypted.
    [[nodiscard]] bool encrypts() const noexcept { return encrypts_; }
    /// Whether this is the key that new segments get, so that nothing need be wrapped again.
    [[nodiscard]] bool current(const KeyId& wrapper) const noexcept {
        return encrypts_ && keys_.front().id == wrapper;
    }
    [[nodiscard]] DataKey fresh_key() const;
    /// \pre  encrypts()
    [[nodiscard]] WrappedKey wrap(const DataKey& key, const PoolId& pool, std::uint32_t shard,
                                  std::uint64_t segment_seq) const;
    [[nodiscard]] std::expected<DataKey, KeyError> unwrap(const WrappedKey& wrapped,
                                                          const PoolId& pool, std::uint32_t shard,
                                                          std::uint64_t segment_seq) const;
    [[nodiscard]] const std::string& source() const noexcept { return source_; }

private:
    struct Key {
        KeyId id{};
        DataKey bytes{};
    };
    KeyRing() = default;

    std::string source_;
    std::vector<Key> keys_;
    std::vector<KeyId> lost_;
    bool encrypts_ = false;
    Random random_;
};

} // namespace queue
