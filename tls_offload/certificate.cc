#include "tls_offload/certificate.h"

#include "dataplane/base/address.h"
#include "tls_offload/limits.h"
#include "tls_offload/openssl.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace tls_offload {
namespace {

using OcspHandle = std::unique_ptr<OCSP_RESPONSE, Release<OCSP_RESPONSE_free>>;
using OcspBasicHandle = std::unique_ptr<OCSP_BASICRESP, Release<OCSP_BASICRESP_free>>;
using OcspIdHandle = std::unique_ptr<OCSP_CERTID, Release<OCSP_CERTID_free>>;
struct NamesFree {
    void operator()(GENERAL_NAMES* names) const noexcept { GENERAL_NAMES_free(names); }
};
using NamesHandle = std::unique_ptr<GENERAL_NAMES, NamesFree>;

// The clocks of OCSP responders and ours may differ by so much.
constexpr long ocsp_clock_skew_s = 300;
constexpr auto expiry_warning = std::chrono::hours{24 * 14};

std::string lower(std::string_view text) {
    std::string low{text};
    for (char& c : low) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return low;
}

TlsContextError error(TlsContextErrorKind kind, const char* what, const std::string& file,
                      const std::string& why) {
    return {kind, std::string{what} + " " + file + ": " + why};
}

std::string printed(const X509_NAME* name) {
    const BioHandle memory{BIO_new(BIO_s_mem())};
    if (memory == nullptr || X509_NAME_print_ex(memory.get(), name, 0, XN_FLAG_RFC2253) < 0)
        return {};
    char* data = nullptr;
    const long bytes = BIO_get_mem_data(memory.get(), &data);
    return {data, static_cast<std::size_t>(bytes)};
}

base::WallTime time_of(const ASN1_TIME* time) {
    std::tm parts{};
    if (time == nullptr || ASN1_TIME_to_tm(time, &parts) != 1) return {};
    return std::chrono::time_point_cast<base::WallTime::duration>(
        std::chrono::system_clock::from_time_t(timegm(&parts)));
}

std::string key_type(const X509& certificate) {
    EVP_PKEY* key = X509_get0_pubkey(&certificate);
    if (key == nullptr) return "unreadable";
    const int bits = EVP_PKEY_get_bits(key);
    switch (EVP_PKEY_get_base_id(key)) {
    case EVP_PKEY_RSA:
        return "RSA-" + std::to_string(bits);
    case EVP_PKEY_EC:
        return "EC P-" + std::to_string(bits);
    case EVP_PKEY_ED25519:
        return "Ed25519";
    default:
        return OBJ_nid2sn(EVP_PKEY_get_base_id(key));
    }
}

std::vector<std::string> names_of(const X509& certificate) {
    std::vector<std::string> names;
    const NamesHandle alternatives{static_cast<GENERAL_NAMES*>(
        X509_get_ext_d2i(&certificate, NID_subject_alt_name, nullptr, nullptr))};
    for (int i = 0; i < sk_GENERAL_NAME_num(alternatives.get()); ++i) {
        const GENERAL_NAME* name = sk_GENERAL_NAME_value(alternatives.get(), i);
        if (name->type == GEN_DNS) {
            const auto* text = ASN1_STRING_get0_data(name->d.dNSName);
            const int bytes = ASN1_STRING_length(name->d.dNSName);
            names.push_back(lower({reinterpret_cast<const char*>(text),
                                   static_cast<std::size_t>(std::max(bytes, 0))}));
        } else if (name->type == GEN_IPADD) {
            const auto* raw = ASN1_STRING_get0_data(name->d.iPAddress);
            const int bytes = ASN1_STRING_length(name->d.iPAddress);
            if (bytes == 4) {
                names.push_back(base::IpAddress::v4({raw[0], raw[1], raw[2], raw[3]}).to_string());
            } else if (bytes == 16) {
                std::array<std::uint8_t, 16> address{};
                std::copy_n(raw, 16, address.begin());
                names.push_back(base::IpAddress::v6(address).to_string());
            }
        }
    }
    return names;
}

/// Whether the extension asks for feature 5, status_request.
bool has_must_staple(const X509& certificate) {
    struct FeatureFree {
        void operator()(TLS_FEATURE* feature) const noexcept {
            sk_ASN1_INTEGER_pop_free(feature, ASN1_INTEGER_free);
        }
    };
    const std::unique_ptr<TLS_FEATURE, FeatureFree> features{static_cast<TLS_FEATURE*>(
        X509_get_ext_d2i(&certificate, NID_tlsfeature, nullptr, nullptr))};
    for (int i = 0; i < sk_ASN1_INTEGER_num(features.get()); ++i) {
        if (ASN1_INTEGER_get(sk_ASN1_INTEGER_value(features.get(), i)) ==
            TLSEXT_TYPE_status_request)
            return true;
    }
    return false;
}

struct Chain {
    std::vector<CertificateHandle> certificates;
};

std::expected<Chain, std::string> parse_chain(const std::string& pem) {
    ERR_clear_error();
    const BioHandle memory{BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()))};
    if (memory == nullptr) return std::unexpected(take_error_text());
    Chain chain;
    for (;;) {
        CertificateHandle next{PEM_read_bio_X509(memory.get(), nullptr, nullptr, nullptr)};
        if (next == nullptr) break;
        if (chain.certificates.size() == chain_certificates_max)
            return std::unexpected("more than " + std::to_string(chain_certificates_max) +
                                   " certificates");
        chain.certificates.push_back(std::move(next));
    }
    const unsigned long last = ERR_peek_last_error();
    const bool at_end =
        ERR_GET_LIB(last) == ERR_LIB_PEM && ERR_GET_REASON(last) == PEM_R_NO_START_LINE;
    if (chain.certificates.empty() || !at_end) return std::unexpected(take_error_text());
    ERR_clear_error();
    return chain;
}

