#include "queue/keyring.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <optional>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace queue {
namespace {

constexpr std::size_t source_bytes_max = 64U << 10;
constexpr std::string_view environment_prefix = "env:";
constexpr std::string_view id_label = "millrace spool key";

[[nodiscard]] const unsigned char* raw(const std::byte* bytes) noexcept {
    return reinterpret_cast<const unsigned char*>(bytes);
}
[[nodiscard]] unsigned char* raw(std::byte* bytes) noexcept {
    return reinterpret_cast<unsigned char*>(bytes);
}

[[nodiscard]] std::optional<unsigned> digit(char c) noexcept {
    if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
    if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a') + 10;
    if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A') + 10;
    return std::nullopt;
}

[[nodiscard]] bool from_hex(std::string_view text, std::span<std::byte> bytes) noexcept {
    if (text.size() != bytes.size() * 2) return false;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        const auto high = digit(text[2 * i]);
        const auto low = digit(text[2 * i + 1]);
        if (!high || !low) return false;
        bytes[i] = static_cast<std::byte>(*high << 4 | *low);
    }
    return true;
}

[[nodiscard]] KeyId id_of(const DataKey& key) {
    std::array<std::byte, id_label.size() + sizeof(DataKey)> text;
    std::memcpy(text.data(), id_label.data(), id_label.size());
    std::memcpy(text.data() + id_label.size(), key.data(), key.size());
    std::array<std::byte, 32> digest;
    CHECK(EVP_Digest(text.data(), text.size(), raw(digest.data()), nullptr, EVP_sha256(),
                     nullptr) == 1);
    OPENSSL_cleanse(text.data(), text.size());
    KeyId id;
    std::copy_n(digest.begin(), id.size(), id.begin());
    return id;
}

/// What a wrapped key is tied to: the segment that it is for.
[[nodiscard]] std::array<std::byte, 28> scope_of(const PoolId& pool, std::uint32_t shard,
                                                 std::uint64_t segment_seq) noexcept {
    std::array<std::byte, 28> scope;
    std::memcpy(scope.data(), pool.data(), pool.size());
    std::memcpy(scope.data() + 16, &shard, sizeof shard);
    std::memcpy(scope.data() + 20, &segment_seq, sizeof segment_seq);
    return scope;
}

/// The words of a line, its comment left out.
[[nodiscard]] std::vector<std::string_view> words_of(std::string_view line) {
    line = line.substr(0, line.find('#'));
    std::vector<std::string_view> words;
    while (true) {
        const std::size_t begin = line.find_first_not_of(" \t\r");
        if (begin == std::string_view::npos) return words;
        line.remove_prefix(begin);
        const std::size_t end = std::min(line.find_first_of(" \t\r"), line.size());
        words.push_back(line.substr(0, end));
        line.remove_prefix(end);
    }
}

[[nodiscard]] std::string reason(int error) {
    return std::generic_category().message(error);
}

[[nodiscard]] std::expected<std::string, std::string> read_file(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return std::unexpected(path + ": cannot be read: " + reason(errno));
    const auto fail = [&](std::string text) {
        ::close(file);
        return std::unexpected(path + std::move(text));
    };
    struct stat status{};
    if (::fstat(file, &status) != 0) return fail(": cannot be read: " + reason(errno));
    if (!S_ISREG(status.st_mode)) return fail(": is not a file; put the spool's keys into one");
    if ((status.st_mode & 077) != 0)
        return fail(": others than its owner may read it; chmod 600 " + path);
    std::string text(source_bytes_max + 1, '\0');
    const ssize_t got = ::read(file, text.data(), text.size());
    if (got < 0) return fail(": cannot be read: " + reason(errno));
    if (static_cast<std::size_t>(got) > source_bytes_max)
        return fail(": is larger than any list of keys");
    ::close(file);
    text.resize(static_cast<std::size_t>(got));
    return text;
}

} // namespace

std::string to_string(const KeyId& id) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (const std::byte byte : id) {
        text += digits[std::to_integer<unsigned>(byte) >> 4];
        text += digits[std::to_integer<unsigned>(byte) & 15];
    }
    return text;
}

KeyRing::~KeyRing() {
    for (Key& key : keys_)
        OPENSSL_cleanse(key.bytes.data(), key.bytes.size());
}

