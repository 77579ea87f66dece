#include "tls_offload/peer.h"

#include "dataplane/base/address.h"
#include "dataplane/base/check.h"
#include "tls_offload/limits.h"

#include <algorithm>
#include <array>
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <span>
#include <utility>

namespace tls_offload {
namespace {

constexpr std::size_t ticket_vector_bytes = 16; // AES's block
constexpr std::size_t peer_names_max = 64;      // of a client's certificate

constexpr std::uint8_t usage_dane_ta = 2, usage_dane_ee = 3;
constexpr std::uint8_t selector_certificate = 0, selector_key = 1;
constexpr std::uint8_t matching_full = 0, matching_sha256 = 1, matching_sha512 = 2;

bool is_address(const std::string& name) {
    return base::IpAddress::parse(name).has_value();
}

bool decodes(const TlsaRecord& record) noexcept {
    const unsigned char* at = record.data.data();
    const long bytes = static_cast<long>(record.data.size());
    ERR_clear_error();
    bool good = false;
    if (record.selector == selector_certificate) {
        const CertificateHandle certificate{d2i_X509(nullptr, &at, bytes)};
        good = certificate != nullptr && X509_get0_pubkey(certificate.get()) != nullptr;
    } else {
        const KeyHandle key{d2i_PUBKEY(nullptr, &at, bytes)};
        good = key != nullptr;
    }
    ERR_clear_error();
    return good && at == record.data.data() + record.data.size();
}

std::string text_of(const ASN1_STRING* text) {
    return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
            static_cast<std::size_t>(std::max(ASN1_STRING_length(text), 0))};
}

PeerCertificate read_peer(const X509& certificate) {
    PeerCertificate peer;
    peer.fingerprint = fingerprint_of(certificate);
    const BioHandle memory{BIO_new(BIO_s_mem())};
    if (memory != nullptr && X509_NAME_print_ex(memory.get(), X509_get_subject_name(&certificate),
                                                0, XN_FLAG_RFC2253) >= 0) {
        char* data = nullptr;
        const long bytes = BIO_get_mem_data(memory.get(), &data);
        peer.subject.assign(data, static_cast<std::size_t>(bytes));
    }
    struct NamesFree {
        void operator()(GENERAL_NAMES* names) const noexcept { GENERAL_NAMES_free(names); }
    };
    const std::unique_ptr<GENERAL_NAMES, NamesFree> names{static_cast<GENERAL_NAMES*>(
        X509_get_ext_d2i(&certificate, NID_subject_alt_name, nullptr, nullptr))};
    for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
        const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
        if (name->type != GEN_DNS && name->type != GEN_EMAIL) continue;
        if (peer.names.size() == peer_names_max) break;
        std::string text = text_of(name->type == GEN_DNS ? name->d.dNSName : name->d.rfc822Name);
        if (text.find('\0') != std::string::npos) continue; // would read as another name
        for (char& c : text) {
            if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
        }
        peer.names.push_back(std::move(text));
    }
    ERR_clear_error();
    return peer;
}

/// How a verified peer was authenticated.
std::string_view authority_of(SSL& ssl) noexcept {
    std::uint8_t usage = 0;
    const int depth = SSL_get0_dane_authority(&ssl, nullptr, nullptr);
    if (depth < 0) return "ca";
    static_cast<void>(SSL_get0_dane_tlsa(&ssl, &usage, nullptr, nullptr, nullptr, nullptr));
    return usage == usage_dane_ta ? "dane-ta" : "dane-ee";
}

std::string_view group_of(SSL& ssl) noexcept {
    const long id = SSL_get_negotiated_group(&ssl);
    if (id == NID_undef) return {};
    const char* name = SSL_group_to_name(&ssl, static_cast<int>(id));
    return name == nullptr ? std::string_view{} : std::string_view{name};
}

} // namespace

bool is_usable(const TlsaRecord& record) noexcept {
    if (record.usage != usage_dane_ta && record.usage != usage_dane_ee) return false;
    if (record.selector != selector_certificate && record.selector != selector_key) return false;
    switch (record.matching_type) {
    case matching_full:
        return !record.data.empty() && decodes(record);
    case matching_sha256:
        return record.data.size() == 32;
    case matching_sha512:
        return record.data.size() == 64;
    default:
        return false;
    }
}

void set_time(SSL& ssl, base::WallTime now) noexcept {
    X509_VERIFY_PARAM_set_time(SSL_get0_param(&ssl), std::chrono::system_clock::to_time_t(now));
}

