#include "tls_offload/revocation.h"

#include <ctime>
#include <openssl/pem.h>

namespace tls_offload {
namespace {

using CrlHandle = std::unique_ptr<X509_CRL, Release<X509_CRL_free>>;

/// The next list of a text, made for this library; null at its end.
CrlHandle next_list(BIO* text, OSSL_LIB_CTX* library) {
    X509_CRL* blank = X509_CRL_new_ex(library, nullptr);
    if (blank == nullptr) return nullptr;
    X509_CRL* read = PEM_read_bio_X509_CRL(text, &blank, nullptr, nullptr);
    // A text that does not decode takes the blank with it and leaves null; its end does not.
    if (read == nullptr) X509_CRL_free(blank);
    return CrlHandle{read};
}

/// Calls `take` for each list. False when there is none, or the text goes on with something else.
template <class Take>
std::expected<void, std::string> for_each_list(const std::string& pem, OSSL_LIB_CTX* library,
                                               const Take& take) {
    ERR_clear_error();
    const BioHandle text{BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()))};
    if (text == nullptr) return std::unexpected(take_error_text());
    int count = 0;
    while (const CrlHandle next = next_list(text.get(), library)) {
        if (!take(*next)) return std::unexpected(take_error_text());
        ++count;
    }
    const unsigned long last = ERR_peek_last_error();
    const bool at_end =
        ERR_GET_LIB(last) == ERR_LIB_PEM && ERR_GET_REASON(last) == PEM_R_NO_START_LINE;
    if (count == 0 && at_end) {
        ERR_clear_error();
        return std::unexpected("there is no revocation list in PEM in it");
    }
    if (!at_end) return std::unexpected(take_error_text());
    ERR_clear_error();
    return {};
}

std::string issuer_of(const X509_CRL& list) {
    const BioHandle memory{BIO_new(BIO_s_mem())};
    if (memory == nullptr ||
        X509_NAME_print_ex(memory.get(), X509_CRL_get_issuer(&list), 0, XN_FLAG_RFC2253) < 0)
        return {};
    char* data = nullptr;
    const long bytes = BIO_get_mem_data(memory.get(), &data);
    return {data, static_cast<std::size_t>(bytes)};
}

} // namespace

std::expected<std::vector<RevocationList>, std::string>
read_revocation_lists(const std::string& pem) {
    std::vector<RevocationList> lists;
    const auto read = for_each_list(pem, nullptr, [&](const X509_CRL& list) {
        RevocationList& made = lists.emplace_back(issuer_of(list));
        std::tm parts{};
        const ASN1_TIME* until = X509_CRL_get0_nextUpdate(&list);
        if (until != nullptr && ASN1_TIME_to_tm(until, &parts) == 1)
            made.next_update = std::chrono::time_point_cast<std::chrono::milliseconds>(
                std::chrono::system_clock::from_time_t(timegm(&parts)));
        return true;
    });
    if (!read) return std::unexpected(read.error());
    return lists;
}

std::expected<void, std::string> use_revocation_lists(SSL_CTX& context, OSSL_LIB_CTX* library,
                                                      const std::string& pem) {
    X509_STORE* store = SSL_CTX_get_cert_store(&context);
    auto added = for_each_list(
        pem, library, [store](X509_CRL& list) { return X509_STORE_add_crl(store, &list) == 1; });
    if (added) look_for_revocation(context);
    return added;
}

void look_for_revocation(SSL_CTX& context) noexcept {
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(&context),
                                X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
}

int forgive_unlisted_issuer(int good, X509_STORE_CTX* chain) noexcept {
    if (good == 1 || X509_STORE_CTX_get_error(chain) != X509_V_ERR_UNABLE_TO_GET_CRL) return good;
    X509_STORE_CTX_set_error(chain,
                             X509_V_OK); // whatever was wrong before has ended the verification
    return 1;
}

std::vector<std::string> concerns(const std::string& file, const std::vector<RevocationList>& lists,
                                  std::chrono::sys_time<std::chrono::milliseconds> now) {
    std::vector<std::string> texts;
    for (const RevocationList& list : lists) {
        if (list.next_update.time_since_epoch().count() == 0 || list.next_update > now) continue;
        texts.push_back(
            "revocation list file " + file + ": the list of " + list.issuer +
            " has run out, so that its certificates are refused; put the new one there");
    }
    return texts;
}

} // namespace tls_offload
