#include "tls_offload/self_signed.h"

#include "dataplane/base/address.h"
#include "tls_offload/openssl.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <fcntl.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <string_view>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace tls_offload {
namespace {

constexpr long validity_days = 3'653;
constexpr std::size_t common_name_bytes_max = 64; // RFC 5280 appendix A.1, ub-common-name

bool is_host_name(std::string_view name) {
    // The name goes into OpenSSL's extension syntax, where commas and colons mean something.
    return !name.empty() && name.size() <= 253 && std::ranges::all_of(name, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '-' || c == '.' || c == '_';
    });
}

bool add_extension(X509& certificate, int kind, const std::string& value) {
    const ExtensionHandle extension{X509V3_EXT_conf_nid(nullptr, nullptr, kind, value.c_str())};
    return extension != nullptr && X509_add_ext(&certificate, extension.get(), -1) == 1;
}

CertificateHandle make_certificate(EVP_PKEY& key, const std::string& hostname,
                                   const std::string& subject_name, base::WallTime now) {
    CertificateHandle certificate{X509_new()};
    if (certificate == nullptr) return nullptr;
    X509& x509 = *certificate;
    std::uint64_t serial = 0;
    if (RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof serial) != 1) return nullptr;

    std::time_t start = std::chrono::system_clock::to_time_t(now);
    X509_NAME* name = X509_get_subject_name(&x509);
    const std::string common_name = hostname.substr(0, common_name_bytes_max);
    const bool filled =
        X509_set_version(&x509, X509_VERSION_3) == 1 &&
        ASN1_INTEGER_set_uint64(X509_get_serialNumber(&x509), serial >> 1) == 1 &&
        X509_time_adj_ex(X509_getm_notBefore(&x509), -1, 0, &start) != nullptr &&
        X509_time_adj_ex(X509_getm_notAfter(&x509), validity_days, 0, &start) != nullptr &&
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                   reinterpret_cast<const unsigned char*>(common_name.c_str()), -1,
                                   -1, 0) == 1 &&
        X509_set_issuer_name(&x509, name) == 1 && X509_set_pubkey(&x509, &key) == 1 &&
        add_extension(x509, NID_basic_constraints, "critical,CA:FALSE") &&
        add_extension(x509, NID_key_usage, "critical,digitalSignature") &&
        add_extension(x509, NID_ext_key_usage, "serverAuth,clientAuth") &&
        add_extension(x509, NID_subject_alt_name, subject_name);
    if (!filled || X509_sign(&x509, &key, EVP_sha256()) == 0) return nullptr;
    return certificate;
}

std::unexpected<std::string> system_failure(const std::string& file) {
    return std::unexpected(file + ": " + std::generic_category().message(errno));
}

/// Writes through a file of its own beside the target, so that a crash leaves the old one or the
/// new.
std::expected<void, std::string> write_file(const std::string& file, std::string_view text,
                                            mode_t mode) {
    const std::string draft = file + ".new";
    const int descriptor =
        open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (descriptor < 0) return system_failure(draft);
    // An older draft may have had another mode.
    bool written = fchmod(descriptor, mode) == 0;
    while (written && !text.empty()) {
        const ssize_t bytes = ::write(descriptor, text.data(), text.size());
        if (bytes < 0 && errno == EINTR) continue;
        written = bytes > 0;
        if (written) text.remove_prefix(static_cast<std::size_t>(bytes));
    }
    written = written && fsync(descriptor) == 0;
    written = close(descriptor) == 0 && written;
    if (!written || rename(draft.c_str(), file.c_str()) != 0) {
        auto failure = system_failure(file);
        unlink(draft.c_str());
        return failure;
    }
    return {};
}

std::string_view text_of(BIO& memory) {
    char* data = nullptr;
    const long bytes = BIO_get_mem_data(&memory, &data);
    return {data, static_cast<std::size_t>(bytes)};
}

} // namespace

std::expected<void, std::string> make_self_signed(const std::string& hostname,
                                                  const std::string& certificate_file,
                                                  const std::string& key_file, base::WallTime now) {
    const bool address = base::IpAddress::parse(hostname).has_value();
    if (!address && !is_host_name(hostname)) return std::unexpected("not a host name: " + hostname);

    ERR_clear_error();
    const KeyHandle key{EVP_EC_gen("P-256")};
    if (key == nullptr) return std::unexpected("cannot make a key: " + take_error_text());
    const CertificateHandle certificate =
        make_certificate(*key, hostname, (address ? "IP:" : "DNS:") + hostname, now);
    const BioHandle key_text{BIO_new(BIO_s_mem())};
    const BioHandle certificate_text{BIO_new(BIO_s_mem())};
    const bool encoded = certificate != nullptr && key_text != nullptr &&
                         certificate_text != nullptr &&
                         PEM_write_bio_PKCS8PrivateKey(key_text.get(), key.get(), nullptr, nullptr,
                                                       0, nullptr, nullptr) == 1 &&
                         PEM_write_bio_X509(certificate_text.get(), certificate.get()) == 1;
    if (!encoded) return std::unexpected("cannot make a certificate: " + take_error_text());

    if (auto written = write_file(key_file, text_of(*key_text), 0600); !written) return written;
    return write_file(certificate_file, text_of(*certificate_text), 0644);
}

} // namespace tls_offload