bool demand(SSL& ssl, const ClientOptions& options, base::WallTime now) {
    set_time(ssl, now); // certificates are judged by the loop's clock like everything else
    const std::string& host = options.server_name;
    if (!host.empty() && !is_address(host) && SSL_set_tlsext_host_name(&ssl, host.c_str()) != 1)
        return false;
    if (options.level != TlsLevel::verify && options.level != TlsLevel::dane) return true;

    X509_VERIFY_PARAM* verify = SSL_get0_param(&ssl);
    std::span<const std::string> names{options.peer_names};
    if (names.empty()) names = std::span{&host, 1};
    if (names.front().empty()) return false;
    if (options.level == TlsLevel::dane) {
        if (host.empty() || SSL_dane_enable(&ssl, host.c_str()) != 1) return false;
        std::size_t usable = 0;
        for (const TlsaRecord& record : options.tlsa) {
            if (!is_usable(record)) continue;
            const int added =
                SSL_dane_tlsa_add(&ssl, record.usage, record.selector, record.matching_type,
                                  record.data.data(), record.data.size());
            if (added < 0) return false;
            usable += added > 0 ? 1 : 0;
        }
        if (usable == 0) return false;
    }
    X509_VERIFY_PARAM_set_hostflags(verify, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (names.size() == 1 && is_address(names.front()))
        return X509_VERIFY_PARAM_set1_ip_asc(verify, names.front().c_str()) == 1;
    if (SSL_set1_host(&ssl, names.front().c_str()) != 1) return false;
    return std::ranges::all_of(names.subspan(1), [&](const std::string& name) {
        return SSL_add1_host(&ssl, name.c_str()) == 1;
    });
}

std::string session_key(const ClientOptions& options) {
    constexpr char end = '\n'; // in no host name
    std::string key = options.server_name;
    (key += end) += static_cast<char>('0' + static_cast<int>(options.level));
    key += options.session_scope;
    if (options.peer_names.empty() && options.tlsa.empty()) return key;
    std::string policy;
    for (const std::string& name : options.peer_names)
        (policy += name) += end;
    policy += end;
    for (const TlsaRecord& record : options.tlsa) {
        for (const std::uint8_t part : {record.usage, record.selector, record.matching_type})
            policy += static_cast<char>(part);
        policy += std::to_string(record.data.size()) += end;
        policy.append(record.data.begin(), record.data.end());
    }
    std::array<unsigned char, 32> digest{};
    static_cast<void>(
        EVP_Digest(policy.data(), policy.size(), digest.data(), nullptr, EVP_sha256(), nullptr));
    key += end;
    key.append(digest.begin(), digest.end());
    return key;
}

void describe_peer(SSL& ssl, TlsState& state) {
    const long verdict = SSL_get_verify_result(&ssl);
    const X509* certificate = SSL_get0_peer_certificate(&ssl);
    state.verified = verdict == X509_V_OK && certificate != nullptr;
    state.verify_result = X509_verify_cert_error_string(verdict);
    if (state.verified) state.authenticated_by = authority_of(ssl);
    state.group = group_of(ssl);
    if (certificate != nullptr && SSL_is_server(&ssl) == 1) state.peer = read_peer(*certificate);
}

TlsFailure diagnose(const SSL& ssl) {
    TlsFailure failure;
    // Where it began is often below TLS: a signature that is wrong, a certificate that is none. That
    // libssl gave up for it says whose fault it was.
    const unsigned long first = ERR_peek_error();
    const unsigned long last = ERR_peek_last_error();
    const bool below = ERR_GET_LIB(first) != ERR_LIB_SSL && ERR_GET_LIB(last) == ERR_LIB_SSL;
    const unsigned long code = below ? last : first;
    const int reason = ERR_GET_REASON(code);
    const long verdict = SSL_get_verify_result(&ssl);
    if (ERR_GET_LIB(code) != ERR_LIB_SSL) {
        failure.text = error_text(code);
        return failure;
    }
    if (reason >= SSL_AD_REASON_OFFSET) {
        failure.reason = TlsFailureReason::alert;
        failure.alert = reason - SSL_AD_REASON_OFFSET;
        failure.text = std::string{"peer's alert: "} + SSL_alert_desc_string_long(failure.alert);
    } else if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED && verdict != X509_V_OK) {
        failure.reason = TlsFailureReason::certificate;
        failure.text = X509_verify_cert_error_string(verdict);
    } else if (reason == ERR_R_MALLOC_FAILURE || reason == ERR_R_INTERNAL_ERROR) {
        failure.text = error_text(code);
    } else {
        failure.reason = TlsFailureReason::protocol;
        failure.text = error_text(code);
    }
    return failure;
}

TlsFailure wait_failure(base::NetError error) {
    TlsFailure failure;
    failure.net_error = error;
    failure.text = std::string{to_string(error)} + " in the TLS handshake";
    failure.reason = TlsFailureReason::network;
    if (error == base::NetError::timed_out) failure.reason = TlsFailureReason::timed_out;
    if (error == base::NetError::cancelled) failure.reason = TlsFailureReason::cancelled;
    if (error == base::NetError::end_of_stream) failure.reason = TlsFailureReason::peer_closed;
    return failure;
}

int use_ticket_key(const TicketKeys& keys, const EVP_CIPHER& cipher, bool renew_always,
                   unsigned char* name, unsigned char* vector, EVP_CIPHER_CTX* cipher_context,
                   EVP_MAC_CTX* mac, bool sealing) noexcept {
    const TicketKey* key = &keys.current();
    if (sealing) {
        if (RAND_bytes(vector, ticket_vector_bytes) != 1) return -1;
        std::ranges::copy(key->name, name);
    } else {
        key = keys.find(std::span<const unsigned char, 16>{name, 16});
        if (key == nullptr) return 0;
    }
    std::array<char, 7> digest{"SHA256"};
    // Both libraries' parameters are copied before the call returns.
    const std::array<OSSL_PARAM, 3> parameters{
        OSSL_PARAM_construct_octet_string(
            OSSL_MAC_PARAM_KEY, const_cast<unsigned char*>(key->mac.data()), key->mac.size()),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest.data(), 0),
        OSSL_PARAM_construct_end()};
    if (EVP_MAC_CTX_set_params(mac, parameters.data()) != 1) return -1;
    if (EVP_CipherInit_ex2(cipher_context, &cipher, key->cipher.data(), vector, sealing ? 1 : 0,
                           nullptr) != 1) {
        return -1;
    }
    if (sealing) return 1;
    return renew_always || keys.outdated(*key) ? 2 : 1;
}

} // namespace tls_offload
