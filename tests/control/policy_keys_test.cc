// policy_keys_test.cc: key by key, what a setting becomes in the data plane, and that none is without a case.

#include "control/config.h"
#include "control/policy_compiler.h"
#include "control/settings.h"
#include "dataplane/policy/snapshot.h"
#include "tests/control/everything.h"
#include "tests/control/temp_folder.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace control {
namespace {

namespace policy = dataplane::policy;
using policy::Policy;

// [server] has what a case says from line 3 on. FILE is a file that is there.
std::string configuration(const std::string& server, const std::string& tables) {
    return "[server]\nhostname = \"relay.example.com\"\n" + server +
           "[[listener]]\nname = \"in\"\naddress = \"127.0.0.1:587\"\nkind = \"submission\"\n" +
           tables;
}

template <class Number>
std::string text_of(Number number) {
    return std::to_string(static_cast<long long>(number));
}
std::string text_of(const std::string& text) {
    return text;
}
std::string text_of(std::chrono::seconds time) {
    return std::to_string(time.count());
}

using Look = std::string (*)(const Policy&);
struct Arrival {
    const char* key;    // "table.key", as settings() has it
    std::string server; // lines of [server]
    std::string tables; // behind everything else
    Look look;
    std::string before; // without these lines
    std::string after;
};
std::ostream& operator<<(std::ostream& out, const Arrival& arrival) {
    return out << arrival.key << ' ' << arrival.server << arrival.tables;
}

#define LOOK(field) [](const Policy& p) { return text_of(p.field); }

constexpr int automatic = 0; // of every choice, the first is 0: the orders below are the contract

const std::vector<Arrival> arrivals{
    {"server.spool_key", "spool_key = \"env:SPOOL_KEY_1\"\n", "", LOOK(start_up.spool_key), "",
     "env:SPOOL_KEY_1"},
    {"server.spool_key", "spool_key = \"FILE\"\n", "", LOOK(start_up.spool_key), "", "FILE"},
    {"server.scrub_rate", "scrub_rate = \"3MiB\"\n", "", LOOK(start_up.scrub_bytes_per_s),
     "16777216", "3145728"},
    {"server.scrub_rate", "scrub_rate = \"0B\"\n", "", LOOK(start_up.scrub_bytes_per_s), "16777216",
     "0"},
    {"server.commit", "commit = \"dsync\"\n", "", LOOK(start_up.commit), "0",
     text_of(policy::Commit::dsync)},
    {"server.commit", "commit = \"flush\"\n", "", LOOK(start_up.commit), text_of(automatic),
     text_of(policy::Commit::flush)},
    {"server.durability", "durability = \"mirror\"\nmirror_dir = \"/m\"\n", "",
     LOOK(start_up.durability), "0", text_of(policy::Durability::mirror)},
    {"server.durability", "durability = \"mirror_alone\"\nmirror_dir = \"/m\"\n", "",
     LOOK(start_up.durability), text_of(policy::Durability::local),
     text_of(policy::Durability::mirror_alone)},
    {"server.mirror_dir", "durability = \"mirror\"\nmirror_dir = \"/m\"\n", "",
     LOOK(start_up.mirror_dir), "", "/m"},
    {"server.mirror_copy_rate", "mirror_copy_rate = \"7MiB\"\n", "",
     LOOK(start_up.mirror_copy_bytes_per_s), "104857600", "7340032"},
    {"server.egress_transport", "egress_transport = \"dpdk\"\n",
     "[[port]]\nname = \"p\"\ndevice = \"net_tap0\"\naddresses = [\"192.0.2.1/24\"]\n",
     LOOK(sources.at(0).transport), "0", text_of(policy::TransportKind::dpdk)},
    {"tls.ocsp_command", "", "[tls]\nocsp_command = \"/bin/fetch\"\n", LOOK(tls.ocsp_command), "",
     "/bin/fetch"},
    {"tls.delivery_certificate", "",
     "[tls]\ndelivery_certificate = \"FILE\"\ndelivery_key = \"FILE\"\n",
     LOOK(tls.delivery_certificate_file), "", "FILE"},
    {"tls.delivery_key", "", "[tls]\ndelivery_certificate = \"FILE\"\ndelivery_key = \"FILE\"\n",
     LOOK(tls.delivery_key_file), "", "FILE"},
    {"tls.client_certificates", "", "[tls]\nclient_certificates = \"require\"\n",
     LOOK(tls.client_certificates), "0", text_of(policy::TlsPolicy::ClientCertificates::require)},
    {"tls.openssl_relief", "", "[tls]\nopenssl_relief = \"on\"\n", LOOK(start_up.openssl_relief),
     text_of(automatic), text_of(policy::OpensslRelief::on)},
    {"certificate.ocsp", "",
     "[[certificate]]\ncertificate = \"FILE\"\nkey = \"FILE\"\nocsp = \"/o.der\"\n",
     [](const Policy& p) {
         return p.tls.certificates.empty() ? "" : p.tls.certificates[0].ocsp_file;
     },
     "", "/o.der"},
    {"site.recipients_per_message_max", "", "[site.default]\nrecipients_per_message_max = 7\n",
     LOOK(default_site.recipients_per_message_max), "100", "7"},
    {"site.message_rate", "", "[site.default]\nmessage_rate = \"600/min\"\n",
     LOOK(default_site.messages_per_second_max), "0", "10"},
    {"site.idle", "", "[site.default]\nidle = \"7s\"\n", LOOK(default_site.idle), "5", "7"},
    {"site.pipelining", "", "[site.default]\npipelining = false\n", LOOK(default_site.pipelining),
     "1", "0"},
    {"site.chunking", "", "[site.default]\nchunking = false\n", LOOK(default_site.chunking), "1",
     "0"},
    {"site.tls", "", "[site.default]\ntls = \"encrypt\"\n", LOOK(default_site.tls),
     text_of(policy::TlsLevel::may), text_of(policy::TlsLevel::encrypt)},
    {"site.tls", "", "[site.default]\ntls = \"dane\"\n", LOOK(default_site.tls), "1",
     text_of(policy::TlsLevel::dane)},
    {"site.tls", "", "[site.default]\ntls = \"dane-only\"\n", LOOK(default_site.tls), "1",
     text_of(policy::TlsLevel::dane_only)},
    {"site.tls", "", "[site.default]\ntls = \"secure\"\n", LOOK(default_site.tls), "1",
     text_of(policy::TlsLevel::secure)},
    {"offload.backend", "", "[offload]\nbackend = \"inline\"\n", LOOK(start_up.offload.backend),
     text_of(automatic), text_of(policy::OffloadPolicy::Backend::inline_only)},
    {"offload.backend", "", "[offload]\nbackend = \"mb8\"\n", LOOK(start_up.offload.backend), "0",
     text_of(policy::OffloadPolicy::Backend::mb8)},
    {"offload.backend", "", "[offload]\nbackend = \"cryptodev\"\n", LOOK(start_up.offload.backend),
     "0", text_of(policy::OffloadPolicy::Backend::cryptodev)},
    {"offload.backend", "", "[offload]\nbackend = \"qatengine\"\n", LOOK(start_up.offload.backend),
     "0", text_of(policy::OffloadPolicy::Backend::qatengine)},
    {"offload.device", "", "[offload]\nbackend = \"cryptodev\"\ndevice = \"crypto_openssl\"\n",
     LOOK(start_up.offload.device), "", "crypto_openssl"},
    {"offload.device", "", "[offload]\ndevice = \"0000:3d:01.0_qat_asym\"\n",
     LOOK(start_up.offload.device), "", "0000:3d:01.0_qat_asym"},
    {"offload.engine", "", "[offload]\nbackend = \"qatengine\"\nengine = \"/qatengine.so\"\n",
     LOOK(start_up.offload.engine), "", "/qatengine.so"},
};

class PolicyKeys : public testing::Test {
protected:
    std::string with_file(std::string text) const {
        for (std::size_t at = text.find("FILE"); at != std::string::npos;
             at = text.find("FILE", at))
            text.replace(at, 4, file_);
        return text;
    }
    /// What the data plane has of it; null, and a failure, when it is refused.
    std::shared_ptr<const Policy> arrived(const std::string& text) const {
        ConfigResult result = parse_config(with_file(text), "m.toml");
        for (const ConfigError& error : result.errors)
            ADD_FAILURE() << error.to_string();
        if (!result.errors.empty()) return nullptr;
        result.config.policy.version = 1;
        const std::string file = make_snapshot(result.config.policy);
        const auto loaded = policy::parse_snapshot(std::as_bytes(std::span{file}));
        if (!loaded) ADD_FAILURE() << loaded.error().text;
        return loaded ? *loaded : nullptr;
    }
    std::vector<std::string> refused(const std::string& text) const {
        std::vector<std::string> told;
        for (const ConfigError& error : parse_config(with_file(text), "m.toml").errors)
            told.push_back(error.to_string());
        return told;
    }

