#include "control/cli/cert.h"

#include "control/cli/output.h"
#include "tls_offload/certificate.h"

#include <chrono>
#include <ctime>
#include <iomanip>
#include <iostream>
#include <sstream>

namespace control::cli {
namespace {

std::string date(std::int64_t unix_s) {
    const auto time = static_cast<std::time_t>(unix_s);
    std::tm parts{};
    gmtime_r(&time, &parts);
    std::ostringstream out;
    out << std::put_time(&parts, "%Y-%m-%d");
    return out.str();
}

void print_certificate(const Json& each) {
    std::cout << text(each, "certificate") << (each.value("default", false) ? "  (default)" : "")
              << "\n  " << text(each, "key_type") << ", " << harmless(text(each, "subject"))
              << ", from " << harmless(text(each, "issuer")) << "\n  valid "
              << date(each.value("not_before", std::int64_t{})) << " to "
              << date(each.value("not_after", std::int64_t{})) << ", " << text(each, "chain_length")
              << " in the chain, OCSP " << text(each, "ocsp")
              << (each.value("must_staple", false) ? ", must-staple" : "") << "\n  SHA-256 "
              << text(each, "fingerprint") << "\n  for";
    for (const Json& name : each.value("names", Json::array()))
        std::cout << ' ' << harmless(name.get<std::string>());
    std::cout << '\n';
    for (const Json& concern : each.value("concerns", Json::array()))
        std::cout << "  ! " << harmless(concern.get<std::string>()) << '\n';
}

int show(const std::expected<Json, ClientFailure>& reply, bool json) {
    if (!reply) return complain(reply.error().text);
    if (json) {
        print(*reply);
        return exit_ok;
    }
    const Json list = reply->value("certificates", Json::array());
    for (const Json& each : list)
        print_certificate(each);
    std::cout << list.size() << " certificate(s)\n";
    return exit_ok;
}

} // namespace

int cert_list(const AdminClient& client, bool json) {
    return show(client.post("/api/admin/cert/list", Json::object()), json);
}

int cert_reload(const AdminClient& client, bool json) {
    return show(client.post("/api/admin/cert/reload", Json::object()), json);
}

int cert_check(const CertOptions& options, bool json) {
    const auto now =
        std::chrono::time_point_cast<std::chrono::milliseconds>(std::chrono::system_clock::now());
    tls_offload::CertificateFiles files;
    files.certificate_file = options.certificate;
    files.key_file = options.key;
    files.ocsp_file = options.ocsp;
    files.names = options.names;
    const auto loaded = tls_offload::load_certificate(files, now);
    if (!loaded) return complain(loaded.error().text);
    const auto seconds = [](tls_offload::base::WallTime time) {
        return time.time_since_epoch().count() / 1000;
    };
    const tls_offload::CertificateInfo& info = loaded->info;
    const std::vector<std::string> concerns = tls_offload::concerns(*loaded, now);
    const Json report{{"certificate", options.certificate},
                      {"names", loaded->names},
                      {"subject", info.subject},
                      {"issuer", info.issuer},
                      {"key_type", info.key_type},
                      {"fingerprint", info.fingerprint},
                      {"not_before", seconds(info.not_before)},
                      {"not_after", seconds(info.not_after)},
                      {"chain_length", std::to_string(info.chain_length)},
                      {"must_staple", info.must_staple},
                      {"ocsp", std::string{to_string(info.ocsp)}},
                      {"concerns", concerns}};
    if (json) {
        print(report);
    } else {
        print_certificate(report);
    }
    return info.not_after < now ? exit_failed : exit_ok;
}

} // namespace control::cli