/// Judges an OCSP response for the leaf; fills the info's OCSP part and returns what to staple.
std::string judge_ocsp(const std::string& der, const Chain& chain, CertificateInfo& info,
                       base::WallTime now) {
    const auto unusable = [&](std::string why) {
        ERR_clear_error();
        info.ocsp = OcspState::unusable;
        info.ocsp_text = std::move(why);
        return std::string{};
    };
    if (chain.certificates.size() < 2)
        return unusable("the chain has no issuer to compare the response with");
    const auto* at = reinterpret_cast<const unsigned char*>(der.data());
    const OcspHandle response{d2i_OCSP_RESPONSE(
        nullptr, &at, static_cast<long>(std::min<std::size_t>(der.size(), 1U << 20)))};
    if (response == nullptr) return unusable("not an OCSP response in DER");
    if (OCSP_response_status(response.get()) != OCSP_RESPONSE_STATUS_SUCCESSFUL)
        return unusable("the responder answered with an error");
    const OcspBasicHandle basic{OCSP_response_get1_basic(response.get())};
    if (basic == nullptr) return unusable("not a basic OCSP response");
    X509* leaf = chain.certificates[0].get();
    X509* issuer = chain.certificates[1].get();
    int status = V_OCSP_CERTSTATUS_UNKNOWN;
    ASN1_GENERALIZEDTIME* this_update = nullptr;
    ASN1_GENERALIZEDTIME* next_update = nullptr;
    bool found = false;
    for (const EVP_MD* digest : {EVP_sha1(), EVP_sha256()}) { // responders use either in the id
        const OcspIdHandle id{OCSP_cert_to_id(digest, leaf, issuer)};
        found = id != nullptr && OCSP_resp_find_status(basic.get(), id.get(), &status, nullptr,
                                                       nullptr, &this_update, &next_update) == 1;
        if (found) break;
    }
    if (!found) return unusable("the response is about another certificate");
    info.ocsp_this_update = time_of(this_update);
    info.ocsp_next_update = time_of(next_update);
    if (status != V_OCSP_CERTSTATUS_GOOD)
        return unusable(std::string{"the certificate's status is "} + OCSP_cert_status_str(status));
    if (info.ocsp_this_update > now + std::chrono::seconds{ocsp_clock_skew_s})
        return unusable("the response is from the future");
    if (next_update != nullptr && info.ocsp_next_update < now) {
        info.ocsp = OcspState::stale;
        info.ocsp_text = "past its nextUpdate";
        return {};
    }
    info.ocsp = OcspState::good;
    ERR_clear_error();
    return der;
}

bool is_wildcard(std::string_view name) noexcept {
    return name.starts_with("*.");
}

} // namespace

Secret::~Secret() {
    OPENSSL_cleanse(text_.data(), text_.size());
}

std::string_view to_string(OcspState state) noexcept {
    switch (state) {
    case OcspState::none:
        return "none";
    case OcspState::good:
        return "good";
    case OcspState::stale:
        return "stale";
    case OcspState::unusable:
        return "unusable";
    }
    return "unusable";
}

bool covers(const std::vector<std::string>& names, std::string_view name) noexcept {
    return std::ranges::any_of(names, [&](const std::string& have) {
        if (have == name) return true;
        if (!is_wildcard(have)) return false;
        const std::size_t dot = name.find('.');
        return dot != std::string_view::npos && dot > 0 && name != have &&
               name.substr(dot) == std::string_view{have}.substr(1);
    });
}

std::expected<std::string, std::string> read_file(const std::string& path) {
    const auto failure = [] { return std::unexpected(std::generic_category().message(errno)); };
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return failure();
    std::string text;
    for (;;) {
        std::array<char, 16'384> piece{};
        const ssize_t bytes = read(file, piece.data(), piece.size());
        if (bytes < 0 && errno == EINTR) continue;
        if (bytes < 0) {
            auto why = failure();
            close(file);
            return why;
        }
        if (bytes == 0) break;
        text.append(piece.data(), static_cast<std::size_t>(bytes));
        OPENSSL_cleanse(piece.data(), piece.size()); // it may have been a key
        if (text.size() > file_bytes_max) {
            close(file);
            return std::unexpected("larger than any certificate or key is");
        }
    }
    close(file);
    return text;
}

