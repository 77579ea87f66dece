#include "tls_offload/engine/known_answer.h"

#include "tls_offload/engine/key_state.h"

#include <cstring>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>

namespace tls_offload::offload {
namespace {

using BnHandle = std::unique_ptr<BIGNUM, ReleaseWith<BN_clear_free>>;
using BnCtxHandle = std::unique_ptr<BN_CTX, ReleaseWith<BN_CTX_free>>;

// A key for nothing but this: everybody who has this file has it.
constexpr const char* prime_p_hex =
    "fd5737fc237e7b6ce84c26c952542e6d789e4337920010eab40db018400d36e570bd6cd5c75ee78d43261e6b"
    "01ea9eb84f3574c44dba15693c11bb0cc5947cc91da399e7ff3db60148b88af20e024c183089d80eef934913"
    "7e9b479596871f99a6a4b5321087603617cc6023735f9a8d576c0308357d3ae1e866c2d0c7fd8e41";
constexpr const char* prime_q_hex =
    "e534b7bde190c469c398b3f24f3d260287c4f6b1b822f18c7cbc52862f57f4af57845609094aa3550d1d838c"
    "7470c62576f0f351100d45f454ab31a002ab5630fed7b766b0f2b56e490a407ff104f8cf2b988a9848503578"
    "fd281b2e7c720b061d761c986993271c347d601d88b43b82186e1e712469e9ec244fd07903c19da3";
constexpr const char* answer_hex =
    "cbbdb855732d7a0f280db8b925e797d1d8c30c30e68a54852ba5cbf2329e23d68fe20ee8f06f3325028129d1"
    "87e348bd38cd9117d8f790118d34313e817197783953cb6b7cdcf11199d9849e8176641ad9bd78f0f3da4e69"
    "99df3914da52ce4d72fb09546b6800b3bb1391c45cf76de503930a4b7cdea83be3e810853146e6714ee4c8e5"
    "438fddca6d383312345c634ee9e800dd29ef2d94be4de5b6f2a0e902543e972ee701fde0975c3902676a98c6"
    "c761d35dba934fafd907f7fd39c7c706a4482d737a0bb301abbf5a1a9fe999b20320bb1a35961feb6327ec0d"
    "56a90be074af61dda5e082762c560047adcae591c43f5b1f4c36ccd4c2d9ed8bac3796ce";
constexpr unsigned long public_exponent = 65537;
constexpr const char* text = "millrace known answer"; // what is signed: its SHA-256

BnHandle from_hex(const char* hex) {
    BIGNUM* out = nullptr;
    CHECK(BN_hex2bn(&out, hex) != 0);
    return BnHandle{out};
}

KeyRef make_key() {
    const BnCtxHandle ctx{BN_CTX_new()};
    const BnHandle p = from_hex(prime_p_hex), q = from_hex(prime_q_hex);
    const BnHandle one{BN_new()}, e{BN_new()}, n{BN_new()}, p1{BN_new()}, q1{BN_new()},
        phi{BN_new()};
    const BnHandle d{BN_new()}, dp{BN_new()}, dq{BN_new()}, qinv{BN_new()};
    CHECK(ctx && one && e && n && p1 && q1 && phi && d && dp && dq && qinv);
    bool done = BN_one(one.get()) == 1 && BN_set_word(e.get(), public_exponent) == 1 &&
                BN_mul(n.get(), p.get(), q.get(), ctx.get()) == 1 &&
                BN_sub(p1.get(), p.get(), one.get()) == 1 &&
                BN_sub(q1.get(), q.get(), one.get()) == 1 &&
                BN_mul(phi.get(), p1.get(), q1.get(), ctx.get()) == 1 &&
                BN_mod_inverse(d.get(), e.get(), phi.get(), ctx.get()) != nullptr &&
                BN_mod(dp.get(), d.get(), p1.get(), ctx.get()) == 1 &&
                BN_mod(dq.get(), d.get(), q1.get(), ctx.get()) == 1 &&
                BN_mod_inverse(qinv.get(), q.get(), p.get(), ctx.get()) != nullptr;
    CHECK(done);

    const std::unique_ptr<OSSL_PARAM_BLD, ReleaseWith<OSSL_PARAM_BLD_free>> build{
        OSSL_PARAM_BLD_new()};
    for (const auto& [name, value] :
         {std::pair{OSSL_PKEY_PARAM_RSA_N, n.get()}, std::pair{OSSL_PKEY_PARAM_RSA_E, e.get()},
          std::pair{OSSL_PKEY_PARAM_RSA_D, d.get()},
          std::pair{OSSL_PKEY_PARAM_RSA_FACTOR1, p.get()},
          std::pair{OSSL_PKEY_PARAM_RSA_FACTOR2, q.get()},
          std::pair{OSSL_PKEY_PARAM_RSA_EXPONENT1, dp.get()},
          std::pair{OSSL_PKEY_PARAM_RSA_EXPONENT2, dq.get()},
          std::pair{OSSL_PKEY_PARAM_RSA_COEFFICIENT1, qinv.get()}}) {
        done = done && OSSL_PARAM_BLD_push_BN(build.get(), name, value) == 1;
    }
    const std::unique_ptr<OSSL_PARAM, ReleaseWith<OSSL_PARAM_free>> parameters{
        OSSL_PARAM_BLD_to_param(build.get())};
    const std::unique_ptr<EVP_PKEY_CTX, ReleaseWith<EVP_PKEY_CTX_free>> maker{
        EVP_PKEY_CTX_new_from_name(nullptr, "RSA", nullptr)};
    EVP_PKEY* key = nullptr;
    done = done && parameters && maker && EVP_PKEY_fromdata_init(maker.get()) == 1 &&
           EVP_PKEY_fromdata(maker.get(), &key, EVP_PKEY_KEYPAIR, parameters.get()) == 1;
    CHECK(done);
    const std::unique_ptr<EVP_PKEY, ReleaseWith<EVP_PKEY_free>> owner{key};
    auto made = PrivateKey::from_evp(*key);
    CHECK(made.has_value());
    return *made;
}

} // namespace

KnownAnswer::KnownAnswer() : key(make_key()) {
    Sha256Digest digest;
    std::size_t length = 0;
    CHECK(EVP_Q_digest(nullptr, "SHA256", nullptr, text, std::strlen(text),
                       reinterpret_cast<unsigned char*>(digest.data()), &length) == 1);
    pad_pkcs1_sha256(digest, block);
    const BnHandle answer_number = from_hex(answer_hex);
    CHECK(BN_bn2binpad(answer_number.get(), reinterpret_cast<unsigned char*>(answer.data()),
                       static_cast<int>(answer.size())) == static_cast<int>(answer.size()));
}

} // namespace tls_offload::offload
