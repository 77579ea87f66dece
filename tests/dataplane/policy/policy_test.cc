// policy_test.cc: look-ups in a policy, and snapshots that must not be believed.

#include "control/config.h"
#include "control/policy_compiler.h"
#include "control/schema/snapshot_format.h"
#include "dataplane/base/check.h"
#include "dataplane/policy/command_merge.h"
#include "dataplane/policy/snapshot.h"

#include <array>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <random>

namespace dataplane::policy {
namespace {

TEST(Policy, NearestRouteWins) {
    Policy policy;
    policy.routes[".example.com"].port = 1;
    policy.routes[".deep.example.com"].port = 2;
    policy.routes["exact.deep.example.com"].port = 3;
    EXPECT_EQ(policy.route("example.com").port, 1);
    EXPECT_EQ(policy.route("a.EXAMPLE.com").port, 1);
    EXPECT_EQ(policy.route("a.deep.example.com.").port, 2);
    EXPECT_EQ(policy.route("exact.deep.example.com").port, 3);
    EXPECT_EQ(policy.route("notexample.com").port, 25);
    EXPECT_EQ(policy.route("").port, 25);
    EXPECT_EQ(policy.route(std::string(100'000, 'a')).port, 25);
}

TEST(Policy, SiteByItsNameThenByDomainThenDefault) {
    Policy policy;
    policy.sites["mx.big.example"].connections_max = 1;
    policy.sites["small.example"].connections_max = 2;
    EXPECT_EQ(policy.site("MX.big.example", "small.example").connections_max, 1u);
    EXPECT_EQ(policy.site("mx.other.example", "Small.example").connections_max, 2u);
    EXPECT_EQ(policy.site("x", "y").connections_max, 20u);
}

std::string snapshot(const std::function<void(control::schema::PolicyT&)>& change = {}) {
    auto result = control::parse_config(
        "[server]\nhostname = \"a.example\"\n[[listener]]\nname = \"l\"\naddress = "
        "\"127.0.0.1:25\"\n"
        "kind = \"relay\"\n[[pool]]\nname = \"p\"\nmembers = [{ source = \"default\" }]\n"
        "[[route]]\ndomains = [\"b.example\"]\nsource = \"p\"\n",
        "m.toml");
    CHECK(result.errors.empty());
    if (change) change(result.config.policy);
    return control::make_snapshot(result.config.policy);
}

std::expected<PolicyPtr, SnapshotFailure> parse(const std::string& file) {
    return parse_snapshot(std::as_bytes(std::span{file}));
}
SnapshotError error_of(const std::string& file) {
    const auto parsed = parse(file);
    EXPECT_FALSE(parsed);
    return parsed ? SnapshotError::missing : parsed.error().error;
}

TEST(Snapshot, OneChangedByteAnywhereIsRefused) {
    const std::string good = snapshot();
    ASSERT_TRUE(parse(good));
    for (std::size_t at = 0; at < good.size(); ++at) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ 0x20);
        ASSERT_FALSE(parse(bad)) << at;
    }
}

TEST(Snapshot, EveryTruncationIsRefused) {
    const std::string good = snapshot();
    for (std::size_t bytes = 0; bytes < good.size(); ++bytes)
        ASSERT_EQ(error_of(good.substr(0, bytes)), SnapshotError::truncated) << bytes;
    EXPECT_EQ(error_of(good + "x"), SnapshotError::truncated);
}

TEST(Snapshot, OtherVersionAndOtherFilesAreRefusedByName) {
    std::string file = snapshot();
    const std::uint32_t old_version = control::schema::snapshot_format_version + 1;
    std::memcpy(file.data() + offsetof(control::schema::SnapshotHeader, format_version),
                &old_version, sizeof old_version);
    EXPECT_EQ(error_of(file), SnapshotError::unsupported_version);
    EXPECT_EQ(error_of(std::string(200, 'x')), SnapshotError::bad_magic);
    EXPECT_EQ(load_snapshot("/nowhere/policy.snapshot").error().error, SnapshotError::missing);
    EXPECT_EQ(load_snapshot("/").error().error, SnapshotError::unreadable);
}

// Goal: a right checksum is no excuse. Method: each policy is well-formed and says something
// impossible.
TEST(Snapshot, ValuesThatMakeNoSenseAreRefusedWithTheirField) {
    const auto text_of = [](const std::function<void(control::schema::PolicyT&)>& change) {
        const auto parsed = parse(snapshot(change));
        return parsed ? std::string{"accepted"}
                      : std::string{to_string(parsed.error().error)} + ": " + parsed.error().text;
    };
    EXPECT_EQ(text_of({}), "accepted");
    EXPECT_EQ(text_of([](auto& p) { p.listeners[0]->address = "nowhere"; }),
              "invalid value: listener.address: not IP:PORT: nowhere");
    EXPECT_EQ(text_of([](auto& p) { p.pools[0]->members[0]->source_index = 1; }),
              "invalid value: pool.members: no such source");
    EXPECT_EQ(text_of([](auto& p) { p.routes[0]->source = "x"; }),
              "invalid value: route.source: no source or pool is called x");
    EXPECT_EQ(text_of([](auto& p) { p.start_up->shards = 1000; }),
              "invalid value: start_up.shards: 1000 is out of range");
    EXPECT_EQ(text_of([](auto& p) { p.timeouts->rcpt_s = 0; }),
              "invalid value: timeouts: a time limit of 0");
    EXPECT_EQ(text_of([](auto& p) { p.retry->jitter = 1.5; }),
              "invalid value: retry.jitter: must be at least 0 and below 1");
    EXPECT_EQ(text_of([](auto& p) { p.relay_networks = {"everyone"}; }),
              "invalid value: relay.networks: not a network: everyone");
    EXPECT_EQ(
        text_of([](auto& p) { p.bare_newline = static_cast<control::schema::BareNewline>(9); }),
        "invalid value: bare_newline: unknown value 9");
    EXPECT_EQ(text_of([](auto& p) { p.sources.clear(); }), "invalid value: sources: there is none");
    EXPECT_EQ(text_of([](auto& p) { p.limits.reset(); }), "malformed: a whole table is missing");

    const auto with_port = [&](const std::function<void(control::schema::PortT&)>& change) {
        return text_of([&](auto& p) {
            auto port = std::make_unique<control::schema::PortT>();
            port->name = "p";
            port->device = "net_tap0";
            port->addresses = {"192.0.2.1/24"};
            port->mtu = 1500;
            change(*port);
            p.start_up->ports.push_back(std::move(port));
        });
    };
    EXPECT_EQ(with_port([](auto&) {}), "accepted");
    for (const std::string address :
         {"192.0.2.1", "192.0.2.1/0", "192.0.2.1/33", "192.0.2.1/2x", "/24"}) {
        EXPECT_EQ(with_port([&](auto& p) { p.addresses = {address}; }),
                  "invalid value: port.addresses: not IP/PREFIX: " + address);
    }
    EXPECT_EQ(with_port([](auto& p) { p.addresses.clear(); }),
              "invalid value: port.addresses: there is none");
    EXPECT_EQ(with_port([](auto& p) { p.addresses.push_back("192.0.2.1/32"); }),
              "invalid value: port.addresses: there twice: 192.0.2.1");
    EXPECT_EQ(with_port([](auto& p) { p.vlan = 4095; }),
              "invalid value: port.vlan: 4095 is out of range");
    EXPECT_EQ(with_port([](auto& p) { p.mtu = 0; }), "invalid value: port.mtu: 0 is out of range");
    EXPECT_EQ(
        text_of([](auto& p) { p.listeners[0]->transport = control::schema::Transport::dpdk; }),
        "invalid value: listener.transport: dpdk without a port");
    EXPECT_EQ(text_of([](auto& p) { p.sources[0]->transport = control::schema::Transport::dpdk; }),
              "invalid value: source.transport: dpdk without a port");
    EXPECT_EQ(text_of([](auto& p) { p.start_up->tcp->time_wait_s = 0; }),
              "invalid value: tcp: a time of 0");
    EXPECT_EQ(text_of([](auto& p) { p.start_up->dpdk->idle_sleep_us = 1001; }),
              "invalid value: dpdk.idle_sleep_us: 1001 is out of range");
}

// Goal: an upgrade reads what the release before has published.
TEST(Snapshot, WithoutWordOnTheNetworkItsDefaultsHold) {
    const auto parsed = parse(snapshot([](auto& p) {
        p.start_up->dpdk.reset();
        p.start_up->tcp.reset();
    }));
    ASSERT_TRUE(parsed) << parsed.error().text;
    EXPECT_EQ((*parsed)->start_up.tcp, TcpPolicy{});
    EXPECT_EQ((*parsed)->start_up.dpdk, DpdkPolicy{});
}

TEST(CommandMerge, SumsNumbersJoinsListsAndKeepsTheFirstOfTheRest) {
    const std::array<std::string, 3> replies{
        R"({"n":1,"x":"a","list":[1,2],"in":{"m":2,"l":["p"]}})",
        R"({"n":2,"x":"b","list":[3],"in":{"m":3,"k":true}})", "{}"};
    EXPECT_EQ(merge_replies(replies, 0).value(),
              R"({"n":3,"x":"a","list":[1,2,3],"in":{"m":5,"l":["p"],"k":true}})");
    EXPECT_EQ(merge_replies(replies, 2).value(),
              R"({"n":3,"x":"a","list":[1,2],"in":{"m":5,"l":["p"],"k":true}})");
}

TEST(CommandMerge, OneRefusalRefusesTheWhole) {
    const std::array<std::string, 2> refused{R"({"n":1})", R"({"error":"bad id"})"};
    EXPECT_EQ(merge_replies(refused, 0).error(), "bad id");
    const std::array<std::string, 2> broken{R"({"n":1})", "oops"};
    EXPECT_FALSE(merge_replies(broken, 0));
}

} // namespace
} // namespace dataplane::policy
