// RFC 8463 appendix A, whose message is that of RFC 6376 appendix A: both published signatures come out of our
// canonical forms and, with the published keys, out of our signing.
#include "dataplane/message/dkim/base64.h"
#include "dataplane/message/dkim/header_fields.h"
#include "dataplane/message/dkim/inline_signer.h"
#include "dataplane/message/dkim/signature.h"
#include "tests/dataplane/message/dkim/fixtures.h"

#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

namespace {

using namespace dataplane::message::dkim;

constexpr std::string_view header =
    "From: Joe SixPack <joe@football.example.com>\r\n"
    "To: Suzie Q <suzie@shopping.example.net>\r\n"
    "Subject: Is dinner ready?\r\n"
    "Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    "Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
    "\r\n";
constexpr std::string_view body =
    "Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
constexpr std::string_view body_hash = "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=";

constexpr std::string_view ed25519_field =
    "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
    " d=football.example.com; i=@football.example.com;\r\n"
    " q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    " subject : date : message-id : from : subject : date;\r\n"
    " bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    " b=";
constexpr std::string_view ed25519_value =
    "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus"
    "Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==";
constexpr std::string_view rsa_field =
    "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n"
    " d=football.example.com; i=@football.example.com;\r\n"
    " q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n"
    " date : message-id : from : subject : date;\r\n"
    " bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    " b=";
constexpr std::string_view rsa_value = "F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3"
                                       "DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz"
                                       "dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=";

std::string base64(std::string_view bytes) {
    std::string text;
    append_base64(text, bytes);
    return text;
}

std::string_view text_of(const Digest& digest) {
    return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

/// Of both signatures: h= names From, Subject and Date once more than they are there.
Digest digest_of(std::string_view signature) {
    std::vector<HeaderField> fields;
    EXPECT_TRUE(parse_fields(header, fields));
    SigningOptions options;
    for (const std::string_view name : {"from", "to", "subject", "date", "message-id"}) {
        options.headers.push_back({std::string{name}, std::string{name}, true});
        std::uint8_t& first = options.first_of[SigningOptions::bucket(name)];
        options.next_of.push_back(first);
        first = static_cast<std::uint8_t>(options.headers.size());
    }
    Selection selection;
    EXPECT_TRUE(selection.select(options, {}, fields));
    return digest_to_sign(selection.hash(), Canonical::relaxed, signature);
}

TEST(DkimVectors, BodyHash) {
    Sha256 hash;
    BodyCanonical<Sha256> canonical{Canonical::relaxed, hash};
    canonical.feed(body);
    canonical.finish();
    EXPECT_EQ(base64(text_of(hash.finish())), body_hash);
}

TEST(DkimVectors, Ed25519SignatureIsThePublishedOne) {
    const auto key = SigningKey::parse(tests::rfc8463_seed);
    ASSERT_TRUE(key.has_value()) << key.error();
    EXPECT_EQ((*key)->public_text(), tests::rfc8463_public);
    const SignResult made = sign_inline(**key, digest_of(ed25519_field));
    ASSERT_TRUE(made.has_value());
    EXPECT_EQ(base64(made->text()), ed25519_value);
}

TEST(DkimVectors, RsaSignatureIsThePublishedOne) {
    // Its key has 1024 bits, which SigningKey refuses: what is compared is what would be signed.
    BIO* source =
        BIO_new_mem_buf(tests::rfc8463_rsa.data(), static_cast<int>(tests::rfc8463_rsa.size()));
    EVP_PKEY* key = PEM_read_bio_PrivateKey(source, nullptr, nullptr, nullptr);
    ASSERT_NE(key, nullptr);
    EVP_PKEY_CTX* context = EVP_PKEY_CTX_new(key, nullptr);
    ASSERT_EQ(EVP_PKEY_sign_init(context), 1);
    EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING);
    EVP_PKEY_CTX_set_signature_md(context, EVP_sha256());
    const Digest digest = digest_of(rsa_field);
    std::string signature(128, '\0');
    std::size_t size = signature.size();
    EXPECT_EQ(EVP_PKEY_sign(context, reinterpret_cast<unsigned char*>(signature.data()), &size,
                            reinterpret_cast<const unsigned char*>(digest.data()), digest.size()),
              1);
    EXPECT_EQ(base64(signature), rsa_value);
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(key);
    BIO_free(source);
}

} // namespace
