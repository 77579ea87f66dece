// Keys as files have them, and their records in DNS.
#include "dataplane/message/dkim/base64.h"
#include "dataplane/message/dkim/inline_signer.h"
#include "dataplane/message/dkim/key.h"
#include "dataplane/message/dkim/record.h"
#include "tests/dataplane/message/dkim/fixtures.h"

#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

namespace {

using namespace dataplane::message::dkim;

std::string pem_of(EVP_PKEY* key, bool traditional, bool with_password = false) {
    BIO* sink = BIO_new(BIO_s_mem());
    if (with_password) {
        PEM_write_bio_PKCS8PrivateKey(sink, key, EVP_aes_256_cbc(), "secret", 6, nullptr, nullptr);
    } else if (traditional) {
        PEM_write_bio_PrivateKey_traditional(sink, key, nullptr, nullptr, 0, nullptr, nullptr);
    } else {
        PEM_write_bio_PKCS8PrivateKey(sink, key, nullptr, nullptr, 0, nullptr, nullptr);
    }
    char* text = nullptr;
    const long bytes = BIO_get_mem_data(sink, &text);
    std::string pem(text, static_cast<std::size_t>(bytes));
    BIO_free(sink);
    return pem;
}

std::string refusal(std::string_view text) {
    const auto key = SigningKey::parse(text);
    return key ? "" : key.error();
}

TEST(DkimKey, RsaIsReadFromBothKindsOfPem) {
    const auto key = SigningKey::parse(tests::rsa_pem());
    ASSERT_TRUE(key.has_value()) << key.error();
    EXPECT_EQ((*key)->algorithm(), Algorithm::rsa_sha256);
    EXPECT_EQ((*key)->bits(), 2048);
    const auto traditional = SigningKey::parse(pem_of((*key)->native(), true));
    ASSERT_TRUE(traditional.has_value()) << traditional.error();
    EXPECT_EQ((*traditional)->public_text(), (*key)->public_text());
}

TEST(DkimKey, Ed25519IsReadFromPemSeedAndPair) {
    const auto seed = SigningKey::parse(std::string{tests::rfc8463_seed} + "\n");
    ASSERT_TRUE(seed.has_value()) << seed.error();
    EXPECT_EQ((*seed)->public_text(), tests::rfc8463_public);
    const auto pem = SigningKey::parse((*seed)->to_pem());
    ASSERT_TRUE(pem.has_value()) << pem.error();
    EXPECT_EQ((*pem)->public_text(), tests::rfc8463_public);

    std::string pair, text;
    ASSERT_TRUE(decode_base64(tests::rfc8463_seed, pair) &&
                decode_base64(tests::rfc8463_public, pair));
    append_base64(text, pair);
    EXPECT_TRUE(SigningKey::parse(text).has_value());
    pair.back() = static_cast<char>(pair.back() ^ 1); // another public key
    text.clear();
    append_base64(text, pair);
    EXPECT_NE(refusal(text), "");
}

TEST(DkimKey, WhatReceiversRefuseIsRefusedWithTheReason) {
    EXPECT_NE(refusal(tests::rfc8463_rsa).find("1024 bits"), std::string::npos);
    EXPECT_NE(refusal(tests::rfc8463_rsa).find("millracectl dkim keygen"), std::string::npos);
    EVP_PKEY* ec = EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256");
    EXPECT_NE(refusal(pem_of(ec, false)).find("neither an RSA nor an Ed25519"), std::string::npos);
    EVP_PKEY_free(ec);
}

TEST(DkimKey, WhatIsNoPrivateKeySaysWhatItIs) {
    const auto key = SigningKey::parse(tests::rsa_pem());
    EXPECT_NE(refusal(pem_of((*key)->native(), false, true)).find("encrypted"), std::string::npos);
    EXPECT_NE(refusal("-----BEGIN PUBLIC KEY-----\nMCow\n").find("public key"), std::string::npos);
    EXPECT_NE(refusal("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "");
    EXPECT_NE(refusal("hello"), "");
    EXPECT_NE(refusal(""), "");
    EXPECT_NE(refusal(std::string(1U << 20, 'A')), "");
}

TEST(DkimKey, KeyWhoseNumbersDoNotBelongTogetherIsRefused) {
    std::string text = tests::rsa_pem();
    std::string der;
    const std::size_t begin = text.find('\n') + 1, end = text.find("\n-----END");
    ASSERT_TRUE(decode_base64(text.substr(begin, end - begin), der));
    der[80] = static_cast<char>(der[80] ^ 0x10); // in the modulus
    std::string changed = "-----BEGIN PRIVATE KEY-----\n";
    std::string body;
    append_base64(body, der);
    for (std::size_t i = 0; i < body.size(); i += 64)
        changed += body.substr(i, 64) + "\n";
    EXPECT_NE(refusal(changed + "-----END PRIVATE KEY-----\n"), "");
}

TEST(DkimKey, GeneratedKeysSign) {
    const auto key = SigningKey::generate(Algorithm::ed25519_sha256, 0);
    ASSERT_TRUE(key.has_value());
    const SignResult made = sign_inline(**key, Digest{});
    ASSERT_TRUE(made.has_value());
    EXPECT_TRUE(verifies(**key, Digest{}, *made));
    Digest other{};
    other[0] = std::byte{1};
    EXPECT_FALSE(verifies(**key, other, *made));
}

TEST(DkimKey, Base64GoesBothWays) {
    for (std::size_t bytes = 0; bytes < 50; ++bytes) {
        std::string text, back;
        const std::string from(bytes, static_cast<char>(0xfb));
        append_base64(text, from);
        EXPECT_EQ(text.size(), base64_size(bytes));
        ASSERT_TRUE(decode_base64(text, back));
        EXPECT_EQ(back, from);
    }
    std::string out;
    for (const std::string_view bad : {"A", "A===", "AA=A", "AA*A", "AAAA="})
        EXPECT_FALSE(decode_base64(bad, out)) << bad;
}

TEST(DkimRecord, RecordOfAKeyChecksAgainstIt) {
    for (const std::string& text : {std::string{tests::rfc8463_seed}, tests::rsa_pem()}) {
        const auto key = SigningKey::parse(text);
        const std::string record = record_text(**key, false);
        const RecordCheck check = check_record(record, **key, "example.com", "");
        EXPECT_TRUE(check.problems.empty()) << check.problems.front();
        EXPECT_TRUE(check.notes.empty());
    }
    const auto key = SigningKey::parse(tests::rfc8463_seed);
    EXPECT_EQ(record_text(**key, true),
              "v=DKIM1; k=ed25519; t=y; p=" + std::string{tests::rfc8463_public});
    EXPECT_EQ(check_record(record_text(**key, true), **key, "example.com", "").notes.size(), 1U);
    EXPECT_EQ(record_name("example.com", "s1"), "s1._domainkey.example.com");
}

TEST(DkimRecord, LongTextsAreCutIntoStrings) {
    const std::string entry = zone_entry("s._domainkey.x", std::string(600, 'a'));
    EXPECT_EQ(entry, "s._domainkey.x. IN TXT ( \"" + std::string(255, 'a') + "\"\n    \"" +
                         std::string(255, 'a') + "\"\n    \"" + std::string(90, 'a') + "\" )");
}

TEST(DkimRecord, WhatIsWrongIsSaid) {
    const auto key = SigningKey::parse(tests::rfc8463_seed);
    const std::string p = "p=" + std::string{tests::rfc8463_public};
    const auto says = [&](std::string_view record, std::string_view what,
                          std::string_view agent = "") {
        const RecordCheck check = check_record(record, **key, "example.com", agent);
        for (const std::string& problem : check.problems)
            if (problem.find(what) != std::string::npos) return true;
        return false;
    };
    EXPECT_TRUE(says("v=DKIM1; " + p, "k= is rsa"));
    EXPECT_TRUE(says("v=DKIM2; k=ed25519; " + p, "DKIM1"));
    EXPECT_TRUE(says("k=ed25519; v=DKIM1; " + p, "first"));
    EXPECT_TRUE(says("k=ed25519", "not there"));
    EXPECT_TRUE(says("k=ed25519; p=", "revoked"));
    EXPECT_TRUE(says("k=ed25519; p=*", "base64"));
    EXPECT_TRUE(says("k=ed25519; p=AAAA", "another key"));
    EXPECT_TRUE(says("k=ed25519; h=sha1; " + p, "sha256"));
    EXPECT_TRUE(says("k=ed25519; s=tlsrpt; " + p, "email"));
    EXPECT_TRUE(says("k=ed25519; " + p + "; " + p, "twice"));
    EXPECT_TRUE(says("k=ed25519; nonsense; " + p, "no tag"));
    EXPECT_TRUE(says("k=ed25519; t=y:s; " + p, "t=s", "@news.example.com"));
    EXPECT_FALSE(says("k=ed25519; t=s; " + p, "", "@example.com"));
    EXPECT_FALSE(says(" v = DKIM1 ; k = ed25519 ; h=sha1:sha256; s=*; " + p + " ;", ""));
}

} // namespace
