// policy_compiler_test.cc: what the configuration says arrives in the data plane, field by field.

#include "control/policy_compiler.h"
#include "dataplane/policy/snapshot.h"
#include "tests/control/everything.h"
#include "tests/control/temp_folder.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace control {
namespace {

namespace policy = dataplane::policy;

class Snapshot : public testing::Test {
protected:
    Config config() {
        std::string text{tests::everything};
        const auto replace = [&](const std::string& word, const std::string& with) {
            for (std::size_t at = text.find(word); at != std::string::npos;
                 at = text.find(word, at + with.size())) {
                text.replace(at, word.size(), with);
            }
        };
        replace("\"CERT\"", '"' + folder_.write("cert.pem", "x") + '"');
        replace("\"RULES\"", '"' + folder_.write("rules.toml", tests::rules) + '"');
        ConfigResult result = parse_config(text, "m.toml");
        if (!result.errors.empty()) throw std::runtime_error(result.errors.front().to_string());
        if (const auto errors = compile_screening(result.config); !errors.empty())
            throw std::runtime_error(errors.front().to_string());
        return std::move(result.config);
    }
    tests::TempFolder folder_;
};

TEST_F(Snapshot, EveryFieldArrivesInTheDataPlane) {
    using namespace std::chrono_literals;
    Config from = config();
    const std::vector<Account> accounts{
        {.name = "app",
         .enabled = false,
         .generation = 51,
         .tenant = "t",
         .source = "p1",
         .sender_domains = {"a.example"},
         .messages_per_hour_max = 52},
        {.name = "lost", .enabled = true, .generation = 53, .source = "gone"}};
    EXPECT_EQ(add_accounts(from.policy, accounts).size(), 1u) << "the source that is not there";
    const std::string file = folder_.file("policy.snapshot");
    ASSERT_EQ(publish_snapshot(from.policy, file), 1u);
    struct stat status{};
    ASSERT_EQ(stat(file.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600);
    const auto loaded = policy::load_snapshot(file);
    ASSERT_TRUE(loaded) << loaded.error().text;
    const policy::Policy& to = **loaded;

    EXPECT_EQ(to.version, 1u);
    EXPECT_EQ(to.hostname, "relay.example.com");
    EXPECT_EQ(to.start_up.shards, 2u);
    EXPECT_EQ(to.start_up.cpus, (std::vector<int>{3, 1}));
    EXPECT_EQ(to.start_up.state_dir, "/tmp/s");
    EXPECT_EQ(to.start_up.run_dir, "/tmp/r");
    EXPECT_EQ(to.start_up.spool_dir, "/tmp/q");
    EXPECT_EQ(to.start_up.event_log, "/tmp/e.jsonl");
    EXPECT_EQ(to.start_up.spool_bytes_per_shard, 256u << 20);
    EXPECT_EQ(to.start_up.spool_segment_bytes, 16u << 20);
    EXPECT_EQ(to.start_up.resident_bytes_per_shard, 32u << 20);
    EXPECT_EQ(to.start_up.dns_servers, (std::vector<std::string>{"127.0.0.1@5353"}));
    EXPECT_EQ(to.start_up.resolver_threads, 2u);
    EXPECT_TRUE(to.start_up.dnssec);
    EXPECT_FALSE(to.start_up.busy_poll);
    EXPECT_EQ(to.bare_newline, policy::BareNewline::normalise);

    EXPECT_EQ(to.start_up.offload.backend, policy::OffloadPolicy::Backend::threads);
    EXPECT_EQ(to.start_up.offload.workers, 3u);
    EXPECT_EQ(to.start_up.offload.cores, (std::vector<int>{5, 6}));
    EXPECT_FALSE(to.start_up.dpdk.hugepages);
    EXPECT_EQ(to.start_up.dpdk.memory_mb, 99u);
    EXPECT_FALSE(to.start_up.dpdk.busy_poll);
    EXPECT_EQ(to.start_up.dpdk.idle_sleep, 7us);
    EXPECT_EQ(to.start_up.dpdk.driver_args, (std::vector<std::string>{"--log-level=8"}));
    EXPECT_EQ(to.start_up.dpdk.file_prefix, "mill");
    ASSERT_EQ(to.start_up.ports.size(), 2u);
    const policy::PortPolicy& port = to.start_up.ports[0];
    EXPECT_EQ(port.name, "wan");
    EXPECT_EQ(port.device, "net_tap0,iface=x");
    EXPECT_FALSE(port.is_pci());
    ASSERT_EQ(port.addresses.size(), 3u);
    EXPECT_EQ(port.addresses[0].ip.to_string(), "192.0.2.1");
    EXPECT_EQ(port.addresses[0].prefix_bits, 24u);
    EXPECT_EQ(port.addresses[1].ip.to_string(), "2001:db8::1");
    EXPECT_EQ(port.addresses[1].prefix_bits, 64u);
    EXPECT_EQ(port.addresses[2].prefix_bits, 32u);
    EXPECT_EQ(port.vlan, 7);
    EXPECT_EQ(port.mtu, 1400);
    ASSERT_EQ(port.routes.size(), 2u);
    EXPECT_EQ(port.routes[0].destination, *base::Network::parse("0.0.0.0/0"));
    EXPECT_EQ(port.routes[0].gateway.to_string(), "192.0.2.254");
    EXPECT_EQ(port.routes[1].destination, *base::Network::parse("2001:db8:1::/48"));
    EXPECT_EQ(port.routes[1].gateway.to_string(), "fe80::1");
    EXPECT_EQ(to.start_up.ports[1].device, "0000:3b:00.0");
    EXPECT_TRUE(to.start_up.ports[1].is_pci());
    EXPECT_FALSE(to.start_up.ports[1].vlan);
    EXPECT_EQ(to.start_up.tcp.congestion, policy::TcpPolicy::Congestion::new_reno);
    EXPECT_FALSE(to.start_up.tcp.ecn);
    EXPECT_EQ(to.start_up.tcp.initial_window_segments, 3u);
    EXPECT_EQ(to.start_up.tcp.receive_bytes_max, 64u << 10);
    EXPECT_EQ(to.start_up.tcp.send_bytes_max, 32u << 10);
    EXPECT_EQ(to.start_up.tcp.keepalive_idle, 61s);
    EXPECT_EQ(to.start_up.tcp.user_timeout, 62s);
    EXPECT_EQ(to.start_up.tcp.time_wait, 63s);
    EXPECT_EQ(to.start_up.tcp.connections_max, 64000u);
    EXPECT_EQ(to.listeners.at(0).transport, policy::TransportKind::kernel);
    EXPECT_EQ(to.listeners.at(1).transport, policy::TransportKind::dpdk);
    EXPECT_EQ(to.sources.at(0).transport, policy::TransportKind::dpdk);
    EXPECT_EQ(to.sources.at(1).transport, policy::TransportKind::kernel);

    ASSERT_EQ(to.listeners.size(), 2u);
    EXPECT_EQ(to.listeners[0].name, "l1");
    EXPECT_EQ(to.listeners[0].address.to_string(), "127.0.0.1:2525");
    EXPECT_EQ(to.listeners[0].kind, policy::ListenerKind::relay);
    EXPECT_TRUE(to.listeners[0].proxy_protocol);
    EXPECT_TRUE(to.listeners[0].allow_plain_auth);
    EXPECT_EQ(to.listeners[0].connections_max, 17u);
    EXPECT_EQ(to.listeners[1].kind, policy::ListenerKind::submissions);
    EXPECT_EQ(to.listeners[1].address.to_string(), "[2001:db8::1]:465");
    EXPECT_FALSE(to.listeners[1].proxy_protocol);
    EXPECT_TRUE(to.is_relay_client(*base::IpAddress::parse("2001:db8::7")));
    EXPECT_FALSE(to.is_relay_client(*base::IpAddress::parse("127.0.0.2")));
    ASSERT_EQ(to.proxy_networks.size(), 1u);
    EXPECT_EQ(to.proxy_networks[0].prefix_bits, 8u);

    EXPECT_EQ(to.limits.message_bytes_max, 1u << 20);
    EXPECT_EQ(to.limits.recipients_max, 101u);
    EXPECT_EQ(to.limits.errors_max, 2u);
    EXPECT_EQ(to.limits.messages_per_session_max, 3u);
    EXPECT_EQ(to.limits.connections_per_client_max, 4u);
    EXPECT_EQ(to.limits.auth_failures_max, 5u);
    EXPECT_EQ(to.limits.received_headers_max, 16u);
    EXPECT_EQ(to.timeouts.command, 11s);
    EXPECT_EQ(to.timeouts.data_block, 12s);
    EXPECT_EQ(to.timeouts.tls_handshake, 13s);
    EXPECT_EQ(to.timeouts.session_max, 74s);
    EXPECT_EQ(to.timeouts.connect, 15s);
    EXPECT_EQ(to.timeouts.greeting, 16s);
    EXPECT_EQ(to.timeouts.helo, 17s);
    EXPECT_EQ(to.timeouts.mail, 18s);
    EXPECT_EQ(to.timeouts.rcpt, 19s);
    EXPECT_EQ(to.timeouts.data_init, 20s);
    EXPECT_EQ(to.timeouts.data_send, 21s);
    EXPECT_EQ(to.timeouts.data_done, 22s);
    EXPECT_EQ(to.timeouts.idle, 23s);
    EXPECT_EQ(to.tls.certificate_file, folder_.file("cert.pem"));
    EXPECT_EQ(to.tls.key_file, folder_.file("cert.pem"));
    EXPECT_EQ(to.tls.ca_file, folder_.file("cert.pem"));
    EXPECT_TRUE(to.tls.modern);
    EXPECT_TRUE(to.tls.ocsp_file.ends_with("/ocsp.der")) << to.tls.ocsp_file;
    EXPECT_EQ(to.tls.client_certificates, policy::TlsPolicy::ClientCertificates::request);
    EXPECT_FALSE(to.tls.client_ca_file.empty());
    EXPECT_EQ(to.tls.crl_file, folder_.file("cert.pem"));
    EXPECT_EQ(to.tls.client_crl_file, folder_.file("cert.pem"));
    EXPECT_EQ(to.start_up.openssl_relief, policy::OpensslRelief::off);
    ASSERT_EQ(to.tls.certificates.size(), 1U);
    EXPECT_EQ(to.tls.certificates[0].names, (std::vector<std::string>{"*.mail.example"}));
    EXPECT_TRUE(to.tls.certificates[0].is_default);

    const policy::AccountPolicy* app = to.account("APP");
    ASSERT_NE(app, nullptr);
    EXPECT_EQ(app->generation, 51u);
    EXPECT_FALSE(app->enabled);
    EXPECT_EQ(app->tenant, "t");
    EXPECT_EQ(app->source, "p1");
    EXPECT_EQ(app->sender_domains, (std::vector<std::string>{"a.example"}));
    EXPECT_EQ(app->messages_per_hour_max, 52u);
    EXPECT_TRUE(to.account("lost")->enabled);
    EXPECT_EQ(to.account("lost")->source, "");

    ASSERT_EQ(to.sources.size(), 2u);
    EXPECT_EQ(to.sources[0].address_v4->to_string(), "192.0.2.1");
    EXPECT_EQ(to.sources[0].address_v6->to_string(), "2001:db8::1");
    EXPECT_EQ(to.sources[0].helo_name, "out.example.com");
    EXPECT_FALSE(to.sources[1].address_v4);
    EXPECT_EQ(to.source_index.at("s2"), 1u);
    const policy::PoolPolicy& pool = to.pools.at("p1");
    ASSERT_EQ(pool.members.size(), 2u);
    EXPECT_EQ(pool.members[0].source_index, 1u);
    EXPECT_EQ(pool.members[0].weight, 9u);
    EXPECT_EQ(pool.members[1].weight, 1u);

    const policy::RoutePolicy& route = to.default_route;
    EXPECT_EQ(route.kind, policy::RoutePolicy::Kind::smart_host);
    ASSERT_EQ(route.hosts.size(), 2u);
    EXPECT_EQ(route.hosts[0].name, "hub.example");
    EXPECT_EQ(route.hosts[0].port, 26);
    EXPECT_FALSE(route.hosts[0].mx_lookup);
    EXPECT_TRUE(route.hosts[1].mx_lookup);
    EXPECT_EQ(route.hosts[1].port, 27);
    EXPECT_EQ(route.port, 27);
    EXPECT_EQ(route.source, "p1");
    ASSERT_TRUE(route.shaping);
    EXPECT_EQ(route.shaping->connections_max, 1u);
    EXPECT_EQ(route.shaping->messages_per_connection_max, 2u);
    EXPECT_EQ(route.shaping->recipients_per_message_max, 3u);
    EXPECT_EQ(route.shaping->messages_per_second_max, 4u);
    EXPECT_EQ(route.shaping->idle, 300s);
    EXPECT_EQ(route.shaping->tls, policy::TlsLevel::verify);
    EXPECT_FALSE(route.shaping->pipelining);
    EXPECT_FALSE(route.shaping->chunking);
    EXPECT_EQ(to.route("drop.EXAMPLE").kind, policy::RoutePolicy::Kind::discard);
    EXPECT_EQ(to.route("x.all.example").kind, policy::RoutePolicy::Kind::discard);
    EXPECT_EQ(&to.route("else.example"), &to.default_route);
    EXPECT_EQ(to.default_site.connections_max, 31u);
    EXPECT_EQ(to.default_site.tls, policy::TlsLevel::none);
    EXPECT_EQ(to.site("big.example", "x").messages_per_connection_max, 32u);
    EXPECT_EQ(to.site("big.example", "x").connections_max, 31u);

    EXPECT_EQ(to.retry.first, 41s);
    EXPECT_DOUBLE_EQ(to.retry.factor, 3.5);
    EXPECT_EQ(to.retry.interval_max, 42min);
    EXPECT_DOUBLE_EQ(to.retry.jitter, 0.125);
    EXPECT_EQ(to.retry.expiry, 43h);
    EXPECT_EQ(to.retry.delay_notice, 44min);
    EXPECT_EQ(to.retry.site_pause_first, 45s);
    EXPECT_EQ(to.retry.site_pause_max, 46min);

    EXPECT_FALSE(to.screen.header_database.empty());
    EXPECT_FALSE(to.screen.body_database.empty());
    EXPECT_EQ(to.screen.score_reject, 47);
    ASSERT_EQ(to.screen.rules.size(), 3u);
    EXPECT_EQ(to.screen.rules[0].name, "r1");
    EXPECT_EQ(to.screen.rules[0].action, policy::ScreenRule::Action::tag);
    EXPECT_EQ(to.screen.rules[0].header, "X-Tag");
    EXPECT_EQ(to.screen.rules[0].value, "yes");
    EXPECT_EQ(to.screen.rules[1].score, -3);
    EXPECT_EQ(to.screen.rules[2].action, policy::ScreenRule::Action::defer);
    EXPECT_EQ(to.screen.rules[2].text, "later");
}

// Goal: the two places that know defaults agree. What only a deployment can choose is left out.
TEST_F(Snapshot, DefaultsOfTheConfigurationAreThoseOfThePolicy) {
    ConfigResult result = parse_config("[server]\nhostname = \"a\"\n[[listener]]\nname = "
                                       "\"l\"\naddress = \"127.0.0.1:25\"\nkind = \"relay\"\n",
                                       "m.toml");
    ASSERT_TRUE(result.errors.empty());
    ASSERT_TRUE(publish_snapshot(result.config.policy, folder_.file("p")));
    const auto loaded = policy::load_snapshot(folder_.file("p"));
    ASSERT_TRUE(loaded) << loaded.error().text;
    const policy::Policy& got = **loaded;
    const policy::Policy wanted;
    EXPECT_EQ(got.limits.message_bytes_max, wanted.limits.message_bytes_max);
    EXPECT_EQ(got.limits.recipients_max, wanted.limits.recipients_max);
    EXPECT_EQ(got.limits.errors_max, wanted.limits.errors_max);
    EXPECT_EQ(got.limits.messages_per_session_max, wanted.limits.messages_per_session_max);
    EXPECT_EQ(got.limits.connections_per_client_max, wanted.limits.connections_per_client_max);
    EXPECT_EQ(got.limits.auth_failures_max, wanted.limits.auth_failures_max);
    EXPECT_EQ(got.limits.received_headers_max, wanted.limits.received_headers_max);
    EXPECT_EQ(got.timeouts.command, wanted.timeouts.command);
    EXPECT_EQ(got.timeouts.data_done, wanted.timeouts.data_done);
    EXPECT_EQ(got.timeouts.idle, wanted.timeouts.idle);
    EXPECT_EQ(got.retry.first, wanted.retry.first);
    EXPECT_EQ(got.retry.expiry, wanted.retry.expiry);
    EXPECT_EQ(got.retry.interval_max, wanted.retry.interval_max);
    EXPECT_EQ(got.default_site.connections_max, wanted.default_site.connections_max);
    EXPECT_EQ(got.default_site.idle, wanted.default_site.idle);
    EXPECT_EQ(got.default_site.tls, wanted.default_site.tls);
    EXPECT_EQ(got.start_up.spool_bytes_per_shard, wanted.start_up.spool_bytes_per_shard);
    EXPECT_EQ(got.start_up.spool_segment_bytes, wanted.start_up.spool_segment_bytes);
    EXPECT_EQ(got.start_up.resident_bytes_per_shard, wanted.start_up.resident_bytes_per_shard);
    EXPECT_EQ(got.start_up.dpdk, wanted.start_up.dpdk);
    EXPECT_EQ(got.start_up.tcp, wanted.start_up.tcp);
    EXPECT_EQ(got.start_up.ports, wanted.start_up.ports);
    EXPECT_EQ(got.listeners.at(0).transport, policy::ListenerPolicy{}.transport);
    EXPECT_EQ(got.sources.at(0).transport, policy::SourcePolicy{}.transport);
}

TEST_F(Snapshot, EgressTransportIsThatOfTheSourceThatNobodyWrote) {
    ConfigResult result = parse_config(
        "[server]\nhostname = \"a\"\negress_transport = \"dpdk\"\n[[listener]]\nname = \"l\"\n"
        "address = \"127.0.0.1:25\"\nkind = \"relay\"\n[[port]]\nname = \"p\"\ndevice = "
        "\"net_tap0\"\naddresses = [\"192.0.2.1/24\"]\n",
        "m.toml");
    ASSERT_TRUE(result.errors.empty()) << result.errors.front().to_string();
    EXPECT_TRUE(result.warnings.empty());
    ASSERT_TRUE(publish_snapshot(result.config.policy, folder_.file("p")));
    const auto loaded = policy::load_snapshot(folder_.file("p"));
    ASSERT_TRUE(loaded) << loaded.error().text;
    ASSERT_EQ((*loaded)->sources.size(), 1u);
    EXPECT_EQ((*loaded)->sources[0].transport, policy::TransportKind::dpdk);
}

TEST_F(Snapshot, EachPublicationHasTheNextVersion) {
    Config from = config();
    const std::string file = folder_.file("policy.snapshot");
    EXPECT_EQ(publish_snapshot(from.policy, file), 1u);
    EXPECT_EQ(publish_snapshot(from.policy, file), 2u);
    EXPECT_EQ(published_version(file), 2u);
    EXPECT_FALSE(publish_snapshot(from.policy, folder_.file("no/such/folder")));
}

} // namespace
} // namespace control
