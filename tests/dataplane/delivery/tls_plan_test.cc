// Goal: a host's zone decides as RFC 7672 says, and silence is never taken for permission. Method: the
// rules by table; then the whole way, with hosts that speak TLS and a resolver that answers from a
// table.
#include "dataplane/delivery/tls_plan.h"
#include "tests/dataplane/delivery/delivery_fixture.h"
#include "tests/tls_offload/pki.h"
#include "tls_offload/certificate.h"

#include <cstdlib>
#include <filesystem>

namespace tests {
namespace {

using delivery::plan_dane;
using delivery::plan_tls;
using delivery::ResolveError;
using delivery::TlsaResult;
using delivery::TlsaSet;
using policy::TlsLevel;
using telemetry::Counter;
using telemetry::EventText;
using telemetry::EventType;

const tls_offload::TlsaRecord usable{3, 1, 1, std::vector<std::uint8_t>(32, 7)};
const tls_offload::TlsaRecord unusable{1, 1, 1, std::vector<std::uint8_t>(32, 7)};

TlsaResult answer(bool secure, std::vector<tls_offload::TlsaRecord> records) {
    auto set = std::make_shared<TlsaSet>();
    set->secure = secure;
    set->records = std::move(records);
    return set;
}

TEST(TlsPlan, ZoneDecidesAsRfc7672Says) {
    const TlsaResult lost{std::unexpect, ResolveError::temporary};
    const TlsaResult none = answer(true, {});
    struct Rule {
        const char* what;
        bool vouched;
        TlsaResult answer;
        std::optional<TlsLevel> dane, dane_only; // nothing: the mail waits
    };
    const std::vector<Rule> rules{
        {"nobody vouches for the host", false, answer(true, {usable}), TlsLevel::may, {}},
        {"nobody vouches, and it was not asked", false, lost, TlsLevel::may, {}},
        {"the look-up failed", true, lost, {}, {}},
        {"no records, and that is signed", true, none, TlsLevel::may, {}},
        {"no records, unsigned", true, answer(false, {}), TlsLevel::may, {}},
        {"records, unsigned", true, answer(false, {usable}), TlsLevel::may, {}},
        {"a usable record", true, answer(true, {usable}), TlsLevel::dane, TlsLevel::dane},
        {"one of two", true, answer(true, {unusable, usable}), TlsLevel::dane, TlsLevel::dane},
        {"none usable", true, answer(true, {unusable, unusable}), TlsLevel::encrypt, {}},
    };
    for (const Rule& rule : rules) {
        for (const auto& [wanted, expected] : {std::pair{TlsLevel::dane, rule.dane},
                                               std::pair{TlsLevel::dane_only, rule.dane_only}}) {
            const auto plan = plan_dane(wanted, rule.vouched, rule.answer);
            ASSERT_EQ(plan.has_value(), expected.has_value())
                << rule.what << ", " << to_string(wanted);
            if (!plan) {
                EXPECT_FALSE(plan.error().empty());
                continue;
            }
            EXPECT_EQ(plan->level, *expected) << rule.what << ", " << to_string(wanted);
            EXPECT_EQ(plan->tlsa.size(), *expected == TlsLevel::dane ? 1U : 0U) << rule.what;
        }
    }
}

TEST(TlsPlan, SecureAsksForTheDomainNotForTheHost) {
    EXPECT_EQ(plan_tls(TlsLevel::secure, "dest.example").peer_names,
              (std::vector<std::string>{"dest.example", ".dest.example"}));
    EXPECT_TRUE(plan_tls(TlsLevel::secure, "").peer_names.empty()); // a route's own host
    EXPECT_TRUE(plan_tls(TlsLevel::verify, "dest.example").peer_names.empty());
}

base::Task<base::StreamPtr> serve_tls(tls_offload::ServerContext* server, base::Loop* loop,
                                      base::StreamPtr stream) {
    auto secured = co_await tls_offload::accept_tls(std::move(stream), *server,
                                                    base::Deadline::in(*loop, 30s));
    if (!secured) co_return base::StreamPtr{};
    co_return std::move(*secured);
}

class TlsDelivery : public DeliveryFixture {
protected:
    void SetUp() override {
        DeliveryFixture::SetUp();
        std::string pattern =
            (std::filesystem::temp_directory_path() / "millrace-plan-XXXXXX").string();
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder = pattern;
        write_file(folder / "root.pem", pem_of(authority.certificate()));
        auto made = tls_offload::ClientContext::create(library, {.ca_file = folder / "root.pem"});
        ASSERT_TRUE(made.has_value());
        context.emplace(std::move(*made));
        tls = &*context;
        rules.default_site.idle = 1s;
    }
    void TearDown() override {
        DeliveryFixture::TearDown();
        servers.clear();
        std::error_code ignored;
        std::filesystem::remove_all(folder, ignored);
    }
    /// A domain whose only host is mx.DOMAIN, with a certificate for `name`.
    ScriptedPeer& tls_site(const std::string& domain, const std::string& address,
                           const std::string& name) {
        ScriptedPeer& host = simple_site(domain, address);
        const Identity made = authority.issue(KeyKind::ec, {.names = {name}});
        leaf = tls_offload::CertificateHandle{X509_dup(made.certificate.get())};
        write_pair(made, &authority, folder / "c.pem", folder / "k.pem");
        auto server = tls_offload::ServerContext::create(
            library, {.certificate_file = folder / "c.pem", .key_file = folder / "k.pem"});
        CHECK(server.has_value());
        servers.push_back(std::make_unique<tls_offload::ServerContext>(std::move(*server)));
        host.upgrade = [this, context_of = servers.back().get()](base::StreamPtr stream) {
            return serve_tls(context_of, &loop, std::move(stream));
        };
        return host;
    }
    [[nodiscard]] std::string told(EventType type, EventText field) const {
        const auto found = events.of(type);
        return found.empty() ? "no event" : std::string{found.back().get(field)};
    }

