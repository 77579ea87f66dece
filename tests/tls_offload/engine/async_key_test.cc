// TLS servers whose RSA key goes through the engine: real handshakes in memory, over every backend state, and
// abandoned at every pause. MILLRACE_ABORTED_HANDSHAKES=1000000 for the long run.
#include "tests/tls_offload/engine/job_pool.h"
#include "tests/tls_offload/engine/rig.h"
#include "tls_offload/engine/async_key.h"
#include "tls_offload/engine/sim_backend.h"

#include <cstdlib>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

namespace tests {
namespace {

struct Release {
    void operator()(SSL* ssl) const noexcept { SSL_free(ssl); }
    void operator()(SSL_CTX* context) const noexcept { SSL_CTX_free(context); }
    void operator()(X509* certificate) const noexcept { X509_free(certificate); }
};
template <class T>
using Handle = std::unique_ptr<T, Release>;

Handle<X509> certificate_of(EVP_PKEY& key) {
    Handle<X509> made{X509_new()};
    X509_set_version(made.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made.get()), 1);
    X509_gmtime_adj(X509_getm_notBefore(made.get()), -60);
    X509_gmtime_adj(X509_getm_notAfter(made.get()), 3600);
    X509_set_pubkey(made.get(), &key);
    X509_sign(made.get(), &key, EVP_sha256());
    return made;
}

constexpr std::size_t pool_jobs = 16;

class AsyncKey : public testing::TestWithParam<int> { // the TLS version
protected:
    void SetUp() override {
        ASYNC_cleanup_thread(); // of tests before: a second pool would hide the first one
        ASYNC_init_thread(pool_jobs, 0);
        auto backend = std::make_unique<offload::SimBackend>(
            offload::SimBackendOptions{.faults = {.delay_max = 300us}, .stuck_after = 5s});
        sim = backend.get();
        Rig::Backends backends;
        backends.push_back(std::move(backend));
        backends.push_back(offload::make_inline_backend());
        rig.emplace(std::move(backends), offload::EngineOptions{}, true);
        const auto key = offload::make_async_key(rig->engine, engine_key(2048));
        ASSERT_NE(key, nullptr);
        server.reset(SSL_CTX_new(TLS_server_method()));
        client.reset(SSL_CTX_new(TLS_client_method()));
        const auto certificate = certificate_of(evp_key(2048));
        ASSERT_EQ(SSL_CTX_use_certificate(server.get(), certificate.get()), 1);
        ASSERT_EQ(SSL_CTX_use_PrivateKey(server.get(), key.get()), 1);
        for (SSL_CTX* context : {server.get(), client.get()}) {
            SSL_CTX_set_min_proto_version(context, GetParam());
            SSL_CTX_set_max_proto_version(context, GetParam());
        }
    }
    void TearDown() override {
        server.reset();
        client.reset();
        rig.reset();
        ASYNC_cleanup_thread();
    }

