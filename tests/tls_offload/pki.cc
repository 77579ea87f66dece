#include "tests/tls_offload/pki.h"

#include "dataplane/base/check.h"

#include <array>
#include <fstream>
#include <openssl/ocsp.h>
#include <openssl/pem.h>

namespace tests {

using tls_offload::BioHandle;
using tls_offload::CertificateHandle;
using tls_offload::ExtensionHandle;
using tls_offload::KeyHandle;

namespace {

EVP_PKEY* rsa_key(bool authority) {
    static const KeyHandle root{EVP_RSA_gen(2048)};
    static const KeyHandle leaf{EVP_RSA_gen(2048)};
    return authority ? root.get() : leaf.get();
}

KeyHandle make_key(KeyKind kind, bool authority) {
    switch (kind) {
    case KeyKind::rsa:
        EVP_PKEY_up_ref(rsa_key(authority));
        return KeyHandle{rsa_key(authority)};
    case KeyKind::ec:
        return KeyHandle{EVP_EC_gen("P-256")};
    case KeyKind::ed25519:
        return KeyHandle{EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")};
    }
    return nullptr;
}

void extend(X509& certificate, int kind, const std::string& value) {
    const ExtensionHandle extension{X509V3_EXT_conf_nid(nullptr, nullptr, kind, value.c_str())};
    CHECK(extension != nullptr && X509_add_ext(&certificate, extension.get(), -1) == 1);
}

CertificateHandle blank(EVP_PKEY& key, const std::string& name, long serial, base::WallTime from,
                        base::WallTime until) {
    CertificateHandle made{X509_new()};
    X509& certificate = *made;
    X509_set_version(&certificate, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(&certificate), serial);
    ASN1_TIME_set(X509_getm_notBefore(&certificate), std::chrono::system_clock::to_time_t(from));
    ASN1_TIME_set(X509_getm_notAfter(&certificate), std::chrono::system_clock::to_time_t(until));
    X509_NAME_add_entry_by_txt(X509_get_subject_name(&certificate), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    CHECK(X509_set_pubkey(&certificate, &key) == 1);
    return made;
}

const EVP_MD* digest_of(EVP_PKEY& key) {
    return EVP_PKEY_get_base_id(&key) == EVP_PKEY_ED25519 ? nullptr : EVP_sha256();
}

std::string text_of(BIO& memory) {
    char* data = nullptr;
    const long bytes = BIO_get_mem_data(&memory, &data);
    return {data, static_cast<std::size_t>(bytes)};
}

} // namespace

const char* to_string(KeyKind kind) noexcept {
    return kind == KeyKind::rsa ? "Rsa" : kind == KeyKind::ec ? "Ecdsa" : "Ed25519";
}

Authority::Authority(KeyKind kind, base::WallTime now, const std::string& name) : now_(now) {
    own_.key = make_key(kind, true);
    own_.certificate = blank(*own_.key, name, 1, now - std::chrono::hours{24 * 30},
                             now + std::chrono::hours{24 * 365});
    X509& certificate = *own_.certificate;
    X509_set_issuer_name(&certificate, X509_get_subject_name(&certificate));
    extend(certificate, NID_basic_constraints, "critical,CA:TRUE");
    extend(certificate, NID_key_usage, "critical,keyCertSign,cRLSign,digitalSignature");
    CHECK(X509_sign(&certificate, own_.key.get(), digest_of(*own_.key)) != 0);
}

Identity Authority::issue(KeyKind kind, const LeafOptions& options) const {
    Identity made;
    made.key = make_key(kind, false);
    const base::WallTime from =
        now_ + std::chrono::duration_cast<std::chrono::milliseconds>(options.valid_from);
    made.certificate =
        blank(*made.key, options.common_name, ++serial_, from,
              from + std::chrono::duration_cast<std::chrono::milliseconds>(options.valid_for));
    X509& certificate = *made.certificate;
    X509_set_issuer_name(&certificate, X509_get_subject_name(own_.certificate.get()));
    extend(certificate, NID_basic_constraints, "critical,CA:FALSE");
    extend(certificate, NID_key_usage, "critical,digitalSignature");
    std::string names;
    for (const std::string& name : options.names) {
        names += names.empty() ? "" : ",";
        names += (name.find('@') == std::string::npos ? "DNS:" : "email:") + name;
    }
    if (!names.empty()) extend(certificate, NID_subject_alt_name, names);
    if (options.must_staple) extend(certificate, NID_tlsfeature, "status_request");
    CHECK(X509_sign(&certificate, own_.key.get(), digest_of(*own_.key)) != 0);
    return made;
}

std::string Authority::ocsp(const X509& leaf, int status, base::Duration this_update,
                            base::Duration next_update) const {
    const auto time = [&](base::Duration offset) {
        return ASN1_TIME_set(
            nullptr, std::chrono::system_clock::to_time_t(
                         now_ + std::chrono::duration_cast<std::chrono::milliseconds>(offset)));
    };
    OCSP_BASICRESP* basic = OCSP_BASICRESP_new();
    OCSP_CERTID* id = OCSP_cert_to_id(EVP_sha1(), &leaf, own_.certificate.get());
    ASN1_TIME* from = time(this_update);
    ASN1_TIME* until = time(next_update);
    ASN1_TIME* revoked = status == V_OCSP_CERTSTATUS_REVOKED ? time(this_update) : nullptr;
    CHECK(OCSP_basic_add1_status(basic, id, status, 0, revoked, from, until) != nullptr);
    CHECK(OCSP_basic_sign(basic, own_.certificate.get(), own_.key.get(), digest_of(*own_.key),
                          nullptr, 0) == 1);
    OCSP_RESPONSE* response = OCSP_response_create(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic);
    unsigned char* der = nullptr;
    const int bytes = i2d_OCSP_RESPONSE(response, &der);
    CHECK(bytes > 0);
    std::string text{reinterpret_cast<char*>(der), static_cast<std::size_t>(bytes)};
    OPENSSL_free(der);
    OCSP_RESPONSE_free(response);
    ASN1_TIME_free(revoked);
    ASN1_TIME_free(until);
    ASN1_TIME_free(from);
    OCSP_CERTID_free(id);
    OCSP_BASICRESP_free(basic);
    return text;
}

std::string Authority::revocation_list(const std::vector<const X509*>& revoked,
                                       base::Duration next_update) const {
    const auto time = [this](base::Duration from_now) {
        return ASN1_TIME_set(
            nullptr, std::chrono::system_clock::to_time_t(
                         now_ + std::chrono::duration_cast<std::chrono::milliseconds>(from_now)));
    };
    X509_CRL* list = X509_CRL_new();
    ASN1_TIME* from = time(std::chrono::hours{-2});
    ASN1_TIME* until = time(next_update);
    CHECK(X509_CRL_set_version(list, X509_CRL_VERSION_2) == 1 &&
          X509_CRL_set_issuer_name(list, X509_get_subject_name(own_.certificate.get())) == 1 &&
          X509_CRL_set1_lastUpdate(list, from) == 1 && X509_CRL_set1_nextUpdate(list, until) == 1);
    for (const X509* each : revoked) {
        X509_REVOKED* entry = X509_REVOKED_new();
        ASN1_INTEGER* serial = ASN1_INTEGER_dup(X509_get0_serialNumber(each));
        CHECK(X509_REVOKED_set_serialNumber(entry, serial) == 1 &&
              X509_REVOKED_set_revocationDate(entry, from) == 1 &&
              X509_CRL_add0_revoked(list, entry) == 1);
        ASN1_INTEGER_free(serial);
    }
    X509_CRL_sort(list);
    CHECK(X509_CRL_sign(list, own_.key.get(), digest_of(*own_.key)) != 0);
    const BioHandle memory{BIO_new(BIO_s_mem())};
    CHECK(PEM_write_bio_X509_CRL(memory.get(), list) == 1);
    ASN1_TIME_free(until);
    ASN1_TIME_free(from);
    X509_CRL_free(list);
    return text_of(*memory);
}

void write_file(const std::string& path, const std::string& bytes) {
    std::ofstream stream{path, std::ios::binary | std::ios::trunc};
    stream << bytes;
    CHECK(stream.good());
}

std::string pem_of(const X509& certificate) {
    const BioHandle memory{BIO_new(BIO_s_mem())};
    CHECK(PEM_write_bio_X509(memory.get(), &certificate) == 1);
    return text_of(*memory);
}

std::string pem_of(EVP_PKEY& key) {
    const BioHandle memory{BIO_new(BIO_s_mem())};
    CHECK(PEM_write_bio_PKCS8PrivateKey(memory.get(), &key, nullptr, nullptr, 0, nullptr,
                                        nullptr) == 1);
    return text_of(*memory);
}

void write_pair(const Identity& identity, const Authority* authority, const std::string& chain_file,
                const std::string& key_file) {
    std::string chain = pem_of(*identity.certificate);
    if (authority != nullptr) chain += pem_of(authority->certificate());
    write_file(key_file, pem_of(*identity.key));
    write_file(chain_file, chain);
}

tls_offload::TlsaRecord tlsa_of(const X509& certificate, std::uint8_t usage, std::uint8_t selector,
                                std::uint8_t matching_type) {
    unsigned char* der = nullptr;
    const int bytes = selector == 0 ? i2d_X509(&certificate, &der)
                                    : i2d_PUBKEY(X509_get0_pubkey(&certificate), &der);
    CHECK(bytes > 0);
    std::vector<std::uint8_t> data{der, der + bytes};
    OPENSSL_free(der);
    if (matching_type != 0) {
        std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
        unsigned digest_bytes = 0;
        EVP_Digest(data.data(), data.size(), digest.data(), &digest_bytes,
                   matching_type == 1 ? EVP_sha256() : EVP_sha512(), nullptr);
        data.assign(digest.begin(), digest.begin() + digest_bytes);
    }
    return {usage, selector, matching_type, std::move(data)};
}

} // namespace tests
