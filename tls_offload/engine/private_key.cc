#include "tls_offload/engine/private_key.h"

#include "tls_offload/engine/key_state.h"

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

namespace tls_offload::offload {
namespace {

using BnHandle = std::unique_ptr<BIGNUM, ReleaseWith<BN_clear_free>>;
using BnCtxHandle = std::unique_ptr<BN_CTX, ReleaseWith<BN_CTX_free>>;
using BioHandle = std::unique_ptr<BIO, ReleaseWith<BIO_free_all>>;
using EvpKeyHandle = std::unique_ptr<EVP_PKEY, ReleaseWith<EVP_PKEY_free>>;

// DER of DigestInfo up to the digest itself (RFC 8017 §9.2, note 1).
constexpr std::array<unsigned char, 19> sha256_info{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60,
                                                    0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
                                                    0x01, 0x05, 0x00, 0x04, 0x20};

unsigned char* raw(std::span<std::byte> bytes) noexcept {
    return reinterpret_cast<unsigned char*>(bytes.data());
}
const unsigned char* raw(std::span<const std::byte> bytes) noexcept {
    return reinterpret_cast<const unsigned char*>(bytes.data());
}

BnHandle number(std::span<const std::byte> bytes) noexcept {
    BnHandle out{BN_bin2bn(raw(bytes), static_cast<int>(bytes.size()), nullptr)};
    if (out) BN_set_flags(out.get(), BN_FLG_CONSTTIME);
    return out;
}

BnHandle parameter(const EVP_PKEY& key, const char* name) noexcept {
    BIGNUM* out = nullptr;
    if (EVP_PKEY_get_bn_param(&key, name, &out) != 1) return nullptr;
    return BnHandle{out};
}

/// Everything of a key, as OpenSSL gives it.
struct Parts {
    BnHandle n, e, d, p, q, dp, dq, qinv;
    [[nodiscard]] bool complete() const noexcept {
        return n && e && d && p && q && dp && dq && qinv;
    }
};

/// a * b = 1 (mod m), or (mod m - 1) when `less_one`.
bool inverse(const BIGNUM& a, const BIGNUM& b, const BIGNUM& m, bool less_one,
             BN_CTX& ctx) noexcept {
    const BnHandle modulus{BN_dup(&m)};
    const BnHandle product{BN_new()};
    if (!modulus || !product || (less_one && BN_sub_word(modulus.get(), 1) != 1)) return false;
    return BN_mod_mul(product.get(), &a, &b, modulus.get(), &ctx) == 1 && BN_is_one(product.get());
}

bool consistent(const Parts& key, int bits) noexcept {
    const BnCtxHandle ctx{BN_CTX_new()};
    const BnHandle product{BN_new()};
    if (!ctx || !product || BN_mul(product.get(), key.p.get(), key.q.get(), ctx.get()) != 1)
        return false;
    return BN_cmp(product.get(), key.n.get()) == 0 && BN_num_bits(key.p.get()) == bits / 2 &&
           BN_num_bits(key.q.get()) == bits / 2 && BN_is_odd(key.e.get()) &&
           !BN_is_one(key.e.get()) && BN_num_bits(key.e.get()) <= 64 &&
           BN_num_bits(key.d.get()) <= bits && BN_num_bits(key.dp.get()) <= bits / 2 &&
           BN_num_bits(key.dq.get()) <= bits / 2 && BN_num_bits(key.qinv.get()) <= bits / 2 &&
           inverse(*key.e, *key.d, *key.p, true, *ctx) &&
           inverse(*key.e, *key.d, *key.q, true, *ctx) &&
           inverse(*key.e, *key.dp, *key.p, true, *ctx) &&
           inverse(*key.e, *key.dq, *key.q, true, *ctx) &&
           inverse(*key.q, *key.qinv, *key.p, false, *ctx);
}

int refuse_pass_phrase(char*, int, int, void*) {
    return -1; // there is nobody to ask; OpenSSL's default asks the terminal
}

std::unexpected<KeyFailure> failure(KeyError error, std::string text) {
    ERR_clear_error();
    return std::unexpected(KeyFailure{error, std::move(text)});
}

} // namespace

bool sign_block(RSA& key, std::span<const std::byte> block,
                std::span<std::byte> signature) noexcept {
    const int made = RSA_private_encrypt(static_cast<int>(block.size()), raw(block), raw(signature),
                                         &key, RSA_NO_PADDING);
    if (made == static_cast<int>(block.size())) return true;
    ERR_clear_error();
    return false;
}

bool verify_block(RSA& key, std::span<const std::byte> block,
                  std::span<const std::byte> signature) noexcept {
    std::array<std::byte, block_bytes_max> opened;
    if (signature.size() != block.size() || block.size() > opened.size() ||
        static_cast<int>(block.size()) != RSA_size(&key))
        return false;
    const int length =
        RSA_public_decrypt(static_cast<int>(signature.size()), raw(signature),
                           reinterpret_cast<unsigned char*>(opened.data()), &key, RSA_NO_PADDING);
    if (length != static_cast<int>(block.size())) {
        ERR_clear_error();
        return false;
    }
    return std::memcmp(opened.data(), block.data(), block.size()) == 0;
}

RsaHandle make_private_rsa(const KeyNumbers& numbers) noexcept {
    RsaHandle rsa{RSA_new()};
    BnHandle n = number(numbers.n), e = number(numbers.e), d = number(numbers.d);
    BnHandle p = number(numbers.p), q = number(numbers.q);
    BnHandle dp = number(numbers.dp), dq = number(numbers.dq), qinv = number(numbers.qinv);
    if (!rsa || !n || !e || !d || !p || !q || !dp || !dq || !qinv) return nullptr;
    RSA_set_method(rsa.get(), RSA_PKCS1_OpenSSL()); // whatever engine is the default one
    // Each set0 call takes its numbers over; RSA_free() overwrites and frees them.
    if (RSA_set0_key(rsa.get(), n.get(), e.get(), d.get()) != 1) return nullptr;
    static_cast<void>(n.release()), static_cast<void>(e.release()), static_cast<void>(d.release());
    if (RSA_set0_factors(rsa.get(), p.get(), q.get()) != 1) return nullptr;
    static_cast<void>(p.release()), static_cast<void>(q.release());
    if (RSA_set0_crt_params(rsa.get(), dp.get(), dq.get(), qinv.get()) != 1) return nullptr;
    static_cast<void>(dp.release()), static_cast<void>(dq.release()),
        static_cast<void>(qinv.release());
    return rsa;
}

RSA* local_rsa(const PrivateKey& key) noexcept {
    KeyState& state = key.state();
    if (!state.local) state.local = make_private_rsa(key.numbers());
    return state.local.get();
}

bool prepare_for_workers(const PrivateKey& key) noexcept {
    KeyState& state = key.state();
    if (!state.worker) state.worker = make_private_rsa(key.numbers());
    return state.worker != nullptr;
}

PrivateKey::PrivateKey() noexcept = default;

PrivateKey::~PrivateKey() {
    if (memory_.empty()) return;
    explicit_bzero(memory_.data(), memory_.size());
    munmap(memory_.data(), memory_.size());
}

PrivateKey::Result PrivateKey::from_pem(std::string_view pem) {
    if (pem.size() > 64 * 1024) return failure(KeyError::unreadable, "no private key is that long");
    ERR_clear_error();
    const BioHandle bio{BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()))};
    if (!bio) return failure(KeyError::library, "OpenSSL is out of memory");
    const EvpKeyHandle key{
        PEM_read_bio_PrivateKey(bio.get(), nullptr, refuse_pass_phrase, nullptr)};
    if (!key) return failure(KeyError::unreadable, "no PEM private key, or it is encrypted");
    return from_evp(*key);
}

