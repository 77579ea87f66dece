#include "queue/cipher.h"

#include "dataplane/base/check.h"

#include <cstring>
#include <openssl/evp.h>

namespace queue {
namespace {

constexpr std::size_t nonce_bytes = 12;
// What is authenticated beside the payload: pool (16), shard (4), segment number (8), offset (4), type (2),
// flags (2), payload bytes (4), LSN (8), message id (8).
constexpr std::size_t context_bytes = 56;

[[nodiscard]] const unsigned char* raw(const std::byte* bytes) noexcept {
    return reinterpret_cast<const unsigned char*>(bytes);
}
[[nodiscard]] unsigned char* raw(std::byte* bytes) noexcept {
    return reinterpret_cast<unsigned char*>(bytes);
}

template <class T>
std::byte* put(std::byte* to, const T& value) noexcept {
    std::memcpy(to, &value, sizeof value);
    return to + sizeof value;
}

[[nodiscard]] CipherContext new_context() {
    CipherContext context{EVP_CIPHER_CTX_new()};
    CHECK(context != nullptr);
    return context;
}

} // namespace

void CipherContextFree::operator()(evp_cipher_ctx_st* context) const noexcept {
    EVP_CIPHER_CTX_free(context); // clears the key, too
}

RecordCipher::RecordCipher(const PoolId& pool, std::uint32_t shard) : pool_(pool), shard_(shard) {
    sealing_.context = new_context();
    opening_.context = new_context();
    CHECK(EVP_EncryptInit_ex(sealing_.context.get(), EVP_aes_256_gcm(), nullptr, nullptr,
                             nullptr) == 1);
    CHECK(EVP_DecryptInit_ex(opening_.context.get(), EVP_aes_256_gcm(), nullptr, nullptr,
                             nullptr) == 1);
}

void RecordCipher::begin(Direction& direction, const Where& where, bool seals) noexcept {
    const RecordHeader& header = where.header;
    std::array<std::byte, nonce_bytes> nonce;
    put(put(nonce.data(), header.lsn), where.offset);
    // Setting a key up costs as much as encrypting half a kilobyte.
    const bool same = direction.has_key && direction.key == where.key;
    const unsigned char* key = same ? nullptr : raw(where.key.data());
    direction.key = where.key;
    direction.has_key = true;
    CHECK(EVP_CipherInit_ex(direction.context.get(), nullptr, nullptr, key, raw(nonce.data()),
                            seals ? 1 : 0) == 1);

    std::array<std::byte, context_bytes> context;
    std::byte* at = put(context.data(), pool_);
    at = put(at, shard_);
    at = put(at, where.segment_seq);
    at = put(at, where.offset);
    at = put(at, header.type);
    at = put(at, header.flags);
    at = put(at, header.payload_bytes);
    at = put(at, header.lsn);
    at = put(at, header.id.value);
    CHECK(at == context.data() + context.size());
    int done = 0;
    CHECK(EVP_CipherUpdate(direction.context.get(), nullptr, &done, raw(context.data()),
                           static_cast<int>(context.size())) == 1);
}

void RecordCipher::begin_seal(const Where& where) noexcept {
    begin(sealing_, where, true);
}

void RecordCipher::seal(std::span<const std::byte> from, std::byte* to) noexcept {
    if (from.empty()) return;
    int done = 0;
    CHECK(EVP_EncryptUpdate(sealing_.context.get(), raw(to), &done, raw(from.data()),
                            static_cast<int>(from.size())) == 1);
    CHECK(static_cast<std::size_t>(done) == from.size());
}

void RecordCipher::end_seal(std::span<std::byte, record_tag_bytes> tag) noexcept {
    int done = 0;
    CHECK(EVP_EncryptFinal_ex(sealing_.context.get(), raw(tag.data()), &done) == 1);
    CHECK(done == 0);
    CHECK(EVP_CIPHER_CTX_ctrl(sealing_.context.get(), EVP_CTRL_AEAD_GET_TAG,
                              static_cast<int>(tag.size()), tag.data()) == 1);
}

void RecordCipher::begin_open(const Where& where) noexcept {
    begin(opening_, where, false);
}

void RecordCipher::open(std::span<const std::byte> from, std::byte* to) noexcept {
    if (from.empty()) return;
    int done = 0;
    CHECK(EVP_DecryptUpdate(opening_.context.get(), raw(to), &done, raw(from.data()),
                            static_cast<int>(from.size())) == 1);
    CHECK(static_cast<std::size_t>(done) == from.size());
}

bool RecordCipher::end_open(std::span<const std::byte, record_tag_bytes> tag) noexcept {
    std::array<std::byte, record_tag_bytes> wanted;
    std::memcpy(wanted.data(), tag.data(), tag.size());
    CHECK(EVP_CIPHER_CTX_ctrl(opening_.context.get(), EVP_CTRL_AEAD_SET_TAG,
                              static_cast<int>(wanted.size()), wanted.data()) == 1);
    std::array<std::byte, record_tag_bytes> nothing;
    int done = 0;
    return EVP_DecryptFinal_ex(opening_.context.get(), raw(nothing.data()), &done) == 1;
}

void RecordCipher::seal_record(const Where& where, std::span<std::byte> stored) noexcept {
    CHECK(stored.size() == where.header.stored_bytes());
    const std::span<std::byte> payload = stored.first(where.header.payload_bytes);
    begin_seal(where);
    seal(payload, payload.data());
    end_seal(stored.last<record_tag_bytes>());
}

bool RecordCipher::open_record(const Where& where, std::span<std::byte> stored) noexcept {
    CHECK(stored.size() == where.header.stored_bytes());
    const std::span<std::byte> payload = stored.first(where.header.payload_bytes);
    begin_open(where);
    open(payload, payload.data());
    return end_open(stored.last<record_tag_bytes>());
}

} // namespace queue