std::expected<std::shared_ptr<const KeyRing>, std::string>
KeyRing::parse(std::string_view text, const std::string& source, Random random) {
    const std::shared_ptr<KeyRing> ring{new KeyRing};
    ring->source_ = source;
    ring->random_ = std::move(random);
    ring->keys_.reserve(text.size() / (2 * sizeof(DataKey)) + 1); // no copies of keys left behind
    ring->encrypts_ = true;
    bool first = true;
    for (unsigned line_number = 1; !text.empty(); ++line_number) {
        const std::size_t end = text.find('\n');
        const std::vector<std::string_view> words = words_of(text.substr(0, end));
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        if (words.empty()) continue;
        Key key;
        KeyId lost;
        if (words.size() == 1 && from_hex(words[0], key.bytes)) {
            key.id = id_of(key.bytes);
            ring->keys_.push_back(key);
            OPENSSL_cleanse(key.bytes.data(), key.bytes.size());
        } else if (first && words.size() == 1 && words[0] == "none") {
            ring->encrypts_ = false;
        } else if (words.size() == 2 && words[0] == "lost" && from_hex(words[1], lost)) {
            ring->lost_.push_back(lost);
        } else { // the line may hold most of a key: never repeat it
            return std::unexpected(
                source + ":" + std::to_string(line_number) +
                ": expected a key of 64 hexadecimal digits, 'none' in front of all "
                "others, or 'lost' and a key's id; openssl rand -hex 32 makes a key");
        }
        first = false;
    }
    if (ring->encrypts_ && ring->keys_.empty())
        return std::unexpected(source + ": holds no key; put one there (openssl rand -hex 32), or "
                                        "the word none");
    return ring;
}

std::expected<std::shared_ptr<const KeyRing>, std::string>
KeyRing::load(const std::string& source) {
    if (source.starts_with(environment_prefix)) {
        const std::string name = source.substr(environment_prefix.size());
        const char* value = std::getenv(name.c_str());
        if (value == nullptr)
            return std::unexpected(source + ": the environment has no variable " + name +
                                   "; set it to the spool's key");
        return parse(value, source);
    }
    auto text = read_file(source);
    if (!text) return std::unexpected(text.error());
    auto ring = parse(*text, source);
    OPENSSL_cleanse(text->data(), text->size());
    return ring;
}

DataKey KeyRing::fresh_key() const {
    DataKey key;
    if (random_) {
        random_(key);
    } else {
        CHECK(RAND_bytes(raw(key.data()), static_cast<int>(key.size())) == 1);
    }
    return key;
}

WrappedKey KeyRing::wrap(const DataKey& key, const PoolId& pool, std::uint32_t shard,
                         std::uint64_t segment_seq) const {
    CHECK(encrypts_);
    const Key& wrapper = keys_.front();
    WrappedKey wrapped{.wrapper = wrapper.id};
    if (random_) {
        random_(wrapped.nonce);
    } else {
        CHECK(RAND_bytes(raw(wrapped.nonce.data()), static_cast<int>(wrapped.nonce.size())) == 1);
    }
    const auto scope = scope_of(pool, shard, segment_seq);
    const CipherContext context{EVP_CIPHER_CTX_new()};
    int done = 0;
    CHECK(EVP_EncryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, raw(wrapper.bytes.data()),
                             raw(wrapped.nonce.data())) == 1);
    CHECK(EVP_EncryptUpdate(context.get(), nullptr, &done, raw(scope.data()),
                            static_cast<int>(scope.size())) == 1);
    CHECK(EVP_EncryptUpdate(context.get(), raw(wrapped.key.data()), &done, raw(key.data()),
                            static_cast<int>(key.size())) == 1);
    CHECK(EVP_EncryptFinal_ex(context.get(), raw(wrapped.tag.data()), &done) == 1);
    CHECK(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG,
                              static_cast<int>(wrapped.tag.size()), wrapped.tag.data()) == 1);
    return wrapped;
}

std::expected<DataKey, KeyError> KeyRing::unwrap(const WrappedKey& wrapped, const PoolId& pool,
                                                 std::uint32_t shard,
                                                 std::uint64_t segment_seq) const {
    const auto wrapper = std::ranges::find(keys_, wrapped.wrapper, &Key::id);
    if (wrapper == keys_.end()) {
        const bool lost = std::ranges::find(lost_, wrapped.wrapper) != lost_.end();
        return std::unexpected(lost ? KeyError::given_up : KeyError::unknown);
    }
    const auto scope = scope_of(pool, shard, segment_seq);
    std::array<std::byte, 16> tag = wrapped.tag;
    DataKey key;
    std::array<std::byte, 16> nothing;
    const CipherContext context{EVP_CIPHER_CTX_new()};
    int done = 0;
    CHECK(EVP_DecryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, raw(wrapper->bytes.data()),
                             raw(wrapped.nonce.data())) == 1);
    CHECK(EVP_DecryptUpdate(context.get(), nullptr, &done, raw(scope.data()),
                            static_cast<int>(scope.size())) == 1);
    CHECK(EVP_DecryptUpdate(context.get(), raw(key.data()), &done, raw(wrapped.key.data()),
                            static_cast<int>(wrapped.key.size())) == 1);
    CHECK(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_TAG, static_cast<int>(tag.size()),
                              tag.data()) == 1);
    if (EVP_DecryptFinal_ex(context.get(), raw(nothing.data()), &done) != 1)
        return std::unexpected(KeyError::refused);
    return key;
}

} // namespace queue
