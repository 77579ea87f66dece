// Goal: handshakes whose signature is made elsewhere end as all others do, however they end, and leave nothing.
// Method: {TLS 1.2, 1.3} x {RSA, ECDSA, Ed25519} x {simulated network, kernel sockets, our TCP/IP}; in each all eight
// kinds of handshake, each to its end, and cut off by either side after every small step of time. Only RSA pauses; the
// others must not mind. MILLRACE_ABORTED_HANDSHAKES=1000000 for the long run.
#include "tests/tls_offload/carrier.h"
#include "tests/tls_offload/engine/job_pool.h"
#include "tests/tls_offload/pki.h"
#include "tests/tls_offload/tls_fixture.h"
#include "tls_offload/engine/async_key.h"
#include "tls_offload/engine/engine.h"
#include "tls_offload/engine/inline_backend.h"
#include "tls_offload/engine/sim_backend.h"
#include "tls_offload/relief.h"

#include <array>
#include <cstdlib>
#include <map>
#include <tuple>

namespace tests {
namespace {

namespace offload = tls_offload::offload;
using tls_offload::ClientAuth;
using tls_offload::ClientContext;
using tls_offload::ClientOptions;
using tls_offload::ServerContext;
using tls_offload::TlsFailureReason;
using tls_offload::TlsLevel;

enum class Case : std::uint8_t {
    full,
    resumed,
    client_certificate,
    wrong_name,
    expired,
    unknown_root,
    dane_good,
    dane_bad,
};
constexpr std::array all_cases{Case::full,       Case::resumed, Case::client_certificate,
                               Case::wrong_name, Case::expired, Case::unknown_root,
                               Case::dane_good,  Case::dane_bad};
bool succeeds(Case which) {
    return which == Case::full || which == Case::resumed || which == Case::client_certificate ||
           which == Case::dane_good;
}

using Parameters = std::tuple<CarrierKind, int, KeyKind>;

class OffloadMatrix : public testing::TestWithParam<Parameters> {
protected:
    [[nodiscard]] int version() const { return std::get<1>(GetParam()); }
    [[nodiscard]] KeyKind kind() const { return std::get<2>(GetParam()); }
    [[nodiscard]] bool pauses() const { return kind() == KeyKind::rsa; }
    base::Loop& loop() { return carrier->loop(); }

    void SetUp() override {
        carrier = make_carrier(std::get<0>(GetParam()));
        authority.emplace(kind(), loop().wall_now());
        stranger.emplace(KeyKind::ec, loop().wall_now(), "Another Root");
        leaf = authority->issue(kind());
        write_pair(leaf, &*authority, folder.file("good.pem"), folder.file("good.key"));
        write_pair(authority->issue(kind(), {.valid_from = -48h, .valid_for = 24h}), &*authority,
                   folder.file("old.pem"), folder.file("old.key"));
        write_pair(authority->issue(kind(), {.names = {"esp.example"}, .common_name = "esp"}),
                   nullptr, folder.file("user.pem"), folder.file("user.key"));
        write_file(folder.file("root.pem"), pem_of(authority->certificate()));
        write_file(folder.file("other.pem"), pem_of(stranger->certificate()));
        start_engine({.delay_max = 300us});
    }
    void TearDown() override { stop(); }
    void stop() {
        servers.clear();
        clients.clear();
        if (carrier) loop().drop_tasks();
        server_library.reset();
        client_library.reset();
        engine.reset();
    }
    /// A new library over a new engine with a simulated device that fails as told.
    void start_engine(const offload::SimFaults& faults, offload::EngineOptions options = {},
                      std::size_t handshakes_max = tls_offload::signing_handshakes_max) {
        stop();
        auto device = std::make_unique<offload::SimBackend>(
            offload::SimBackendOptions{.faults = faults, .stuck_after = 5s});
        sim = device.get();
        std::vector<std::unique_ptr<offload::Backend>> backends;
        backends.push_back(std::move(device));
        backends.push_back(offload::make_inline_backend());
        use_backends(std::move(backends), options, handshakes_max);
    }
    void use_backends(std::vector<std::unique_ptr<offload::Backend>> backends,
                      offload::EngineOptions options = {},
                      std::size_t handshakes_max = tls_offload::signing_handshakes_max) {
        engine.emplace(loop(), std::move(backends), options);
        server_library.emplace(loop());
        client_library.emplace(loop());
        server_library->sign_with(*engine, handshakes_max);
        jobs = startable_jobs();
    }

