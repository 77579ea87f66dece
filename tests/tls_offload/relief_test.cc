// Goal: the relief changes how long OpenSSL takes, and nothing else. Method: every verdict with it is
// held against the verdict without it: the self-test's chains, and their certificates with each byte
// changed in turn.
#include "tls_offload/openssl.h"
#include "tls_offload/relief.h"
#include "tls_offload/relief_chains.h"

#include <algorithm>
#include <cstdlib>
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <string>
#include <vector>

namespace tests {
namespace {

using tls_offload::BioHandle;
using tls_offload::CertificateHandle;
using tls_offload::KeyHandle;
using tls_offload::Relief;

constexpr std::time_t valid_time = 1'893'456'000; // 2030

using Der = std::vector<unsigned char>;

Der der_of(const char* pem) {
    const BioHandle text{BIO_new_mem_buf(pem, -1)};
    const CertificateHandle certificate{PEM_read_bio_X509(text.get(), nullptr, nullptr, nullptr)};
    unsigned char* bytes = nullptr;
    const int count = i2d_X509(certificate.get(), &bytes);
    Der der(bytes, bytes + count);
    OPENSSL_free(bytes);
    return der;
}

/// Everything that a handshake would learn from this leaf, as text.
std::string verdict(const Der& leaf, const Der& root) {
    const unsigned char* at = leaf.data();
    const CertificateHandle certificate{d2i_X509(nullptr, &at, static_cast<long>(leaf.size()))};
    if (certificate == nullptr) return "unreadable";
    std::string text;
    EVP_PKEY* key = X509_get0_pubkey(certificate.get());
    if (key == nullptr) {
        text = "no key";
    } else {
        unsigned char* encoded = nullptr;
        const int count = i2d_PUBKEY(key, &encoded);
        text = std::to_string(EVP_PKEY_get_base_id(key)) + ' ' +
               std::to_string(EVP_PKEY_get_bits(key)) + ' ';
        if (count > 0)
            text.append(reinterpret_cast<char*>(encoded), static_cast<std::size_t>(count));
        OPENSSL_free(encoded);
    }
    at = root.data();
    const CertificateHandle trusted{d2i_X509(nullptr, &at, static_cast<long>(root.size()))};
    X509_STORE* store = X509_STORE_new();
    X509_STORE_add_cert(store, trusted.get());
    X509_STORE_CTX* verify = X509_STORE_CTX_new();
    X509_STORE_CTX_init(verify, store, certificate.get(), nullptr);
    X509_VERIFY_PARAM_set_time(X509_STORE_CTX_get0_param(verify), valid_time);
    const int verified = X509_verify_cert(verify);
    text += " " + std::to_string(verified) + " " + std::to_string(X509_STORE_CTX_get_error(verify));
    X509_STORE_CTX_free(verify);
    X509_STORE_free(store);
    ERR_clear_error();
    return text;
}

struct ReliefTest : ::testing::Test {
    ~ReliefTest() override { tls_offload::end_relief(); }
};

TEST_F(ReliefTest, SelfTestPassesWithoutAndWithIt) {
    tls_offload::end_relief();
    EXPECT_EQ(tls_offload::relief_self_test(), "");
    const auto report = tls_offload::use_relief(Relief::on);
    EXPECT_TRUE(report.active) << report.text;
    EXPECT_EQ(tls_offload::relief_self_test(), "");
}

TEST_F(ReliefTest, SwitchIsObeyed) {
    EXPECT_FALSE(tls_offload::use_relief(Relief::off).active);
    const auto report = tls_offload::use_relief(Relief::automatic);
    const bool meant = OPENSSL_version_major() == 3 && OPENSSL_version_minor() == 0;
    EXPECT_EQ(report.active, meant) << report.text;
}

/// RSA and EC keys keep their raw form when the relief reads them; decoders re-encode.
TEST_F(ReliefTest, EveryChangedByteHasTheSameVerdictAsWithoutIt) {
    // Each third byte by default: all of them take six times as long, under sanitizers a minute.
    const char* asked = std::getenv("MILLRACE_RELIEF_STEP");
    const std::size_t step = asked != nullptr ? std::max(1UL, std::strtoul(asked, nullptr, 10)) : 3;
    for (const auto& chain : tls_offload::relief_chains) {
        const Der leaf = der_of(chain.leaf);
        const Der root = der_of(chain.root);
        std::vector<std::string> without;
        const auto judge_all = [&] {
            std::vector<std::string> verdicts{verdict(leaf, root)};
            for (std::size_t i = 0; i < leaf.size(); i += step) {
                for (const unsigned char change : {0x01, 0x80}) {
                    Der changed = leaf;
                    changed[i] ^= change;
                    verdicts.push_back(verdict(changed, root));
                }
            }
            return verdicts;
        };
        tls_offload::end_relief();
        without = judge_all();
        ASSERT_TRUE(tls_offload::use_relief(Relief::on).active);
        const auto with = judge_all();
        std::size_t different = 0;
        for (std::size_t i = 0; i < with.size(); ++i) {
            if (with[i] == without[i]) continue;
            if (++different < 4) {
                ADD_FAILURE() << chain.kind << ", change " << i << ": with \"" << with[i]
                              << "\", without \"" << without[i] << '"';
            }
        }
        EXPECT_EQ(different, 0U) << chain.kind;
        EXPECT_TRUE(with[0].ends_with(" 1 0")) << chain.kind;
    }
}

} // namespace
} // namespace tests
