// config_test.cc: what a configuration file means, and what every kind of mistake in one is told.

#include "control/config.h"
#include "control/notation.h"
#include "control/policy_compiler.h"
#include "control/settings.h"
#include "tests/control/temp_folder.h"

#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace control {
namespace {

constexpr std::string_view minimal =
    "[server]\nhostname = \"relay.example.com\"\n"
    "[[listener]]\nname = \"in\"\naddress = \"127.0.0.1:587\"\nkind = \"submission\"\n";

std::vector<std::string> errors_of(std::string_view text) {
    std::vector<std::string> result;
    for (const ConfigError& error : parse_config(text, "m.toml").errors)
        result.push_back(error.to_string());
    return result;
}

struct Mistake {
    std::string name;
    std::string text; // put behind the minimal configuration, whose lines are 1 to 6
    std::vector<std::string> errors;
};

class ConfigMistake : public testing::TestWithParam<Mistake> {};

// Goal: each mistake is told with file, line, key, what was expected and what to do.
TEST_P(ConfigMistake, IsToldWithFileLineKeyAndRemedy) {
    EXPECT_EQ(errors_of(std::string{minimal} + GetParam().text), GetParam().errors);
}

const std::vector<Mistake> mistakes{
    {"UnknownKey",
     "[limits]\nerors_max = 3\n",
     {"m.toml:8: limits.erors_max: unknown key; did you mean errors_max?"}},
    {"UnknownKeyWithoutNeighbour",
     "[dns]\nxyzzyplugh = 3\n",
     {"m.toml:8: dns.xyzzyplugh: unknown key; known here: servers resolver_threads dnssec"}},
    {"UnknownTable", "[limit]\n", {"m.toml:7: limit: unknown table; did you mean [limits]?"}},
    {"WrongType",
     "[limits]\nerrors_max = \"many\"\n",
     {"m.toml:8: limits.errors_max: expected an integer from 1 to 10000, got \"many\"; write "
      "errors_max = 20"}},
    {"TooLarge",
     "[limits]\nauth_failures_max = 101\n",
     {"m.toml:8: limits.auth_failures_max: expected an integer from 1 to 100, got 101; write "
      "auth_failures_max = 3"}},
    {"NotBoolean",
     "[dns]\ndnssec = 1\n",
     {"m.toml:8: dns.dnssec: expected true or false, got 1; write dnssec = false"}},
    {"DurationWithoutUnit",
     "[timeouts]\nconnect = \"60\"\n",
     {"m.toml:8: timeouts.connect: expected a duration from 1s to 1h such as \"90s\", \"5m\" or "
      "\"1h30m\", got \"60\"; write "
      "connect = \"60s\""}},
    {"DurationAsNumber",
     "[timeouts]\nconnect = 60\n",
     {"m.toml:8: timeouts.connect: expected a duration from 1s to 1h such as \"90s\", \"5m\" or "
      "\"1h30m\", got 60; write "
      "connect = \"60s\""}},
    {"SizeOutOfRange",
     "[limits]\nmessage_size = \"1KiB\"\n",
     {"m.toml:8: limits.message_size: expected a size from 64KiB to 2GiB such as \"64MiB\", got "
      "\"1KiB\"; write message_size = "
      "\"50MiB\""}},
    {"UnknownChoice",
     "[site.default]\ntls = \"maybe\"\n",
     {"m.toml:8: site.default.tls: expected \"none\", \"may\", \"encrypt\", \"verify\", "
      "\"dane\", \"dane-only\" or \"secure\", got "
      "\"maybe\"; write tls = \"may\""}},
    {"RateBelowOnePerSecond",
     "[site.default]\nmessage_rate = \"30/min\"\n",
     {"m.toml:8: site.default.message_rate: expected a rate from 0/s to 1000000/s such as "
      "\"100/s\" or \"6000/min\", a whole "
      "number per second, got \"30/min\"; write message_rate = \"0/s\""}},
    {"MissingFile",
     "[screen]\nrules = \"/nowhere/rules.toml\"\n",
     {"m.toml:8: screen.rules: no file can be read at \"/nowhere/rules.toml\"; put it there, "
      "correct the path, or let the user "
      "that runs the relay read it"}},
    {"BadAddress",
     "[[listener]]\nname = \"b\"\naddress = \"localhost:25\"\nkind = \"relay\"\n",
     {"m.toml:9: listener.address: expected \"IP:PORT\" or \"[IPv6]:PORT\", got \"localhost:25\"; "
      "write address = "
      "\"0.0.0.0:587\""}},
    {"MissingKey",
     "[[listener]]\nname = \"b\"\nkind = \"relay\"\n",
     {"m.toml:7: listener.address: is missing, and has no default; write address = "
      "\"0.0.0.0:587\""}},
    {"DuplicateName",
     "[[listener]]\nname = \"in\"\naddress = \"127.0.0.1:25\"\nkind = \"relay\"\n",
     {"m.toml:8: listener.name: the name \"in\" is taken by line 4; give each its own"}},
    {"DuplicateAddress",
     "[[listener]]\nname = \"b\"\naddress = \"127.0.0.1:587\"\nkind = \"relay\"\n",
     {"m.toml:9: listener.address: the address 127.0.0.1:587 is taken by line 5; give each "
      "listener its own"}},
    {"BadNetwork",
     "[relay]\nnetworks = [\"10.0.0.0/8\",\n  \"10.0.0.1/8\"]\n",
     {"m.toml:9: relay.networks: expected a list of networks such as [\"10.0.0.0/8\", "
      "\"2001:db8::1\"], got \"10.0.0.1/8\"; "
      "write networks = []"}},
    {"OpenRelay",
     "[relay]\nnetworks = [\"0.0.0.0/0\"]\n",
     {"m.toml:8: relay.networks: \"0.0.0.0/0\" is everyone, which makes an open relay; list your "
      "own hosts"}},
    {"UnknownSourceInRoute",
     "[[route]]\ndomains = [\"a.example\"]\nsource = \"ip-9\"\n",
     {"m.toml:9: route.source: no [[source]] or [[pool]] is called \"ip-9\"; add it or correct the "
      "name"}},
    {"UnknownSourceInPool",
     "[[pool]]\nname = \"p\"\nmembers = [{ source = \"ip-9\" }]\n",
     {"m.toml:9: pool.members.source: no [[source]] is called \"ip-9\"; add it or correct the "
      "name"}},
    {"PoolCalledAsSource",
     "[[source]]\nname = \"a\"\n[[pool]]\nname = \"a\"\nmembers = [{ source = \"a\" }]\n",
     {"m.toml:10: pool.name: a [[source]] is called \"a\" as well; call one of them something "
      "else"}},
    {"RouteTwice",
     "[[route]]\ndomains = [\"A.example\"]\n[[route]]\ndomains = [\"a.example\"]\n",
     {"m.toml:10: route.domains: \"a.example\" has a route in line 8 already; keep one of them"}},
    {"RouteForNobody",
     "[[route]]\nkind = \"mx\"\n",
     {"m.toml:7: route.domains: expected at least one domain; write domains = [\"example.com\"], "
      "or default = true"}},
    {"SmartHostWithoutHost",
     "[[route]]\ndomains = [\"a.example\"]\nkind = \"smart_host\"\n",
     {"m.toml:7: route.hosts: a smart_host route needs at least one; write hosts = "
      "[\"smart.example.com:25\"]"}},
    {"HostsWithoutSmartHost",
     "[[route]]\ndomains = [\"a.example\"]\nhosts = [\"b.example\"]\n",
     {"m.toml:9: route.hosts: only a smart_host route has hosts; write kind = \"smart_host\", or "
      "remove them"}},
    {"BadHost",
     "[[route]]\ndomains = [\"a.example\"]\nkind = \"smart_host\"\nhosts = [\"b.example:0\"]\n",
     {"m.toml:10: route.hosts: expected a list of hosts such as [\"smart.example.com:25\", "
      "\"mx:example.com\"], got "
      "\"b.example:0\"; write hosts = []"}},
    {"KeyWithoutCertificate",
     "[tls]\nkey = \"/dev/null/x\"\n",
     {"m.toml:8: tls.key: no file can be read at \"/dev/null/x\"; put it there, correct the path, "
      "or let the user that runs the "
      "relay read it",
      "m.toml:7: tls.certificate: is missing; key is of no use without it: give both, or neither "
      "for a self-signed pair"}},
    {"AdminForTheWorld",
     "[admin]\naddress = \"0.0.0.0:8000\"\n",
     {"m.toml:8: admin.address: expected a loopback address, got 0.0.0.0:8000; write address = "
      "\"127.0.0.1:8000\" and put an "
      "authenticating proxy in front"}},
    {"RetryBackwards",
     "[retry]\nfirst = \"2h\"\ninterval_max = \"1h\"\n",
     {"m.toml:9: retry.interval_max: is shorter than retry.first; raise it or lower retry.first"}},
    {"TableAsValue",
     "[retry]\nfirst = { seconds = 5 }\n",
     {"m.toml:8: retry.first: expected a duration from 1s to 1d such as \"90s\", \"5m\" or "
      "\"1h30m\", got a table; write first = "
      "\"5m\""}},
    {"ListOfTablesAsTable",
     "[source]\nname = \"a\"\n",
     {"m.toml:7: source: expected a list of tables; write [[source]] above each"}},
};
INSTANTIATE_TEST_SUITE_P(All, ConfigMistake, testing::ValuesIn(mistakes),
                         [](const auto& each) { return each.param.name; });

// A port in lines 7 to 10; what is behind it begins in line 11.
constexpr std::string_view port = "[[port]]\nname = \"wan\"\ndevice = \"net_memif0,id=0\"\n"
                                  "addresses = [\"192.0.2.10/24\", \"2001:db8::10/64\"]\n";

class PortMistake : public testing::TestWithParam<Mistake> {};

TEST_P(PortMistake, IsToldWithFileLineKeyAndRemedy) {
    EXPECT_EQ(errors_of(std::string{minimal} + std::string{port} + GetParam().text),
              GetParam().errors);
}

const std::vector<Mistake> port_mistakes{
    {"VlanTooLarge",
     "vlan = 4095\n",
     {"m.toml:11: port.vlan: expected an integer from 0 to 4094, got 4095; write vlan = 0"}},
    {"MtuTooSmallForIpv6",
     "mtu = 1279\n",
     {"m.toml:11: port.mtu: expected at least 1280, which IPv6 needs, got 1279; raise it or remove "
      "the port's IPv6 addresses"}},
    {"GatewayInNoNetwork",
     "routes = [{ to = \"10.0.0.0/8\", gateway = \"192.0.2.1\" },\n"
     "  { to = \"0.0.0.0/0\", gateway = \"192.0.3.1\" }]\n",
     {"m.toml:12: port.routes.gateway: 192.0.3.1 is in no network of the port's addresses, so it "
      "cannot be reached; correct it, or the prefix of an address"}},
    {"GatewayOfTheOtherFamily",
     "routes = [{ to = \"::/0\", gateway = \"192.0.2.1\" }]\n",
     {"m.toml:11: port.routes.gateway: expected an address of the same family as ::/0, got "
      "192.0.2.1"}},
    {"GatewayIsOurselves",
     "routes = [{ to = \"::/0\", gateway = \"2001:db8::10\" }]\n",
     {"m.toml:11: port.routes.gateway: 2001:db8::10 is our own address; write the router's"}},
    {"RouteTwice",
     "[[port.routes]]\nto = \"::/0\"\ngateway = \"fe80::1\"\n"
     "[[port.routes]]\nto = \"::/0\"\ngateway = \"fe80::2\"\n",
     {"m.toml:15: port.routes.to: ::/0 has a route in line 12 already; keep one of them"}},
    {"RouteWithHostBits",
     "routes = [{ to = \"10.0.0.1/8\", gateway = \"192.0.2.1\" }]\n",
     {"m.toml:11: port.routes.to: expected a network such as \"192.0.2.0/24\" or \"::/0\", got "
      "\"10.0.0.1/8\"; write to = \"0.0.0.0/0\""}},
    {"NoDevice",
     "[[port]]\nname = \"b\"\ndevice = \"eth0\"\naddresses = [\"192.0.2.11/24\"]\n",
     {"m.toml:13: port.device: expected a PCI address such as \"0000:3b:00.0\", or a virtual "
      "device "
      "such as \"net_af_packet0,iface=veth1\", got \"eth0\"; write device = \"0000:3b:00.0\""}},
    {"DeviceTwice",
     "[[port]]\nname = \"b\"\ndevice = \"net_memif0,id=1\"\naddresses = [\"192.0.2.11/24\"]\n",
     {"m.toml:13: port.device: the device net_memif0 is taken by line 9; a device is one "
      "[[port]]"}},
    {"AddressOnTwoPorts",
     "[[port]]\nname = \"b\"\ndevice = \"3b:00.1\"\naddresses = [\"192.0.2.11/24\",\n"
     "  \"192.0.2.10/32\"]\n",
     {"m.toml:15: port.addresses: the address 192.0.2.10 is there twice, first in line 10; keep "
      "one "
      "of them"}},
    {"AddressesThatNoHostHas",
     "[[port]]\nname = \"b\"\ndevice = \"3b:00.1\"\naddresses = [\"10.0.0.0/8\",\n"
     "  \"10.255.255.255/8\", \"224.0.0.1/24\", \"2001:db8::/64\", \"127.0.0.1/8\"]\n",
     {"m.toml:14: port.addresses: \"10.0.0.0/8\" is the network itself; write the address of the "
      "host in it",
      "m.toml:15: port.addresses: \"10.255.255.255/8\" is the network's broadcast address; write "
      "the host's own",
      "m.toml:15: port.addresses: \"224.0.0.1/24\" is no address that one host can have; write the "
      "host's own",
      "m.toml:15: port.addresses: \"2001:db8::/64\" is the network itself; write the address of "
      "the "
      "host in it",
      "m.toml:15: port.addresses: \"127.0.0.1/8\" is no address that one host can have; write the "
      "host's own"}},
    {"AddressWithoutPrefix",
     "[[port]]\nname = \"b\"\ndevice = \"3b:00.1\"\naddresses = [\"10.0.0.1\"]\n",
     {"m.toml:14: port.addresses: expected a list of addresses of hosts with their network's "
      "prefix "
      "such as [\"192.0.2.10/24\", \"2001:db8::10/64\"], got \"10.0.0.1\"; write addresses = "
      "[\"192.0.2.10/24\"]"}},
    {"ListenerElsewhere",
     "[[listener]]\nname = \"d\"\naddress = \"192.0.2.11:25\"\nkind = \"relay\"\ntransport = "
     "\"dpdk\"\n",
     {"m.toml:13: listener.address: 192.0.2.11 is no address of a [[port]], as transport = "
      "\"dpdk\" "
      "needs; add it to one, or write 0.0.0.0 for all of them"}},
    {"SourceElsewhere",
     "[[source]]\nname = \"s\"\ntransport = \"dpdk\"\naddress_v4 = \"192.0.2.10\"\naddress_v6 = "
     "\"2001:db8::11\"\n",
     {"m.toml:15: source.address_v6: 2001:db8::11 is no address of a [[port]], as transport = "
      "\"dpdk\" needs; add it to one, or write transport = \"kernel\""}},
    {"ArgumentsThatSettingsMake",
     "[dpdk]\ndriver_args = [\"--log-level=8\", \"--no-huge\",\n  \"-m512\", \"--lcores=0\"]\n",
     {"m.toml:12: dpdk.driver_args: \"--no-huge\" is said by dpdk.hugepages; set that, and remove "
      "it here",
      "m.toml:13: dpdk.driver_args: \"-m512\" is said by dpdk.memory_mb; set that, and remove it "
      "here",
      "m.toml:13: dpdk.driver_args: \"--lcores=0\" is said by server.cpus; set that, and remove it "
      "here"}},
    {"CryptoDeviceOfAnotherBackend",
     "[offload]\nbackend = \"threads\"\ndevice = \"crypto_openssl\"\n",
     {"m.toml:13: offload.device: is of no use with this backend; remove it, or write backend = "
      "\"cryptodev\""}},
    {"SleepOfWhoNeverSleeps",
     "[dpdk]\nidle_sleep_us = 5\n",
     {"m.toml:12: dpdk.idle_sleep_us: is of no use while shards never sleep; write busy_poll = "
      "false, or remove it"}},
    {"WindowTooLarge",
     "[tcp]\nreceive_buffer_max = \"16MiB\"\n",
     {"m.toml:12: tcp.receive_buffer_max: expected a size from 16KiB to 8MiB such as \"64MiB\", "
      "got "
      "\"16MiB\"; write receive_buffer_max = \"512KiB\""}},
};
INSTANTIATE_TEST_SUITE_P(All, PortMistake, testing::ValuesIn(port_mistakes),
                         [](const auto& each) { return each.param.name; });

TEST(ConfigNetwork, DpdkWithoutAPortIsRefusedWhereItIsSaid) {
    EXPECT_EQ(errors_of(std::string{minimal} +
                        "transport = \"dpdk\"\n[[source]]\nname = \"s\"\ntransport = \"dpdk\"\n"),
              (std::vector<std::string>{"m.toml:7: listener.transport: dpdk needs a [[port]], and "
                                        "there is none; add it, or write transport = \"kernel\"",
                                        "m.toml:10: source.transport: dpdk needs a [[port]], and "
                                        "there is none; add it, or write transport = \"kernel\""}));
    EXPECT_EQ(
        errors_of("[server]\nhostname = \"a\"\negress_transport = \"dpdk\"\n" +
                  std::string{minimal.substr(minimal.find("[[listener"))}),
        (std::vector<std::string>{
            "m.toml:3: server.egress_transport: dpdk needs a [[port]], and there is none; add "
            "it, or write egress_transport = \"kernel\""}));
}

TEST(ConfigNetwork, WildcardNeedsAnAddressOfItsFamily) {
    const auto with = [](const std::string& addresses, const std::string& listener) {
        return errors_of(std::string{minimal} +
                         "[[port]]\nname = \"p\"\ndevice = \"net_tap0\"\naddresses = [\"" +
                         addresses + "\"]\n[[listener]]\nname = \"d\"\naddress = \"" + listener +
                         "\"\nkind = \"relay\"\ntransport = \"dpdk\"\n")
            .size();
    };
    EXPECT_EQ(with("192.0.2.10/24", "0.0.0.0:25"), 0u);
    EXPECT_EQ(with("2001:db8::1/64", "[::]:25"), 0u);
    EXPECT_EQ(with("192.0.2.10/24", "[::]:25"), 1u);
    EXPECT_EQ(with("2001:db8::1/64", "0.0.0.0:25"), 1u);
}

// Goal: the same address and port may be listened on twice, once by each transport, for they share
// nothing.
TEST(ConfigNetwork, EachTransportHasItsOwnPorts) {
    const std::string listener = "[[listener]]\nname = \"d\"\naddress = \"0.0.0.0:587\"\nkind = "
                                 "\"relay\"\n";
    const std::string kernel = std::string{minimal} + std::string{port} + listener;
    EXPECT_TRUE(errors_of(kernel + "transport = \"dpdk\"\n[[listener]]\nname = \"e\"\naddress = "
                                   "\"0.0.0.0:587\"\nkind = \"relay\"\n")
                    .empty());
    EXPECT_EQ(errors_of(kernel + "transport = \"dpdk\"\n[[listener]]\nname = \"e\"\naddress = "
                                 "\"0.0.0.0:587\"\nkind = \"relay\"\ntransport = \"dpdk\"\n")
                  .size(),
              1u);
}

TEST(ConfigNetwork, WhatIsConfiguredAndUnusedIsWarnedOf) {
    const auto warnings = [](const std::string& text) {
        const auto result = parse_config(std::string{minimal} + text, "m.toml");
        EXPECT_TRUE(result.errors.empty()) << result.errors.front().to_string();
        return result.warnings;
    };
    EXPECT_EQ(warnings("[tcp]\necn = false\n"),
              (std::vector<std::string>{
                  "[tcp] is for transport = \"dpdk\", which needs a [[port]]; there is none"}));
    EXPECT_EQ(warnings(std::string{port}),
              (std::vector<std::string>{"there is a [[port]], and no listener or source with "
                                        "transport = \"dpdk\" uses it"}));
    EXPECT_EQ(warnings(std::string{port} + "[[source]]\nname = \"s\"\ntransport = \"dpdk\"\n"),
              std::vector<std::string>{});
    EXPECT_EQ(warnings(std::string{port} +
                       "[[listener]]\nname = \"k\"\naddress = \"192.0.2.10:25\"\nkind = \"relay\"\n"
                       "[[source]]\nname = \"s\"\ntransport = \"dpdk\"\n")
                  .size(),
              1u)
        << "a kernel listener on a port's address";
    EXPECT_EQ(warnings(std::string{port} +
                       "[[port]]\nname = \"b\"\ndevice = \"3b:00.0\"\naddresses = "
                       "[\"198.51.100.1/24\"]\n[[source]]\nname = \"s\"\ntransport = \"dpdk\"\n"),
              (std::vector<std::string>{
                  "there are 2 [[port]], and this version of millraced starts with one only"}));
}

TEST(ConfigNetwork, ThousandsOfAddressesAreReadInAMoment) {
    std::string text{minimal};
    text += "[[port]]\nname = \"p\"\ndevice = \"net_tap0\"\naddresses = [";
    constexpr int count = 20'000;
    for (int index = 1; index <= count; ++index) {
        text += "\"10.1." + std::to_string(index / 250) + "." + std::to_string(1 + index % 250) +
                "/16\",\n";
    }
    text += "]\nroutes = [{ to = \"0.0.0.0/0\", gateway = \"10.1.255.254\" }]\n";
    const auto result = parse_config(text, "m.toml");
    ASSERT_TRUE(result.errors.empty()) << result.errors.front().to_string();
    EXPECT_EQ(result.config.policy.start_up->ports.at(0)->addresses.size(), std::size_t{count});
}

TEST(Config, CollectsEveryErrorOfTheFileNotOnlyTheFirst) {
    const auto errors =
        errors_of("[server]\nshards = 65\nfrobnicate = 1\n[limits]\nrecipients_max = 3\n");
    ASSERT_EQ(errors.size(), 5u);
    EXPECT_EQ(errors[0].substr(0, 27), "m.toml:3: server.frobnicate");
    EXPECT_EQ(errors[1], "m.toml:1: server.hostname: is missing, and has no default; write "
                         "hostname = \"relay.example.com\"");
    EXPECT_EQ(
        errors[2],
        "m.toml:2: server.shards: expected an integer from 1 to 64, got 65; write shards = 1");
    EXPECT_EQ(errors[3].substr(0, 18), "m.toml:1: listener");
    EXPECT_EQ(errors[4].substr(0, 32), "m.toml:5: limits.recipients_max:");
}

TEST(Config, SyntaxErrorNamesItsLineAndNothingElse) {
    const auto errors = errors_of("[server]\nhostname = relay\n");
    ASSERT_EQ(errors.size(), 1u);
    EXPECT_EQ(errors[0].substr(0, 20), "m.toml:2: not TOML: ");
}

TEST(Config, MissingFileIsOneError) {
    const ConfigResult result = load_config("/nowhere/millrace.toml");
    ASSERT_EQ(result.errors.size(), 1u);
    EXPECT_EQ(result.errors[0].to_string(),
              "/nowhere/millrace.toml: no such file; give the path of a TOML file that is there");
}

// Goal: no setting is in the table and forgotten by the reader. Method: each is given a date, which
// none is.
TEST(Config, EverySettingOfTheTableIsReadAndChecked) {
    for (const Setting& setting : settings()) {
        if (setting.table == "rule") continue;
        std::string text{minimal};
        const std::string line = std::string{setting.key} + " = 2020-01-01\n";
        if (setting.table == "server") {
            text = "[server]\n" + line +
                   (setting.key == "hostname" ? "" : "hostname = \"a.example\"\n") +
                   text.substr(text.find("[[listener"));
        } else if (setting.table == "listener") {
            text = "[server]\nhostname = \"a.example\"\n[[listener]]\n" + line;
        } else if (setting.table == "pool.members") {
            text += "[[pool]]\nname = \"p\"\n[[pool.members]]\n" + line;
        } else if (setting.table == "site") {
            text += "[site.default]\n" + line;
        } else if (setting.table == "port.routes") {
            text += "[[port]]\nname = \"p\"\n[[port.routes]]\n" + line;
        } else if (setting.table == "source" || setting.table == "pool" ||
                   setting.table == "route" || setting.table == "port" || setting.table == "dkim" ||
                   setting.table == "certificate") {
            text += "[[" + std::string{setting.table} + "]]\n" + line;
        } else {
            text += "[" + std::string{setting.table} + "]\n" + line;
        }
        const std::string key = setting.table == "site"
                                    ? "site.default." + std::string{setting.key}
                                    : std::string{setting.table} + "." + std::string{setting.key};
        bool told = false;
        for (const ConfigError& error : parse_config(text, "m.toml").errors)
            told |= error.key == key && error.text.starts_with("expected ");
        EXPECT_TRUE(told) << key;
    }
}

TEST(Config, DefaultsOfTheTablePassTheirOwnChecks) {
    const ConfigResult result = parse_config(minimal, "/etc/millrace/m.toml");
    ASSERT_TRUE(result.errors.empty()) << result.errors.front().to_string();
    EXPECT_EQ(result.config.policy.start_up->event_log, "/var/lib/millrace/events.jsonl");
    EXPECT_EQ(result.config.admin_token_file, "/run/millrace/admin.token");
    EXPECT_EQ(result.config.control_socket(), "/run/millrace/control.sock");
    ASSERT_EQ(result.config.policy.sources.size(), 1u);
    EXPECT_EQ(result.config.policy.sources[0]->name, "default");
    EXPECT_EQ(result.config.policy.retry->expiry_s, 5u * 86400u);
}

TEST(Config, NamedSiteTakesFromTheDefaultWhatItDoesNotSay) {
    const auto result =
        parse_config(std::string{minimal} +
                         "[site.default]\nconnections_max = 7\ntls = \"encrypt\"\n"
                         "[site.\"Big.Example\"]\nconnections_max = 50\n"
                         "[[route]]\ndomains = [\"a.example\"]\n[route.shaping]\nidle = \"1m\"\n",
                     "m.toml");
    ASSERT_TRUE(result.errors.empty()) << result.errors.front().to_string();
    ASSERT_EQ(result.config.policy.sites.size(), 1u);
    const auto& site = *result.config.policy.sites[0];
    EXPECT_EQ(site.name, "big.example");
    EXPECT_EQ(site.connections_max, 50u);
    EXPECT_EQ(site.tls, schema::TlsLevel::encrypt);
    const auto& shaping = *result.config.policy.routes.at(0)->shaping;
    EXPECT_EQ(shaping.connections_max, 7u);
    EXPECT_EQ(shaping.idle_s, 60u);
}

TEST(Config, HostsOfARouteAreNamesAddressesOrMx) {
    const auto result = parse_config(
        std::string{minimal} + "[[route]]\ndefault = true\nkind = \"smart_host\"\nport = 2525\n"
                               "hosts = [\"a.example\", \"127.0.0.1:26\", \"[::1]:27\", "
                               "\"mx:B.example\", \"mx:c.example:28\"]\n",
        "m.toml");
    ASSERT_TRUE(result.errors.empty()) << result.errors.front().to_string();
    const auto& hosts = result.config.policy.default_route->hosts;
    ASSERT_EQ(hosts.size(), 5u);
    EXPECT_EQ(hosts[0]->name, "a.example");
    EXPECT_EQ(hosts[0]->port, 2525);
    EXPECT_EQ(hosts[1]->name, "127.0.0.1");
    EXPECT_EQ(hosts[1]->port, 26);
    EXPECT_EQ(hosts[2]->name, "::1");
    EXPECT_EQ(hosts[2]->port, 27);
    EXPECT_TRUE(hosts[3]->mx_lookup);
    EXPECT_EQ(hosts[3]->name, "b.example");
    EXPECT_EQ(hosts[3]->port, 2525);
    EXPECT_EQ(hosts[4]->port, 28);
}

TEST(ConfigRules, BadPatternIsRefusedWithFileLineRuleAndReason) {
    const tests::TempFolder folder;
    const std::string rules = folder.write(
        "rules.toml", "[[rule]]\nname = \"good\"\npattern = 'spam'\naction = \"reject\"\n"
                      "[[rule]]\nname = \"bad\"\npattern = 'a(b'\naction = \"reject\"\n");
    const std::string file =
        folder.write("m.toml", std::string{minimal} + "[screen]\nrules = \"rules.toml\"\n");
    ConfigResult result = load_config(file);
    ASSERT_TRUE(result.errors.empty()) << result.errors.front().to_string();
    const auto errors = compile_screening(result.config);
    ASSERT_EQ(errors.size(), 1u);
    EXPECT_EQ(errors[0].to_string().substr(0, rules.size() + 27),
              rules + ":7: rule.pattern of \"bad\": ");
    EXPECT_NE(errors[0].text.find("arenthesis"), std::string::npos) << errors[0].text;
}

TEST(ConfigRules, MistakesInARuleAreTold) {
    ConfigResult result = parse_config(minimal, "m.toml");
    parse_rules("[[rule]]\nname = \"a\"\npattern = 'x'\naction = \"tag\"\n[[rule]]\nname = "
                "\"a\"\npattern = ''\naction = \"score\"\n"
                "[[rule]]\nname = \"c\"\npattern = 'x'\naction = \"reject\"\nflags = "
                "\"iz\"\nheader = \"X\"\ntext = \"a\\nb\"\n",
                "r.toml", result.config, result.errors);
    std::vector<std::string> errors;
    for (const ConfigError& error : result.errors)
        errors.push_back(error.to_string());
    EXPECT_EQ(errors,
              (std::vector<std::string>{
                  "r.toml:1: rule.header: a tag rule needs the name of a header; write header = "
                  "\"X-Screened\"",
                  "r.toml:6: rule.name: the name \"a\" is taken by line 2; give each its own",
                  "r.toml:7: rule.pattern: expected an expression, got \"\", which is everywhere",
                  "r.toml:5: rule.score: a score rule needs one other than 0; write score = 5",
                  "r.toml:13: rule.flags: expected some of the letters i, s, m, u and w, got "
                  "\"iz\"; write flags = \"i\"",
                  "r.toml:15: rule.text: expected one line of printable ASCII: it goes into an "
                  "SMTP reply",
                  "r.toml:14: rule.header: only a tag rule has one; write action = \"tag\", or "
                  "remove it"}));
}

TEST(Notation, DurationsSizesAndRates) {
    const auto duration = [](std::string_view text) {
        std::uint64_t seconds = 0;
        return parse_duration(text, seconds) ? static_cast<std::int64_t>(seconds) : -1;
    };
    EXPECT_EQ(duration("90s"), 90);
    EXPECT_EQ(duration("1h30m"), 5400);
    EXPECT_EQ(duration("2 hours"), 7200);
    EXPECT_EQ(duration("3 days"), 259200);
    EXPECT_EQ(duration("5"), -1);
    EXPECT_EQ(duration(""), -1);
    EXPECT_EQ(duration("-5s"), -1);
    EXPECT_EQ(duration("99999999999999999999s"), -1);
    std::uint64_t bytes = 0;
    EXPECT_TRUE(parse_size("64MiB", bytes));
    EXPECT_EQ(bytes, 64u << 20);
    EXPECT_FALSE(parse_size("64MB", bytes)); // 64,000,000 or 67,108,864? Say which.
    EXPECT_FALSE(parse_size("99999999TiB", bytes));
    double rate = 0;
    EXPECT_TRUE(parse_rate("6000/min", rate));
    EXPECT_DOUBLE_EQ(rate, 100);
    EXPECT_TRUE(parse_rate("36,000/hr", rate));
    EXPECT_DOUBLE_EQ(rate, 10);
    EXPECT_FALSE(parse_rate("100", rate));
}

TEST(Notation, DevicesAreWrittenAsDpdkWritesThem) {
    EXPECT_EQ(normal_device("0000:3b:00.0"), "0000:3b:00.0");
    EXPECT_EQ(normal_device("3B:00.1,txq_inline=0"), "0000:3b:00.1,txq_inline=0");
    EXPECT_EQ(normal_device("net_memif0,role=client,id=0,socket=/run/m.sock"),
              "net_memif0,role=client,id=0,socket=/run/m.sock");
    for (const std::string_view wrong :
         {"", "eth0", "net_", "net_tap0,", "net_tap0,a b", "net_Tap0", "0000:3b:00.8", "3b:00",
          "00000:3b:00.0", "0000:3g:00.0", "3b-00.0", "net_tap0\n"}) {
        EXPECT_EQ(normal_device(wrong), "") << wrong;
    }
    EXPECT_EQ(normal_device("net_" + std::string(60, 'a')), "") << "longer than DPDK keeps";
}

std::string page_in_the_tree(std::string_view name) {
    std::ifstream stream(std::string{MILLRACE_SOURCE_ROOT} + "/docs/" + std::string{name},
                         std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(Documentation, ConfigurationPageSaysWhatTheCodeSays) {
    EXPECT_EQ(page_in_the_tree("configuration.md"), settings_page())
        << "write it anew: millracectl config-doc > docs/configuration.md";
}

TEST(Documentation, DpdkExampleIsRight) {
    const ConfigResult result =
        parse_config(page_in_the_tree("examples/dpdk.toml"), "/etc/millrace/millrace.toml");
    EXPECT_TRUE(result.errors.empty()) << result.errors.front().to_string();
    EXPECT_TRUE(result.warnings.empty()) << result.warnings.front();
    EXPECT_EQ(result.config.policy.start_up->ports.size(), 1u);
}

TEST(Documentation, ExamplesAreRight) {
    ConfigResult result =
        parse_config(page_in_the_tree("examples/millrace.toml"), "/etc/millrace/millrace.toml");
    EXPECT_TRUE(result.errors.empty()) << result.errors.front().to_string();
    parse_rules(page_in_the_tree("examples/rules.toml"), "rules.toml", result.config,
                result.errors);
    EXPECT_TRUE(result.errors.empty()) << result.errors.front().to_string();
    const auto errors = compile_screening(result.config);
    EXPECT_TRUE(errors.empty()) << errors.front().to_string();
    EXPECT_EQ(result.config.patterns.size(), 3u);
}

} // namespace
} // namespace control