PrivateKey::Result PrivateKey::from_evp(const evp_pkey_st& evp) {
    if (EVP_PKEY_is_a(&evp, "RSA") != 1)
        return failure(KeyError::not_rsa, "the key is not an RSA key");
    Parts parts{parameter(evp, OSSL_PKEY_PARAM_RSA_N),
                parameter(evp, OSSL_PKEY_PARAM_RSA_E),
                parameter(evp, OSSL_PKEY_PARAM_RSA_D),
                parameter(evp, OSSL_PKEY_PARAM_RSA_FACTOR1),
                parameter(evp, OSSL_PKEY_PARAM_RSA_FACTOR2),
                parameter(evp, OSSL_PKEY_PARAM_RSA_EXPONENT1),
                parameter(evp, OSSL_PKEY_PARAM_RSA_EXPONENT2),
                parameter(evp, OSSL_PKEY_PARAM_RSA_COEFFICIENT1)};
    const int bits = parts.n ? BN_num_bits(parts.n.get()) : 0;
    if (bits < static_cast<int>(key_bits_min) || bits > static_cast<int>(key_bits_max) ||
        bits % 64 != 0) {
        return failure(KeyError::bad_size, "an RSA key of " + std::to_string(bits) + " bits; " +
                                               std::to_string(key_bits_min) + " to " +
                                               std::to_string(key_bits_max) +
                                               " are possible, 2048 is usual");
    }
    if (!parts.complete() || !consistent(parts, bits)) {
        return failure(
            KeyError::inconsistent,
            "the numbers of the RSA key do not belong together, or its primes are missing");
    }

    base::Ref<PrivateKey> key{new PrivateKey};
    key->bits_ = static_cast<unsigned>(bits);
    const std::size_t whole = key->modulus_bytes(), half = whole / 2;
    const auto e_bytes = static_cast<std::size_t>(BN_num_bytes(parts.e.get()));
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t wanted = 2 * whole + 5 * half + e_bytes;
    const std::size_t bytes = (wanted + page - 1) / page * page;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return failure(KeyError::library, "no memory for a key");
    key->memory_ = {static_cast<std::byte*>(memory), bytes};
    const bool out_of_dumps = madvise(memory, bytes, MADV_DONTDUMP) == 0;
    key->locked_ = mlock(memory, bytes) == 0 && out_of_dumps;

    std::span<std::byte> room = key->memory_;
    const auto place = [&room](const BnHandle& from, std::size_t length,
                               std::span<const std::byte>& into) {
        const std::span<std::byte> here = room.first(length);
        room = room.subspan(length);
        into = here;
        return BN_bn2binpad(from.get(), raw(here), static_cast<int>(length)) ==
               static_cast<int>(length);
    };
    KeyNumbers& to = key->numbers_;
    const bool placed = place(parts.n, whole, to.n) && place(parts.e, e_bytes, to.e) &&
                        place(parts.d, whole, to.d) && place(parts.p, half, to.p) &&
                        place(parts.q, half, to.q) && place(parts.dp, half, to.dp) &&
                        place(parts.dq, half, to.dq) && place(parts.qinv, half, to.qinv);
    CHECK(placed);

    key->state_ = std::make_unique<KeyState>();
    RsaHandle verifier{RSA_new()};
    if (!verifier) return failure(KeyError::library, "OpenSSL is out of memory");
    RSA_set_method(verifier.get(), RSA_PKCS1_OpenSSL());
    if (RSA_set0_key(verifier.get(), parts.n.get(), parts.e.get(), nullptr) != 1)
        return failure(KeyError::library, "OpenSSL does not take the key");
    static_cast<void>(parts.n.release()),
        static_cast<void>(parts.e.release()); // the verifier's now
    key->state_->verifier = std::move(verifier);
    return key;
}

void pad_pkcs1_sha256(const Sha256Digest& digest, std::span<std::byte> block) noexcept {
    CHECK(block.size() >= digest.size() + sha256_info.size() + 11);
    const std::size_t info_at = block.size() - digest.size() - sha256_info.size();
    std::fill(block.begin(), block.end(), std::byte{0xff});
    block[0] = std::byte{0x00};
    block[1] = std::byte{0x01};
    block[info_at - 1] = std::byte{0x00};
    std::memcpy(block.data() + info_at, sha256_info.data(), sha256_info.size());
    std::memcpy(block.data() + block.size() - digest.size(), digest.data(), digest.size());
}

} // namespace tls_offload::offload
