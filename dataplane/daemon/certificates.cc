#include "dataplane/daemon/certificates.h"

#include <nlohmann/json.hpp>

namespace dataplane::daemon {

using nlohmann::json;
using policy::OpensslRelief;
using policy::TlsPolicy;

tls_offload::TlsSettings tls_settings(const policy::Policy& policy,
                                      const tls_offload::CertificateFiles& own) {
    const TlsPolicy& from = policy.tls;
    tls_offload::TlsSettings to;
    const bool named = !from.certificate_file.empty();
    to.server.certificate_file = named ? from.certificate_file : own.certificate_file;
    to.server.key_file = named ? from.key_file : own.key_file;
    if (named) to.server.ocsp_file = from.ocsp_file;
    to.server.policy =
        from.modern ? tls_offload::TlsPolicy::modern : tls_offload::TlsPolicy::intermediate;
    for (const TlsPolicy::Certificate& each : from.certificates) {
        to.server.more.push_back(
            {each.certificate_file, each.key_file, each.ocsp_file, each.names, each.is_default});
    }
    switch (from.client_certificates) {
    case TlsPolicy::ClientCertificates::none:
        to.server.client_auth = tls_offload::ClientAuth::none;
        break;
    case TlsPolicy::ClientCertificates::request:
        to.server.client_auth = tls_offload::ClientAuth::request;
        break;
    case TlsPolicy::ClientCertificates::require:
        to.server.client_auth = tls_offload::ClientAuth::require;
        break;
    }
    to.server.client_ca_file = from.client_ca_file;
    to.server.client_crl_file = from.client_crl_file;
    to.client.ca_file = from.ca_file;
    to.client.crl_file = from.crl_file;
    to.client.certificate_file = from.delivery_certificate_file;
    to.client.key_file = from.delivery_key_file;
    to.ocsp_command = from.ocsp_command;
    return to;
}

std::string certificates_json(const tls_offload::Keeper& keeper) {
    const auto seconds = [](base::WallTime time) { return time.time_since_epoch().count() / 1000; };
    json list = json::array();
    for (const tls_offload::CertificateReport& each : keeper.certificates()) {
        const tls_offload::CertificateInfo& info = each.info;
        list.push_back({{"certificate", each.files.certificate_file},
                        {"key", each.files.key_file},
                        {"default", each.files.is_default},
                        {"names", each.names},
                        {"subject", info.subject},
                        {"issuer", info.issuer},
                        {"key_type", info.key_type},
                        {"fingerprint", info.fingerprint},
                        {"not_before", seconds(info.not_before)},
                        {"not_after", seconds(info.not_after)},
                        {"chain_length", info.chain_length},
                        {"must_staple", info.must_staple},
                        {"ocsp", to_string(info.ocsp)},
                        {"ocsp_text", info.ocsp_text},
                        {"ocsp_next_update", seconds(info.ocsp_next_update)},
                        {"concerns", each.concerns}});
    }
    return json{{"certificates", std::move(list)}}.dump(-1, ' ', false,
                                                        json::error_handler_t::replace);
}

tls_offload::Relief relief_of(OpensslRelief wanted) noexcept {
    switch (wanted) {
    case OpensslRelief::automatic:
        return tls_offload::Relief::automatic;
    case OpensslRelief::on:
        return tls_offload::Relief::on;
    case OpensslRelief::off:
        return tls_offload::Relief::off;
    }
    return tls_offload::Relief::off;
}

} // namespace dataplane::daemon
