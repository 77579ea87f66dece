#define OPENSSL_SUPPRESS_DEPRECATED // the ENGINE interface, for the reason given in relief.h

#include "tls_offload/relief.h"

#include "tls_offload/openssl.h"
#include "tls_offload/relief_chains.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <ctime>
#include <openssl/engine.h>
#include <openssl/pem.h>
#include <span>
#include <vector>

namespace tls_offload {
namespace {

constexpr std::time_t test_time =
    1'893'456'000; // 2030: within the chains' validity, whatever now is
constexpr const char* test_name = "relief.invalid";
constexpr std::array<int, 3> forwarded{EVP_PKEY_RSA, EVP_PKEY_RSA_PSS, EVP_PKEY_EC};

ENGINE* engine = nullptr; // between use_relief() and end_relief(), or the process's end

int forward(ENGINE*, EVP_PKEY_METHOD** method, const int** kinds, int kind) {
    if (method == nullptr) { // which kinds there are
        *kinds = forwarded.data();
        return static_cast<int>(forwarded.size());
    }
    // OpenSSL does not write through it: built-in methods are constants.
    *method = const_cast<EVP_PKEY_METHOD*>(EVP_PKEY_meth_find(kind));
    return *method != nullptr ? 1 : 0;
}

using Der = std::vector<unsigned char>;
using StoreHandle = std::unique_ptr<X509_STORE, Release<X509_STORE_free>>;
using VerifyHandle = std::unique_ptr<X509_STORE_CTX, Release<X509_STORE_CTX_free>>;

Der der_of(const char* pem) {
    const BioHandle text{BIO_new_mem_buf(pem, -1)};
    char* name = nullptr;
    char* header = nullptr;
    unsigned char* data = nullptr;
    long bytes = 0;
    Der der;
    if (text != nullptr && PEM_read_bio(text.get(), &name, &header, &data, &bytes) == 1)
        der.assign(data, data + bytes);
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_free(data);
    return der;
}

CertificateHandle parse(const Der& der) {
    const unsigned char* at = der.data();
    return CertificateHandle{d2i_X509(nullptr, &at, static_cast<long>(der.size()))};
}

/// The verdict on a chain: X509_V_OK, or why not; -1 when the leaf cannot even be read.
int judge(const Der& leaf, const Der& root, const char* name) {
    ERR_clear_error();
    const CertificateHandle certificate = parse(leaf);
    const CertificateHandle trusted = parse(root);
    const StoreHandle store{X509_STORE_new()};
    const VerifyHandle verify{X509_STORE_CTX_new()};
    if (certificate == nullptr || trusted == nullptr || store == nullptr || verify == nullptr)
        return -1;
    if (X509_STORE_add_cert(store.get(), trusted.get()) != 1 ||
        X509_STORE_CTX_init(verify.get(), store.get(), certificate.get(), nullptr) != 1) {
        return -1;
    }
    X509_VERIFY_PARAM* parameters = X509_STORE_CTX_get0_param(verify.get());
    X509_VERIFY_PARAM_set_time(parameters, test_time);
    static_cast<void>(X509_VERIFY_PARAM_set1_host(parameters, name, 0));
    const int verified = X509_verify_cert(verify.get());
    const int error = X509_STORE_CTX_get_error(verify.get());
    ERR_clear_error();
    return verified == 1 ? X509_V_OK : error == X509_V_OK ? -1 : error;
}

/// A copy with one bit of the signature turned, which ends the certificate.
Der with_bad_signature(Der der) {
    der[der.size() - 3] ^= 1;
    return der;
}

/// A copy whose public key has its last byte changed: no point of its curve any more.
Der with_bad_key(Der der) {
    const CertificateHandle certificate = parse(der);
    const ASN1_BIT_STRING* key = X509_get0_pubkey_bitstr(certificate.get());
    const auto at = std::search(der.begin(), der.end(), key->data, key->data + key->length);
    if (at != der.end()) at[key->length - 1] ^= 1;
    return der;
}

void take_back() noexcept {
    if (engine == nullptr) return;
    ENGINE_unregister_pkey_meths(engine);
    ENGINE_free(engine);
    engine = nullptr;
}

bool put_in_place() {
    engine = ENGINE_new();
    if (engine == nullptr) return false;
    const bool made = ENGINE_set_id(engine, "millrace-relief") == 1 &&
                      ENGINE_set_name(engine, "forwards to the built-in methods") == 1 &&
                      ENGINE_set_pkey_meths(engine, forward) == 1 &&
                      ENGINE_register_pkey_meths(engine) == 1;
    if (!made) take_back();
    return made;
}

} // namespace

std::string relief_self_test() {
    for (std::size_t i = 0; i < relief_chains.size(); ++i) {
        const ReliefChain& chain = relief_chains[i];
        const Der leaf = der_of(chain.leaf);
        const Der root = der_of(chain.root);
        const Der other = der_of(relief_chains[(i + 1) % relief_chains.size()].root);
        if (leaf.empty() || root.empty()) return std::string{chain.kind} + ": no such certificate";
        const auto expect = [&](const char* what, int verdict, int wanted) {
            if (verdict == wanted) return std::string{};
            return std::string{chain.kind} + ", " + what + ": got \"" +
                   X509_verify_cert_error_string(verdict) + "\", expected \"" +
                   X509_verify_cert_error_string(wanted) + "\"";
        };
        for (const std::string& wrong :
             {expect("a good chain", judge(leaf, root, test_name), X509_V_OK),
              expect("a flipped signature", judge(with_bad_signature(leaf), root, test_name),
                     X509_V_ERR_CERT_SIGNATURE_FAILURE),
              expect("another name", judge(leaf, root, "other.invalid"),
                     X509_V_ERR_HOSTNAME_MISMATCH)}) {
            if (!wrong.empty()) return wrong;
        }
        // With a key of another kind it is not even tried.
        const int strange = judge(leaf, other, test_name);
        if (strange != X509_V_ERR_CERT_SIGNATURE_FAILURE &&
            strange != X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY) {
            return expect("another root", strange, X509_V_ERR_CERT_SIGNATURE_FAILURE);
        }
        if (std::string_view{chain.kind}.starts_with("p") &&
            judge(with_bad_key(leaf), root, test_name) == X509_V_OK) {
            return std::string{chain.kind} + ": a key off its curve was taken";
        }
    }
    return {};
}

ReliefReport use_relief(Relief wanted) {
    const bool measured = OPENSSL_version_major() == 3 && OPENSSL_version_minor() == 0;
    if (wanted == Relief::off) return {false, "switched off in the configuration"};
    if (wanted == Relief::automatic && !measured)
        return {false, std::string{OpenSSL_version(OPENSSL_VERSION)} +
                           " is another line than 3.0, for which it is meant"};
    if (engine != nullptr) return {true, "in place already"};
    if (!put_in_place()) return {false, "OpenSSL did not take the engine: " + take_error_text()};
    if (const std::string wrong = relief_self_test(); !wrong.empty()) {
        take_back();
        return {false, "self-test failed: " + wrong};
    }
    return {true, "self-test passed"};
}

void end_relief() noexcept {
    take_back();
}

} // namespace tls_offload