std::expected<CertificateMaterial, TlsContextError> load_certificate(const CertificateFiles& files,
                                                                     base::WallTime now) {
    using Kind = TlsContextErrorKind;
    CertificateMaterial material;
    material.files = files;
    auto chain_pem = read_file(files.certificate_file);
    if (!chain_pem) {
        return std::unexpected(error(Kind::certificate_file, "certificate file",
                                     files.certificate_file, chain_pem.error()));
    }
    const auto chain = parse_chain(*chain_pem);
    if (!chain) {
        return std::unexpected(error(Kind::certificate_file, "certificate file",
                                     files.certificate_file, chain.error()));
    }
    material.chain_pem = std::move(*chain_pem);
    auto key_pem = read_file(files.key_file);
    if (!key_pem)
        return std::unexpected(error(Kind::key_file, "key file", files.key_file, key_pem.error()));
    material.key_pem = std::make_shared<const Secret>(std::move(*key_pem));
    ERR_clear_error();
    const std::string& key_text = material.key_pem->text();
    const BioHandle memory{BIO_new_mem_buf(key_text.data(), static_cast<int>(key_text.size()))};
    const KeyHandle key{memory == nullptr ? nullptr
                                          : PEM_read_bio_PrivateKey(memory.get(), nullptr,
                                                                    refuse_pass_phrase, nullptr)};
    if (key == nullptr) {
        return std::unexpected(
            error(Kind::key_file, "key file", files.key_file, take_error_text()));
    }
    const X509& leaf = *chain->certificates.front();
    EVP_PKEY* public_key = X509_get0_pubkey(&leaf);
    if (public_key == nullptr || EVP_PKEY_eq(public_key, key.get()) != 1) {
        ERR_clear_error();
        return std::unexpected(error(Kind::key_mismatch, "key file", files.key_file,
                                     "is not the key of " + files.certificate_file));
    }

    CertificateInfo& info = material.info;
    info.subject = printed(X509_get_subject_name(&leaf));
    info.issuer = printed(X509_get_issuer_name(&leaf));
    info.self_signed = info.subject == info.issuer;
    info.key_type = key_type(leaf);
    info.fingerprint = fingerprint_of(leaf);
    info.names = names_of(leaf);
    info.not_before = time_of(X509_get0_notBefore(&leaf));
    info.not_after = time_of(X509_get0_notAfter(&leaf));
    info.chain_length = chain->certificates.size();
    info.must_staple = has_must_staple(leaf);
    ERR_clear_error();
    for (const std::string& name : files.names) {
        material.names.push_back(lower(name));
        if (covers(info.names, material.names.back())) continue;
        return std::unexpected(error(Kind::names, "certificate file", files.certificate_file,
                                     "is not for \"" + name +
                                         "\"; correct names, or leave them "
                                         "out for those that are in the certificate"));
    }
    if (material.names.empty()) material.names = info.names;
    if (!files.ocsp_file.empty()) {
        const auto der = read_file(files.ocsp_file);
        if (der) {
            material.ocsp_der = judge_ocsp(*der, *chain, info, now);
        } else {
            info.ocsp = OcspState::unusable;
            info.ocsp_text = der.error();
        }
    }
    return material;
}

std::vector<std::string> concerns(const CertificateMaterial& material, base::WallTime now) {
    const CertificateInfo& info = material.info;
    const std::string& file = material.files.certificate_file;
    std::vector<std::string> texts;
    if (info.not_after < now) {
        texts.push_back(file + " has expired: renew it");
    } else if (info.not_after - now < expiry_warning) {
        const auto days = std::chrono::duration_cast<std::chrono::hours>(info.not_after - now) / 24;
        texts.push_back(file + " expires in " + std::to_string(days.count()) +
                        " days: renew it, or see why its renewal did not happen");
    }
    if (info.not_before > now) texts.push_back(file + " is not valid yet: is the clock right?");
    if (info.chain_length == 1 && !info.self_signed) {
        texts.push_back(file + " has no chain: append the issuer's certificate, or clients that do "
                               "not know it refuse ours");
    }
    if (info.must_staple && info.ocsp != OcspState::good) {
        texts.push_back(file + " demands a stapled OCSP response and there is none: clients that "
                               "check will refuse it");
    }
    if (info.ocsp == OcspState::stale || info.ocsp == OcspState::unusable) {
        texts.push_back(material.files.ocsp_file + " is not stapled: " + info.ocsp_text);
    }
    return texts;
}

} // namespace tls_offload