    Authority authority{KeyKind::ec, clock.wall_now()};
    std::filesystem::path folder;
    tls_offload::TlsLibrary library{loop};
    std::optional<tls_offload::ClientContext> context;
    std::vector<std::unique_ptr<tls_offload::ServerContext>> servers;
    tls_offload::CertificateHandle leaf;
};

TEST_F(TlsDelivery, HostWithItsRecordIsDeliveredToAndTheEventSaysHow) {
    rules.default_site.tls = TlsLevel::dane;
    resolver.secure = true;
    ScriptedPeer& host = tls_site("dest.example", "192.0.2.1", "whatever.example");
    resolver.tlsa_records["_25._tcp.mx.dest.example"] = {tlsa_of(*leaf, 3, 1, 1)};
    start();
    submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }, 60s));
    EXPECT_EQ(host.accepted.size(), 1U);
    EXPECT_TRUE(host.accepted[0].tls);
    EXPECT_EQ(told(EventType::delivery, EventText::tls_level), "dane");
    EXPECT_EQ(told(EventType::delivery, EventText::tls_verify), "dane-ee");
    EXPECT_FALSE(told(EventType::delivery, EventText::tls_group).empty());
    EXPECT_EQ(counted(Counter::tls_handshakes_out), 1U);
}

TEST_F(TlsDelivery, HostOfAnotherKeyGetsNothingAndNoDowngrade) {
    rules.default_site.tls = TlsLevel::dane;
    resolver.secure = true;
    ScriptedPeer& host = tls_site("dest.example", "192.0.2.1", "mx.dest.example");
    auto record = tlsa_of(*leaf, 3, 1, 1);
    record.data[5] ^= 1;
    resolver.tlsa_records["_25._tcp.mx.dest.example"] = {record};
    start();
    submit({"a@dest.example"});
    pass(60s);
    EXPECT_EQ(host.accepted.size(), 0U);
    EXPECT_EQ(queue->counters().queued_messages, 1U);
    EXPECT_EQ(counted(Counter::tls_failed_out), 1U);
    EXPECT_EQ(host.connections, 1U); // not tried in the clear
}

TEST_F(TlsDelivery, FailedLookUpDefersAndAnotherHostMayDo) {
    rules.default_site.tls = TlsLevel::dane;
    resolver.secure = true;
    ScriptedPeer& first = tls_site("dest.example", "192.0.2.1", "mx.dest.example");
    resolver.errors["_25._tcp.mx.dest.example"] = ResolveError::temporary;
    start();
    submit({"a@dest.example"});
    pass(30s);
    EXPECT_EQ(first.connections, 0U); // not even dialled
    EXPECT_EQ(queue->counters().queued_messages, 1U);

    resolver.records["two.example"] = {{10, "mx.dest.example"}, {20, "backup.two.example"}};
    resolver.hosts["backup.two.example"] = {"192.0.2.2"};
    ScriptedPeer& second = peer("192.0.2.2:25");
    submit({"a@two.example"});
    pass(30s);
    EXPECT_EQ(second.accepted.size(), 1U); // it has no records: may
}

TEST_F(TlsDelivery, UnsignedZoneIsSpokenToAsMaySays) {
    rules.default_site.tls = TlsLevel::dane;
    ScriptedPeer& host = tls_site("dest.example", "192.0.2.1", "mx.dest.example");
    auto record = tlsa_of(*leaf, 3, 1, 1);
    record.data[5] ^= 1; // whoever forged this gains nothing
    resolver.tlsa_records["_25._tcp.mx.dest.example"] = {record};
    rules.sites["only.example"].tls = TlsLevel::dane_only;
    ScriptedPeer& only = tls_site("only.example", "192.0.2.2", "mx.only.example");
    start();
    submit({"a@dest.example"});
    submit({"a@only.example"});
    pass(60s);
    EXPECT_EQ(host.accepted.size(), 1U);
    EXPECT_EQ(told(EventType::delivery, EventText::tls_level), "may");
    EXPECT_EQ(told(EventType::delivery, EventText::tls_verify), "ca");
    EXPECT_EQ(only.connections, 0U);
    EXPECT_EQ(queue->counters().queued_messages, 1U);
}

TEST_F(TlsDelivery, SecureWantsTheDomainsNameWhereVerifyWantsTheHosts) {
    for (const char* domain : {"a.example", "b.example"})
        rules.sites[domain].tls = TlsLevel::secure;
    rules.default_site.tls = TlsLevel::verify;
    // One host of a provider for three domains.
    ScriptedPeer& host = tls_site("a.example", "192.0.2.1", "mail.a.example");
    for (const char* domain : {"b.example", "c.example"})
        resolver.records[domain] = {{10, "mx.a.example"}};
    start();
    submit({"x@a.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }, 60s));
    EXPECT_EQ(host.accepted.size(), 1U); // mail.a.example is below a.example
    submit({"x@b.example"});
    submit({"x@c.example"});
    pass(30s);
    EXPECT_EQ(host.accepted.size(), 1U); // neither b.example's nor mx.a.example's certificate
    EXPECT_EQ(queue->counters().queued_messages, 2U);
}

} // namespace
} // namespace tests