    struct Pair {
        Handle<SSL> server, client;
        int wakes = 0;
        int pauses = 0;
    };
    static int woken(SSL*, void* pair) {
        ++static_cast<Pair*>(pair)->wakes;
        return 1;
    }
    void open(Pair& pair) {
        pair.server.reset(SSL_new(server.get()));
        pair.client.reset(SSL_new(client.get()));
        BIO *ours = nullptr, *theirs = nullptr;
        BIO_new_bio_pair(&ours, 0, &theirs, 0);
        SSL_set_bio(pair.server.get(), ours, ours);
        SSL_set_bio(pair.client.get(), theirs, theirs);
        SSL_set_accept_state(pair.server.get());
        SSL_set_connect_state(pair.client.get());
        SSL_set_mode(pair.server.get(), SSL_MODE_ASYNC);
        SSL_set_async_callback(pair.server.get(), woken);
        SSL_set_async_callback_arg(pair.server.get(), &pair);
    }
    /// One step of both ends. Returns 1 when the server is done, 0 when it goes on, -1 when it failed.
    int step(Pair& pair) {
        static_cast<void>(SSL_do_handshake(pair.client.get()));
        const int result = SSL_do_handshake(pair.server.get());
        if (result == 1) return SSL_do_handshake(pair.client.get()) == 1 ? 1 : 0;
        const int error = SSL_get_error(pair.server.get(), result);
        if (error == SSL_ERROR_WANT_ASYNC) ++pair.pauses;
        if (error == SSL_ERROR_WANT_ASYNC || error == SSL_ERROR_WANT_ASYNC_JOB) {
            rig->clock.manual_clock.advance(100us);
            rig->loop.turn();
            return 0;
        }
        return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
    int finish(Pair& pair) {
        for (unsigned i = 0; i < 10'000; ++i) {
            if (const int result = step(pair); result != 0) return result;
        }
        return -1;
    }
    /// What an owner of an SSL does whose peer is gone: no bytes any more, and resume until no job is paused.
    void drain(Pair& pair) {
        BIO_shutdown_wr(SSL_get_wbio(pair.client.get()));
        while (SSL_waiting_for_async(pair.server.get()) == 1) {
            rig->clock.manual_clock.advance(100us);
            rig->loop.turn();
            static_cast<void>(SSL_do_handshake(pair.server.get()));
        }
        ERR_clear_error();
    }

    std::optional<Rig> rig;
    offload::SimBackend* sim = nullptr;
    Handle<SSL_CTX> server, client;
};

TEST_P(AsyncKey, HandshakeIsSignedByTheEngineAndWoken) {
    const std::uint64_t before = offload::async_key_counters().offloaded;
    Pair pair;
    open(pair);
    EXPECT_EQ(finish(pair), 1);
    EXPECT_GT(pair.pauses, 0);
    EXPECT_EQ(pair.wakes, 1);
    EXPECT_EQ(offload::async_key_counters().offloaded - before, 1U);
    EXPECT_EQ(rig->engine.report(0).done, 1U);
}

TEST_P(AsyncKey, WithoutAJobItSignsOnTheSpot) {
    Pair pair;
    open(pair);
    SSL_clear_mode(pair.server.get(), SSL_MODE_ASYNC);
    EXPECT_EQ(finish(pair), 1);
    EXPECT_EQ(rig->engine.counters().submitted, 0U);
}

TEST_P(AsyncKey, WrongSignatureOfTheDeviceNeverReachesTheClient) {
    sim->set_faults({.wrong = 1000});
    Pair pair;
    open(pair);
    EXPECT_EQ(finish(pair), 1);
    EXPECT_EQ(rig->engine.counters().verify_failures, 1U);
}

TEST_P(AsyncKey, MoreHandshakesThanJobsWaitForOneAndAllFinish) {
    std::vector<std::unique_ptr<Pair>> pairs;
    for (std::size_t i = 0; i < 2 * pool_jobs; ++i)
        open(*pairs.emplace_back(std::make_unique<Pair>()));
    std::size_t done = 0;
    std::vector<bool> finished(pairs.size());
    for (unsigned round = 0; round < 1000 && done < pairs.size(); ++round) {
        for (std::size_t i = 0; i < pairs.size(); ++i) {
            if (finished[i]) continue;
            const int result = step(*pairs[i]);
            ASSERT_GE(result, 0);
            finished[i] = result == 1;
            done += result == 1 ? 1U : 0U;
        }
    }
    EXPECT_EQ(done, pairs.size());
    pairs.clear();
    EXPECT_EQ(startable_jobs(), pool_jobs);
}

TEST_P(AsyncKey, GivingUpEndsThePausedJobAtOnceAndItsRequest) {
    const std::uint64_t before = offload::async_key_counters().given_up;
    sim->die();
    Pair pair;
    open(pair);
    for (unsigned i = 0; i < 100 && SSL_waiting_for_async(pair.server.get()) == 0; ++i)
        ASSERT_EQ(step(pair), 0);
    ASSERT_EQ(SSL_waiting_for_async(pair.server.get()), 1);
    EXPECT_EQ(rig->engine.in_flight(), 1U);
    {
        const offload::GiveUp giving_up;
        static_cast<void>(SSL_do_handshake(pair.server.get()));
    }
    ERR_clear_error();
    EXPECT_EQ(SSL_waiting_for_async(pair.server.get()), 0);
    EXPECT_EQ(rig->engine.in_flight(), 0U);
    EXPECT_EQ(offload::async_key_counters().given_up - before, 1U);
    pair.server.reset();
    EXPECT_EQ(startable_jobs(), pool_jobs);
    sim->come_back();
    rig->turn_for(10ms); // what the device still makes of it finds nobody
    EXPECT_EQ(rig->engine.counters().late, 1U);
}

// The peer leaves after 0, 1, 2 ... steps: the job is drained, and every pool is as full as before.
TEST_P(AsyncKey, AbandonedHandshakesLeaveEveryPoolFull) {
    const char* wanted = std::getenv("MILLRACE_ABORTED_HANDSHAKES");
    const unsigned long count = wanted == nullptr ? 300 : std::strtoul(wanted, nullptr, 10);
    ASSERT_EQ(startable_jobs(), pool_jobs);
    unsigned long paused = 0;
    for (unsigned long i = 0; i < count; ++i) {
        Pair pair;
        open(pair);
        for (unsigned long steps = i % 6; steps > 0; --steps) {
            if (step(pair) != 0) break;
        }
        paused += SSL_waiting_for_async(pair.server.get()) == 1 ? 1U : 0U;
        drain(pair);
    }
    EXPECT_GT(paused, count / 10) << "the pauses were missed";
    EXPECT_EQ(startable_jobs(), pool_jobs);
    EXPECT_EQ(rig->engine.in_flight(), 0U);
    EXPECT_EQ(sim->in_flight(), 0U);
}

std::string version_name(const testing::TestParamInfo<int>& version) {
    return version.param == TLS1_2_VERSION ? "TLS12" : "TLS13";
}
INSTANTIATE_TEST_SUITE_P(Tls, AsyncKey, testing::Values(TLS1_2_VERSION, TLS1_3_VERSION),
                         version_name);

} // namespace
} // namespace tests