    ServerContext& server_for(Case which) {
        const bool asks = which == Case::client_certificate;
        const std::string name = which == Case::expired ? "old" : "good";
        const auto found = servers.find(name + (asks ? "+" : ""));
        if (found != servers.end()) return found->second;
        auto made = ServerContext::create(
            *server_library, {.certificate_file = folder.file(name + ".pem"),
                              .key_file = folder.file(name + ".key"),
                              .client_auth = asks ? ClientAuth::require : ClientAuth::none,
                              .client_ca_file = asks ? folder.file("root.pem") : ""});
        CHECK(made.has_value());
        EXPECT_EQ(made->state()->set->needs_jobs(), pauses());
        for (const auto& context : made->state()->set->contexts())
            CHECK(SSL_CTX_set_max_proto_version(context.get(), version()) == 1);
        return servers.emplace(name + (asks ? "+" : ""), std::move(*made)).first->second;
    }
    ClientContext& client_for(Case which) {
        const bool shows = which == Case::client_certificate;
        const bool remembers = which == Case::resumed;
        const std::string root = which == Case::unknown_root ? "other.pem" : "root.pem";
        const std::string key = root + (shows ? "+" : "") + (remembers ? "*" : "");
        const auto found = clients.find(key);
        if (found != clients.end()) return found->second;
        auto made = ClientContext::create(
            *client_library, {.ca_file = folder.file(root),
                              .ca_dir = {},
                              .session_keys_max = remembers ? tls_offload::session_keys_max : 0,
                              .certificate_file = shows ? folder.file("user.pem") : "",
                              .key_file = shows ? folder.file("user.key") : ""});
        CHECK(made.has_value());
        return clients.emplace(key, std::move(*made)).first->second;
    }
    ClientOptions options_for(Case which) {
        ClientOptions options{.server_name = "mx.example.com", .level = TlsLevel::verify};
        if (which == Case::wrong_name) options.server_name = "mx.example.net";
        if (which != Case::dane_good && which != Case::dane_bad) return options;
        options.level = TlsLevel::dane;
        options.tlsa = {tlsa_of(*leaf.certificate, 3, 1, 1)};
        if (which == Case::dane_bad) options.tlsa[0].data[0] ^= 1;
        return options;
    }

    struct Attempt {
        std::optional<TlsResult> client, server;
        base::CancelSource client_leaves, server_leaves;
        [[nodiscard]] bool over() const { return client && server; }
    };
    void start(Attempt& attempt, Case which, base::Duration limit = 30s) {
        Carrier::Pair pair = carrier->make_pair();
        loop().spawn(
            store(connect_tls(std::move(pair.client), client_for(which), options_for(which),
                              Deadline::in(loop(), 30s, &attempt.client_leaves)),
                  &attempt.client),
            "client");
        loop().spawn(store(accept_tls(std::move(pair.server), server_for(which),
                                      Deadline::in(loop(), limit, &attempt.server_leaves)),
                           &attempt.server),
                     "server");
    }
    /// Greets, so that the client has its tickets.
    void greet(Attempt& attempt) {
        std::optional<NetResult<>> written, read;
        loop().spawn(
            store((**attempt.server)->write(base::as_bytes("220"), Deadline::in(loop(), 5s)),
                  &written),
            "greet");
        loop().spawn(store((**attempt.client)->fill(Deadline::in(loop(), 5s)), &read), "read");
        ASSERT_TRUE(carrier->run_until([&] { return written && read; }));
        ASSERT_TRUE(read->has_value());
    }
    /// A session in the client's cache, for the case that resumes one.
    void prime(Case which) {
        if (which != Case::resumed) return;
        Attempt first;
        start(first, which);
        ASSERT_TRUE(carrier->run_until([&] { return first.over(); }));
        ASSERT_TRUE(first.client->has_value() && first.server->has_value());
        greet(first);
        (**first.client)->close(); // OpenSSL lets nobody resume a connection that was cut off
        (**first.server)->close();
        end(first);
    }
    /// Lets go of both ends, and sees to it that nothing is left of them.
    void end(Attempt& attempt) {
        attempt.client.reset();
        attempt.server.reset();
        EXPECT_TRUE(carrier->run_until([&] {
            return server_library->connection_count() == 0 &&
                   client_library->connection_count() == 0 && engine->in_flight() == 0 &&
                   sim->in_flight() == 0;
        })) << server_library->connection_count()
            << " connections, " << engine->in_flight() << " requests";
        EXPECT_EQ(server_library->signing_handshakes(), 0U);
        EXPECT_EQ(server_library->lent_blocks() + client_library->lent_blocks(), 0U);
    }
    void expect_all_jobs_back() { EXPECT_EQ(startable_jobs(), jobs); }

