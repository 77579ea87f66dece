// fake_crypto_mb.cc: a shared library with the interface of libcrypto_mb and none of its speed, so that
// batching, status bits and verification are tested where the real one is not installed.
//
// Scope      mbx_rsa_private_crt_ssl_mb8 with OpenSSL's arithmetic. What fake_crypto_mb_* say is for tests.
#include <array>
#include <cstdint>
#include <openssl/bn.h>

namespace {

std::array<unsigned, 9> batches_of{}; // by lanes used
unsigned wrong_lane = 8, failing_lane = 8;

void raise(BIGNUM* result, const BIGNUM* base, const BIGNUM* exponent, const BIGNUM* modulus,
           BN_CTX* ctx) {
    BN_nnmod(result, base, modulus, ctx);
    BN_mod_exp(result, result, exponent, modulus, ctx);
}

} // namespace

extern "C" {

int mbx_is_crypto_mb_applicable(std::uint64_t) {
    return 1;
}

std::uint32_t mbx_rsa_private_crt_ssl_mb8(const unsigned char* const from[8],
                                          unsigned char* const to[8], const BIGNUM* const p[8],
                                          const BIGNUM* const q[8], const BIGNUM* const dp[8],
                                          const BIGNUM* const dq[8], const BIGNUM* const qinv[8],
                                          int bits) {
    std::uint32_t status = 0;
    unsigned used = 0;
    BN_CTX* ctx = BN_CTX_new();
    for (unsigned lane = 0; lane < 8; ++lane) {
        if (from[lane] == nullptr || to[lane] == nullptr) {
            status |= 2U << (4 * lane); // a null parameter
            continue;
        }
        ++used;
        if (lane == failing_lane) {
            status |= 1U << (4 * lane);
            continue;
        }
        BIGNUM* message = BN_bin2bn(from[lane], bits / 8, nullptr);
        BIGNUM* at_p = BN_new();
        BIGNUM* at_q = BN_new();
        raise(at_p, message, dp[lane], p[lane], ctx);
        raise(at_q, message, dq[lane], q[lane], ctx);
        BN_mod_sub(at_p, at_p, at_q, p[lane], ctx);
        BN_mod_mul(at_p, at_p, qinv[lane], p[lane], ctx);
        BN_mul(at_p, at_p, q[lane], ctx);
        BN_add(at_p, at_p, at_q);
        BN_bn2binpad(at_p, to[lane], bits / 8);
        if (lane == wrong_lane) to[lane][7] ^= 1;
        BN_free(message);
        BN_free(at_p);
        BN_free(at_q);
    }
    BN_CTX_free(ctx);
    ++batches_of[used];
    return status;
}

unsigned fake_crypto_mb_batches_of(unsigned used) {
    return batches_of[used];
}
void fake_crypto_mb_break(unsigned wrong, unsigned failing) {
    wrong_lane = wrong;
    failing_lane = failing;
}
void fake_crypto_mb_forget() {
    batches_of = {};
}

} // extern "C"
