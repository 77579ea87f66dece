#include "control/cli/dkim.h"

#include "control/cli/output.h"
#include "control/cli/txt_lookup.h"
#include "control/config.h"
#include "control/notation.h"
#include "control/policy_compiler.h"
#include "dataplane/message/dkim/key_set.h"
#include "dataplane/message/dkim/record.h"

#include <cerrno>
#include <cstring>
#include <expected>
#include <fcntl.h>
#include <filesystem>
#include <iostream>
#include <unistd.h>

namespace control::cli {
namespace {

namespace dkim = dataplane::message::dkim;

/// What a command is about: the configuration's keys, or the one that --key names.
struct Subject {
    std::string domain, selector, agent;
    std::shared_ptr<const dkim::SigningKey> key;
};

std::expected<std::vector<Subject>, std::string> subjects(const DkimOptions& options,
                                                          const Config& config) {
    std::vector<Subject> found;
    dkim::KeyCache cache;
    if (!options.key.empty()) {
        if (options.domain.empty() || options.selector.empty())
            return std::unexpected("--key needs --domain and --selector");
        auto file = cache.get(options.key);
        if (!file) return std::unexpected(file.error());
        found.push_back({lower(options.domain), lower(options.selector), "", std::move(file->key)});
        return found;
    }
    const auto loaded = dkim::load_key_set(dkim_tables(config.policy), cache);
    if (!loaded) return std::unexpected(loaded.error().front().text);
    for (const dkim::Identity& each : loaded->keys->identities()) {
        if ((options.domain.empty() || each.domain == lower(options.domain)) &&
            (options.selector.empty() || each.selector == lower(options.selector)))
            found.push_back({each.domain, each.selector, each.agent, each.key});
    }
    if (found.empty()) {
        return std::unexpected(
            options.config +
            " has no [[dkim]] key of that domain and selector; name one with --key");
    }
    return found;
}

std::expected<Config, std::string> configuration(const DkimOptions& options) {
    ConfigResult loaded = load_config(options.config);
    // With --key nothing of it is needed but, perhaps, its name servers.
    if (!loaded.errors.empty() && options.key.empty())
        return std::unexpected(loaded.errors.front().to_string());
    return std::move(loaded.config);
}

/// A new file, readable by its owner alone. Returns what is wrong, or "".
std::string write_new(const std::string& path, const std::string& text) {
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    std::error_code failure;
    if (!folder.empty() && std::filesystem::create_directories(folder, failure))
        std::filesystem::permissions(folder, std::filesystem::perms{0700}, failure);
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0 && errno == EEXIST)
        return path +
               " is there already; a key in use is not replaced: name another file, and give the "
               "new key a selector of its own";
    if (file < 0) return path + ": " + std::strerror(errno);
    const ssize_t wrote = write(file, text.data(), text.size());
    const bool whole = wrote == static_cast<ssize_t>(text.size()) && fsync(file) == 0;
    const int error = errno;
    close(file);
    if (whole) return "";
    unlink(path.c_str());
    return path + ": " + std::strerror(error);
}

Json as_json(const Subject& subject) {
    return {{"domain", subject.domain},
            {"selector", subject.selector},
            {"algorithm", dkim::to_string(subject.key->algorithm())},
            {"bits", subject.key->bits()},
            {"name", dkim::record_name(subject.domain, subject.selector)}};
}

void print_record(const Subject& subject, const DkimOptions& options) {
    const std::string name = dkim::record_name(subject.domain, subject.selector);
    const std::string record = dkim::record_text(*subject.key, options.testing);
    if (options.plain) {
        std::cout << name << '\n' << record << '\n';
    } else {
        std::cout << dkim::zone_entry(name, record) << '\n';
    }
}

/// What DNS says of one key.
dkim::RecordCheck check_one(const Subject& subject, TxtLookup& dns) {
    const auto answer = dns.ask(dkim::record_name(subject.domain, subject.selector));
    if (!answer) return {{answer.error()}, {}};
    if (answer->empty()) return {{"DNS has no TXT record of this name"}, {}};
    if (answer->size() > 1) {
        return {{"DNS has " + std::to_string(answer->size()) +
                 " TXT records of this name, and receivers take any of them (RFC 6376 §3.6.2.2)"},
                {}};
    }
    return dkim::check_record(answer->front(), *subject.key, subject.domain, subject.agent);
}

} // namespace

int dkim_keygen(const DkimOptions& options) {
    const std::string domain = lower(options.domain), selector = lower(options.selector);
    if (!is_host_name(domain)) return misused("--domain " + in_quotes(domain) + " is no domain");
    if (!is_host_name(selector))
        return misused("--selector " + in_quotes(selector) + " is no selector");
    const bool rsa = options.type == "rsa";
    const auto key = dkim::SigningKey::generate(
        rsa ? dkim::Algorithm::rsa_sha256 : dkim::Algorithm::ed25519_sha256, options.bits);
    if (!key) return complain(key.error());
    if (const std::string wrong = write_new(options.out, (*key)->to_pem()); !wrong.empty())
        return complain(wrong);
    const Subject subject{domain, selector, "", *key};
    if (options.json) {
        Json made = as_json(subject);
        made["file"] = options.out;
        made["record"] = dkim::record_text(**key, options.testing);
        print(made);
        return exit_ok;
    }
    std::cerr << "wrote " << options.out
              << " (mode 0600); the relay's user must be able to read it.\n"
              << "Publish this record, then: millracectl dkim check --key " << options.out
              << " --domain " << domain << " --selector " << selector << '\n';
    print_record(subject, options);
    return exit_ok;
}

int dkim_dns(const DkimOptions& options) {
    const auto config = configuration(options);
    if (!config) return complain(config.error());
    const auto found = subjects(options, *config);
    if (!found) return complain(found.error());
    if (!options.json) {
        for (const Subject& subject : *found)
            print_record(subject, options);
        return exit_ok;
    }
    Json list = Json::array();
    for (const Subject& subject : *found) {
        list.push_back(as_json(subject));
        list.back()["record"] = dkim::record_text(*subject.key, options.testing);
    }
    print(list);
    return exit_ok;
}

int dkim_check(const DkimOptions& options) {
    const auto config = configuration(options);
    if (!config) return complain(config.error());
    const auto found = subjects(options, *config);
    if (!found) return complain(found.error());
    auto dns = TxtLookup::open(options.servers.empty() ? config->policy.start_up->dns_servers
                                                       : options.servers);
    if (!dns) return complain(dns.error());
    Json list = Json::array();
    std::size_t bad = 0;
    for (const Subject& subject : *found) {
        const dkim::RecordCheck result = check_one(subject, *dns);
        bad += result.problems.empty() ? 0 : 1;
        if (options.json) {
            list.push_back(as_json(subject));
            list.back().update({{"ok", result.problems.empty()},
                                {"problems", result.problems},
                                {"notes", result.notes}});
            continue;
        }
        std::cout << dkim::record_name(subject.domain, subject.selector) << "  "
                  << dkim::to_string(subject.key->algorithm()) << " " << subject.key->bits()
                  << " bits  " << (result.problems.empty() ? "OK" : "NOT OK") << '\n';
        for (const std::string& problem : result.problems)
            std::cout << "  " << harmless(problem) << '\n';
        for (const std::string& note : result.notes)
            std::cout << "  note: " << harmless(note) << '\n';
    }
    if (options.json) print(list);
    return bad == 0 ? exit_ok : exit_failed;
}

} // namespace control::cli
