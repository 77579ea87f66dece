#include "control/config_tls.h"

#include "control/notation.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

namespace control {
namespace {

/// "mail.example.com" or "*.example.com".
std::optional<std::string> certificate_name(std::string_view text) {
    const std::string_view host = text.starts_with("*.") ? text.substr(2) : text;
    if (!is_host_name(host)) return std::nullopt;
    return lower(text);
}

void pair_up(const Section& from, const char* certificate_key, const std::string& certificate,
             const char* key_key, const std::string& key, const std::string& otherwise) {
    if (certificate.empty() == key.empty()) return;
    const bool no_key = key.empty();
    from.error(no_key ? key_key : certificate_key,
               std::string{"is missing; "} + (no_key ? certificate_key : key_key) +
                   " is of no use without it: give both, or neither " + otherwise);
}

bool wants_dane(const schema::SiteT* site) {
    return site != nullptr &&
           (site->tls == schema::TlsLevel::dane || site->tls == schema::TlsLevel::dane_only);
}

} // namespace

void read_tls(const Tables& tables, schema::PolicyT& policy, std::vector<std::string>& warnings) {
    const Section from = tables.one("tls");
    policy.tls = std::make_unique<schema::TlsT>();
    schema::TlsT& to = *policy.tls;
    to.certificate_file = from.file("certificate");
    to.key_file = from.file("key");
    to.ocsp_file = from.path("ocsp");
    to.ocsp_command = from.path("ocsp_command");
    to.modern = from.choice<unsigned>("preset") == 0;
    to.ca_file = from.file("ca_file");
    to.crl_file = from.file("crl_file");
    to.client_certificates = from.choice<schema::ClientCertificates>("client_certificates");
    to.client_ca_file = from.file("client_ca_file");
    to.client_crl_file = from.file("client_crl_file");
    to.delivery_certificate_file = from.file("delivery_certificate");
    to.delivery_key_file = from.file("delivery_key");
    policy.start_up->openssl_relief = from.choice<schema::OpensslRelief>("openssl_relief");
    pair_up(from, "certificate", to.certificate_file, "key", to.key_file, "for a self-signed pair");
    pair_up(from, "delivery_certificate", to.delivery_certificate_file, "delivery_key",
            to.delivery_key_file, "to show none");
    if (!to.client_ca_file.empty() && to.client_certificates == schema::ClientCertificates::none) {
        warnings.push_back("tls.client_ca_file is of no use while tls.client_certificates is "
                           "\"none\"; write client_certificates = \"request\"");
    }
    if (!to.client_crl_file.empty() && to.client_ca_file.empty()) {
        warnings.push_back("tls.client_crl_file is of no use without tls.client_ca_file: no client "
                           "certificate verifies anyhow; name the authority's file");
    }
    tables.each("certificate", {}, [&](const Section& each, const toml::table&) {
        auto made = std::make_unique<schema::CertificateT>();
        made->certificate_file = each.file("certificate");
        made->key_file = each.file("key");
        made->ocsp_file = each.path("ocsp");
        made->names = each.texts("names", certificate_name);
        made->is_default = each.flag("default");
        to.certificates.push_back(std::move(made));
    });

    const bool dane =
        wants_dane(policy.default_site.get()) ||
        std::ranges::any_of(policy.sites,
                            [](const auto& site) { return wants_dane(site.get()); }) ||
        std::ranges::any_of(policy.routes,
                            [](const auto& route) { return wants_dane(route->shaping.get()); });
    if (dane && !policy.start_up->dnssec) {
        warnings.push_back(
            "a site has tls = \"dane\" or \"dane-only\", but dns.dnssec is false: no "
            "answer counts as signed, so dane is may, and dane-only delivers nothing; "
            "write dnssec = true in [dns]");
    }
}

} // namespace control