    TemporaryFolder folder;
    std::unique_ptr<Carrier> carrier;
    std::optional<Authority> authority, stranger;
    Identity leaf;
    std::optional<offload::Engine> engine;
    offload::SimBackend* sim = nullptr;
    std::optional<tls_offload::TlsLibrary> server_library, client_library;
    std::map<std::string, ServerContext> servers;
    std::map<std::string, ClientContext> clients;
    std::size_t jobs = 0;
};

TEST_P(OffloadMatrix, EveryHandshakeEndsAsItShould) {
    for (const Case which : all_cases) {
        SCOPED_TRACE(static_cast<int>(which));
        prime(which);
        const std::uint64_t before = engine->counters().completed;
        Attempt attempt;
        start(attempt, which);
        ASSERT_TRUE(carrier->run_until([&] { return attempt.over(); }));
        if (succeeds(which)) {
            ASSERT_TRUE(attempt.client->has_value()) << attempt.client->error().text;
            ASSERT_TRUE(attempt.server->has_value()) << attempt.server->error().text;
            EXPECT_EQ((**attempt.client)->info().tls_resumed, which == Case::resumed);
            EXPECT_EQ((**attempt.client)->info().tls_version,
                      version() == TLS1_3_VERSION ? "TLSv1.3" : "TLSv1.2");
            greet(attempt);
        } else {
            ASSERT_FALSE(attempt.client->has_value());
            EXPECT_EQ(attempt.client->error().reason, TlsFailureReason::certificate);
            EXPECT_FALSE(attempt.server->has_value());
        }
        EXPECT_EQ(engine->counters().completed - before,
                  pauses() && which != Case::resumed ? 1U : 0U);
        end(attempt);
    }
    EXPECT_EQ(server_library->counters().no_job, 0U);
    expect_all_jobs_back();
}

TEST_P(OffloadMatrix, CutOffAtEveryPauseNothingIsLeft) {
    // Every step in simulated time; every third on the others, which add what they do when they are cut off.
    const unsigned stride =
        (pauses() ? 1U : 7U) * (std::get<0>(GetParam()) == CarrierKind::sim ? 1U : 3U);
    std::size_t paused = 0;
    for (const Case which : all_cases) {
        for (const bool by_client : {true, false}) {
            SCOPED_TRACE(testing::Message()
                         << static_cast<int>(which) << (by_client ? " client" : ""));
            for (unsigned steps = 0;; steps += stride) {
                ASSERT_LT(steps, 2'000U);
                prime(which);
                Attempt attempt;
                start(attempt, which);
                for (unsigned i = 0; i < steps && !attempt.over(); ++i)
                    carrier->turn();
                const bool over = attempt.over();
                paused += server_library->signing_handshakes();
                (by_client ? attempt.client_leaves : attempt.server_leaves).cancel();
                ASSERT_TRUE(carrier->run_until([&] { return attempt.over(); }));
                end(attempt);
                if (HasFailure()) return;
                if (over) break;
            }
        }
    }
    EXPECT_EQ(paused > 4, pauses()) << paused << " pauses were met";
    expect_all_jobs_back();
}

TEST_P(OffloadMatrix, TasksDroppedInAPauseLeaveNothing) { // as a shard does that ends
    if (std::get<0>(GetParam()) != CarrierKind::sim || !pauses()) return;
    sim->die();
    std::array<Attempt, 8> attempts;
    for (Attempt& each : attempts)
        start(each, Case::full);
    ASSERT_TRUE(carrier->run_until([&] { return server_library->signing_handshakes() == 8; }, 1s));
    loop().drop_tasks();
    EXPECT_EQ(server_library->connection_count(), 0U);
    EXPECT_EQ(server_library->signing_handshakes(), 0U);
    EXPECT_EQ(engine->in_flight(), 0U);
    expect_all_jobs_back();
}

TEST_P(OffloadMatrix, SignatureThatDoesNotComeEndsAtTheDeadline) {
    sim->die();
    Attempt attempt;
    start(attempt, Case::full, pauses() ? 100ms : 30'000ms);
    ASSERT_TRUE(carrier->run_until([&] { return attempt.over(); }));
    if (pauses()) {
        ASSERT_FALSE(attempt.server->has_value());
        EXPECT_EQ(attempt.server->error().reason, TlsFailureReason::timed_out);
        EXPECT_FALSE(attempt.client->has_value());
    } else {
        EXPECT_TRUE(attempt.server->has_value());
    }
    sim->come_back();
    end(attempt);
    expect_all_jobs_back();
}

TEST_P(OffloadMatrix, WithoutAJobTheShardSigns) {
    // Once because so many handshakes sign already (here: none may), once because OpenSSL has no job left.
    start_engine({.delay_max = 300us}, {}, 0);
    for (const bool no_jobs : {false, true}) {
        std::optional<AllJobs> taken;
        if (no_jobs) {
            start_engine({.delay_max = 300us});
            taken.emplace();
        }
        for (const Case which : all_cases) {
            SCOPED_TRACE(static_cast<int>(which));
            prime(which);
            Attempt attempt;
            start(attempt, which);
            ASSERT_TRUE(carrier->run_until([&] { return attempt.over(); }));
            EXPECT_EQ(attempt.client->has_value(), succeeds(which));
            end(attempt);
        }
        EXPECT_EQ(server_library->counters().no_job > 0, pauses());
        EXPECT_EQ(engine->counters().submitted, 0U);
    }
    expect_all_jobs_back();
}

TEST_P(OffloadMatrix, NoHandshakeFailsForWhatADeviceDoes) {
    start_engine({.delay_max = 300us, .wrong = 150, .failed = 150, .refuse = 100});
    for (unsigned i = 0; i < 40; ++i) {
        Attempt attempt;
        start(attempt, Case::full);
        ASSERT_TRUE(carrier->run_until([&] { return attempt.over(); }));
        ASSERT_TRUE(attempt.client->has_value()) << attempt.client->error().text;
        ASSERT_TRUE(attempt.server->has_value()) << attempt.server->error().text;
        end(attempt);
    }
    EXPECT_EQ(engine->counters().verify_failures > 0, pauses());
    EXPECT_EQ(engine->counters().device_errors > 0, pauses());
}

INSTANTIATE_TEST_SUITE_P(
    All, OffloadMatrix,
    testing::Combine(testing::Values(CarrierKind::sim, CarrierKind::kernel, CarrierKind::stack),
                     testing::Values(TLS1_2_VERSION, TLS1_3_VERSION),
                     testing::Values(KeyKind::rsa, KeyKind::ec, KeyKind::ed25519)),
    [](const auto& made) {
        return std::string{to_string(std::get<0>(made.param))} +
               (std::get<1>(made.param) == TLS1_3_VERSION ? "Tls13" : "Tls12") +
               to_string(std::get<2>(made.param));
    });

class OffloadedHandshakes : public OffloadMatrix {};
INSTANTIATE_TEST_SUITE_P(All, OffloadedHandshakes,
                         testing::Values(Parameters{CarrierKind::sim, TLS1_3_VERSION,
                                                    KeyKind::rsa}),
                         [](const auto&) { return std::string{"SimTls13Rsa"}; });

// The relief replaces OpenSSL's methods for RSA keys, and so may not get between a key and its own method.
TEST_P(OffloadedHandshakes, ReliefFromDecodersChangesNothing) {
    ASSERT_TRUE(tls_offload::use_relief(tls_offload::Relief::on).active);
    for (const Case which : all_cases) {
        SCOPED_TRACE(static_cast<int>(which));
        prime(which);
        const std::uint64_t before = engine->counters().completed;
        Attempt attempt;
        start(attempt, which);
        EXPECT_TRUE(carrier->run_until([&] { return attempt.over(); }));
        EXPECT_EQ(attempt.client->has_value(), succeeds(which));
        EXPECT_EQ(attempt.server->has_value(), succeeds(which));
        EXPECT_EQ(engine->counters().completed - before, which != Case::resumed ? 1U : 0U);
        end(attempt);
    }
    expect_all_jobs_back();
    stop();
    tls_offload::end_relief();
}

TEST_P(OffloadedHandshakes, DeviceThatDiesLeavesThemToSoftware) {
    auto device = std::make_unique<offload::SimBackend>(
        offload::SimBackendOptions{.faults = {.delay_max = 300us}, .stuck_after = 5ms});
    stop();
    sim = device.get();
    std::vector<std::unique_ptr<offload::Backend>> backends;
    backends.push_back(std::move(device));
    backends.push_back(offload::make_inline_backend());
    use_backends(std::move(backends));
    std::array<Attempt, 16> attempts;
    for (Attempt& each : attempts)
        start(each, Case::full);
    ASSERT_TRUE(carrier->run_until([&] { return server_library->signing_handshakes() >= 2; }, 1s));
    sim->die();
    ASSERT_TRUE(carrier->run_until(
        [&] { return std::ranges::all_of(attempts, [](const Attempt& a) { return a.over(); }); }));
    for (Attempt& each : attempts) {
        EXPECT_TRUE(each.client->has_value() && each.server->has_value());
        each.client.reset();
        each.server.reset();
    }
    EXPECT_GT(engine->counters().fallbacks, 0U);
    EXPECT_EQ(engine->counters().downs, 1U);
}

TEST_P(OffloadedHandshakes, FullQueueSignsOnTheSpot) {
    start_engine({.delay_min = 5ms, .delay_max = 6ms}, {.requests = 2});
    const std::uint64_t before = offload::async_key_counters().inline_made;
    std::array<Attempt, 6> attempts;
    for (Attempt& each : attempts)
        start(each, Case::full);
    ASSERT_TRUE(carrier->run_until(
        [&] { return std::ranges::all_of(attempts, [](const Attempt& a) { return a.over(); }); }));
    for (Attempt& each : attempts)
        EXPECT_TRUE(each.client->has_value() && each.server->has_value());
    EXPECT_GT(engine->counters().refused, 0U);
    EXPECT_EQ(offload::async_key_counters().inline_made - before, engine->counters().refused);
    for (Attempt& each : attempts) {
        each.client.reset();
        each.server.reset();
    }
    end(attempts.front());
    expect_all_jobs_back();
}

TEST_P(OffloadedHandshakes, CrowdTakesAFewStepsATurnAndAllFinish) {
    constexpr std::size_t crowd = 64;
    std::vector<std::unique_ptr<Attempt>> attempts;
    for (std::size_t i = 0; i < crowd; ++i)
        start(*attempts.emplace_back(std::make_unique<Attempt>()), Case::full);
    std::uint64_t steps_before = 0, most = 0;
    const auto over = [&] {
        // What a turn submits is bounded by the steps that it may take.
        const std::uint64_t submitted = engine->counters().submitted;
        most = std::max(most, submitted - steps_before);
        steps_before = submitted;
        return std::ranges::all_of(attempts, [](const auto& each) { return each->over(); });
    };
    ASSERT_TRUE(carrier->run_until(over));
    EXPECT_LE(most, tls_offload::handshake_steps_per_turn);
    EXPECT_GT(server_library->counters().put_off, 0U);
    for (const auto& each : attempts) {
        EXPECT_TRUE(each->client->has_value() && each->server->has_value());
        each->client.reset();
        each->server.reset();
    }
    end(*attempts.front());
}

// Cut off after 0, 1, 2 ... steps, by either side in turn.
TEST_P(OffloadedHandshakes, AbortedByTheThousandEveryPoolIsFull) {
    const char* wanted = std::getenv("MILLRACE_ABORTED_HANDSHAKES");
    const unsigned long count = wanted == nullptr ? 2'000 : std::strtoul(wanted, nullptr, 10);
    start_engine({.delay_max = 300us, .wrong = 20, .failed = 20, .refuse = 20});
    unsigned long paused = 0;
    for (unsigned long i = 0; i < count; ++i) {
        Attempt attempt;
        start(attempt, Case::full);
        for (unsigned long steps = i % 16; steps > 0 && !attempt.over(); --steps)
            carrier->turn();
        paused += server_library->signing_handshakes();
        (i % 2 == 0 ? attempt.client_leaves : attempt.server_leaves).cancel();
        ASSERT_TRUE(carrier->run_until([&] { return attempt.over(); }));
        end(attempt);
        ASSERT_FALSE(HasFailure()) << "after " << i;
    }
    EXPECT_GT(paused, count / 20) << "the pauses were missed";
    expect_all_jobs_back();
}

} // namespace
} // namespace tests