    tests::TempFolder folder_;
    std::string file_ = folder_.write("a.pem", "x");
};

// Goal: a key arrives as what it says, and without it stands its default. Method: through the snapshot, as the
// relay gets it.
TEST_F(PolicyKeys, EachArrivesInTheDataPlane) {
    const auto plain = arrived(configuration("", ""));
    ASSERT_TRUE(plain);
    for (const Arrival& each : arrivals) {
        SCOPED_TRACE(each);
        const auto changed = arrived(configuration(each.server, each.tables));
        if (!changed) continue;
        EXPECT_EQ(each.look(*plain), each.before);
        EXPECT_EQ(each.look(*changed), with_file(each.after));
    }
}

struct Refusal {
    std::string server, tables; // the first line of either is line 3, or 7
    std::string error;
};

// Goal: a value that is none is refused with its line, what would be one, and what to do.
TEST_F(PolicyKeys, ABadValueIsRefusedWithFileLineAndRemedy) {
    const std::vector<Refusal> refusals{
        {"spool_key = \"env:low\"\n", "",
         "m.toml:3: server.spool_key: expected env: and the name of a variable in capitals, digits "
         "and _; write spool_key = \"env:MILLRACE_SPOOL_KEY\""},
        {"spool_key = \"/nowhere/key\"\n", "",
         "m.toml:3: server.spool_key: no file can be read at \"/nowhere/key\"; put it there, "
         "correct the path, or let the user that runs the relay read it"},
        {"scrub_rate = \"17TiB\"\n", "",
         "m.toml:3: server.scrub_rate: expected a size from 0B to 1TiB such as \"64MiB\", got "
         "\"17TiB\"; write scrub_rate = \"16MiB\""},
        {"scrub_rate = \"fast\"\n", "",
         "m.toml:3: server.scrub_rate: expected a size from 0B to 1TiB such as \"64MiB\", got "
         "\"fast\"; write scrub_rate = \"16MiB\""},
        {"commit = \"fsync\"\n", "",
         "m.toml:3: server.commit: expected \"auto\", \"dsync\" or \"flush\", got \"fsync\"; write "
         "commit = \"auto\""},
        {"durability = \"raid\"\n", "",
         "m.toml:3: server.durability: expected \"local\", \"mirror\" or \"mirror_alone\", got "
         "\"raid\"; write durability = \"local\""},
        {"durability = \"mirror\"\n", "",
         "m.toml:3: server.durability: a mirror needs a second folder; write mirror_dir = "
         "\"/second/device/millrace\""},
        {"durability = \"mirror_alone\"\nmirror_dir = \"/var/spool/millrace\"\n", "",
         "m.toml:4: server.mirror_dir: expected another folder than spool_dir, on another device"},
        {"mirror_dir = 3\n", "",
         "m.toml:3: server.mirror_dir: expected a path, got 3; write mirror_dir = \"\""},
        {"mirror_copy_rate = \"1KiB\"\n", "",
         "m.toml:3: server.mirror_copy_rate: expected a size from 1MiB to 1TiB such as \"64MiB\", "
         "got \"1KiB\"; write mirror_copy_rate = \"100MiB\""},
        {"egress_transport = \"raw\"\n", "",
         "m.toml:3: server.egress_transport: expected \"kernel\" or \"dpdk\", got \"raw\"; write "
         "egress_transport = \"kernel\""},
        {"egress_transport = \"dpdk\"\n", "",
         "m.toml:3: server.egress_transport: dpdk needs a [[port]], and there is none; add it, or "
         "write egress_transport = \"kernel\""},
        {"", "[tls]\nocsp_command = true\n",
         "m.toml:8: tls.ocsp_command: expected a path, got true; write ocsp_command = \"\""},
        {"", "[tls]\ndelivery_certificate = \"FILE\"\n",
         "m.toml:7: tls.delivery_key: is missing; delivery_certificate is of no use without it: "
         "give both, or neither to show none"},
        {"", "[tls]\ndelivery_certificate = \"/nowhere/a\"\ndelivery_key = \"FILE\"\n",
         "m.toml:8: tls.delivery_certificate: no file can be read at \"/nowhere/a\"; put it there, "
         "correct the path, or let the user that runs the relay read it"},
        {"", "[tls]\ndelivery_key = \"FILE\"\n",
         "m.toml:7: tls.delivery_certificate: is missing; delivery_key is of no use without it: "
         "give both, or neither to show none"},
        {"", "[tls]\nclient_certificates = \"demand\"\n",
         "m.toml:8: tls.client_certificates: expected \"none\", \"request\" or \"require\", got "
         "\"demand\"; write client_certificates = \"none\""},
        {"", "[tls]\nopenssl_relief = \"yes\"\n",
         "m.toml:8: tls.openssl_relief: expected \"auto\", \"on\" or \"off\", got \"yes\"; write "
         "openssl_relief = \"auto\""},
        {"", "[[certificate]]\ncertificate = \"FILE\"\nkey = \"FILE\"\nocsp = 1\n",
         "m.toml:10: certificate.ocsp: expected a path, got 1; write ocsp = \"\""},
        {"", "[site.default]\nrecipients_per_message_max = 0\n",
         "m.toml:8: site.default.recipients_per_message_max: expected an integer from 1 to 10000, "
         "got 0; write recipients_per_message_max = 100"},
        {"", "[site.default]\nmessage_rate = \"fast\"\n",
         "m.toml:8: site.default.message_rate: expected a rate from 0/s to 1000000/s such as "
         "\"100/s\" or \"6000/min\", a whole number per second, got \"fast\"; write message_rate = "
         "\"0/s\""},
        {"", "[site.default]\nidle = \"2h\"\n",
         "m.toml:8: site.default.idle: expected a duration from 0s to 1h such as \"90s\", \"5m\" "
         "or \"1h30m\", got \"2h\"; write idle = \"5s\""},
        {"", "[site.default]\npipelining = \"no\"\n",
         "m.toml:8: site.default.pipelining: expected true or false, got \"no\"; write pipelining "
         "= true"},
        {"", "[site.default]\nchunking = 0\n",
         "m.toml:8: site.default.chunking: expected true or false, got 0; write chunking = true"},
        {"", "[offload]\nbackend = \"gpu\"\n",
         "m.toml:8: offload.backend: expected \"auto\", \"inline\", \"threads\", \"mb8\", "
         "\"cryptodev\" or \"qatengine\", got \"gpu\"; write backend = \"auto\""},
        {"", "[offload]\nbackend = \"threads\"\ndevice = \"crypto_openssl\"\n",
         "m.toml:9: offload.device: is of no use with this backend; remove it, or write backend = "
         "\"cryptodev\""},
        {"", "[offload]\nbackend = \"cryptodev\"\nengine = \"/qatengine.so\"\n",
         "m.toml:9: offload.engine: is of no use with this backend; remove it, or write backend = "
         "\"qatengine\""},
        {"", "[offload]\nworkers = 65\n",
         "m.toml:8: offload.workers: expected an integer from 0 to 64, got 65; write workers = 0"},
        {"", "[offload]\ncores = [4096]\n",
         "m.toml:8: offload.cores: expected a list of integers from 0 to 4095, got 4096; write "
         "cores = []"},
    };
    for (const Refusal& each : refusals) {
        EXPECT_EQ(refused(configuration(each.server, each.tables)),
                  std::vector<std::string>{each.error})
            << each.server << each.tables;
    }
}

/// "table.key" of every line that gives one; a named site is a site.
std::set<std::string> keys_in(std::string_view text) {
    std::set<std::string> keys;
    std::string table;
    while (!text.empty()) {
        std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(text.size(), line.size() + 1));
        if (line.starts_with('[')) {
            const std::size_t first = line.find_first_not_of('[');
            table = line.substr(first, line.find(']') - first);
            if (table.starts_with("site.")) table = "site";
        } else if (const std::size_t end = line.find(" = "); end != std::string_view::npos) {
            keys.insert(table + '.' + std::string{line.substr(0, end)});
        }
    }
    return keys;
}

// Goal: a setting that is added to the table without a case here, or in `everything`, does not go unseen.
TEST_F(PolicyKeys, EverySettingHasACase) {
    std::set<std::string> covered = keys_in(tests::everything);
    covered.merge(keys_in(tests::rules));
    for (const Arrival& each : arrivals)
        covered.insert(each.key);
    // In inline tables of `everything`.
    covered.insert(
        {"port.routes.to", "port.routes.gateway", "pool.members.source", "pool.members.weight"});
    for (const Setting& setting : settings()) {
        if (setting.table == "dkim") continue;  // config_dkim_test.cc has them all
        if (setting.table == "admin") continue; // the control process's own: config_test.cc
        const std::string key = std::string{setting.table} + '.' + std::string{setting.key};
        EXPECT_TRUE(covered.contains(key)) << key << " has no case";
    }
    for (const Arrival& each : arrivals) {
        const std::string key = each.key;
        const std::size_t dot = key.rfind('.');
        EXPECT_NE(find_setting(key.substr(0, dot), key.substr(dot + 1)), nullptr) << key;
    }
}

} // namespace
} // namespace control
