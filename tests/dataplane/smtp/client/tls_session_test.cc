#include "tests/dataplane/smtp/client/session_fixture.h"
#include "tls_offload/self_signed.h"
#include "tls_offload/tls_stream.h"

#include <cstdlib>
#include <filesystem>

namespace tests {
namespace {

using dataplane::policy::TlsLevel;
using smtp::Cause;
using smtp::Stage;

base::Task<base::StreamPtr> accept_tls(tls_offload::ServerContext* server, base::Loop* loop,
                                       base::StreamPtr stream) {
    auto secured = co_await tls_offload::accept_tls(std::move(stream), *server,
                                                    base::Deadline::in(*loop, 30s));
    if (!secured) co_return base::StreamPtr{};
    co_return std::move(*secured);
}

base::Task<base::StreamPtr> talk_nonsense(base::StreamPtr stream) {
    static_cast<void>(co_await stream->fill(base::Deadline::never())); // the ClientHello
    const std::string text = "this is not TLS at all\r\n";
    static_cast<void>(co_await stream->write(base::as_bytes(text), base::Deadline::never()));
    stream->close();
    co_return base::StreamPtr{};
}

class TlsSession : public SessionFixture {
protected:
    void SetUp() override {
        SessionFixture::SetUp();
        std::string pattern =
            (std::filesystem::temp_directory_path() / "millrace-client-XXXXXX").string();
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        folder = pattern;
        const std::string certificate = folder / "cert.pem";
        const std::string key = folder / "key.pem";
        ASSERT_TRUE(
            tls_offload::make_self_signed("peer.example", certificate, key, clock.wall_now()));
        auto made = tls_offload::ServerContext::create(
            library, {.certificate_file = certificate, .key_file = key});
        ASSERT_TRUE(made.has_value());
        server.emplace(std::move(*made));
        auto trusting = tls_offload::ClientContext::create(library, {.ca_file = certificate});
        ASSERT_TRUE(trusting.has_value());
        client.emplace(std::move(*trusting));
        options.tls_context = &*client;
        peer.upgrade = [this](base::StreamPtr stream) {
            return accept_tls(&*server, &loop, std::move(stream));
        };
    }
    void TearDown() override {
        SessionFixture::TearDown();
        std::error_code ignored;
        std::filesystem::remove_all(folder, ignored);
    }

    std::filesystem::path folder;
    tls_offload::TlsLibrary library{loop};
    std::optional<tls_offload::ServerContext> server;
    std::optional<tls_offload::ClientContext> client;
};

TEST_F(TlsSession, OffersAreReadAgainUnderTls) {
    ASSERT_TRUE(open());
    EXPECT_TRUE(session->tls());
    EXPECT_FALSE(session->info().tls_version.empty());
    EXPECT_EQ(peer.count("EHLO"), 2U);
    EXPECT_FALSE(session->capabilities().offers(smtp::Extension::starttls));
    const auto results =
        transact(message("Subject: a\r\n\r\n" + std::string(100'000, 'x') + "\r\n"));
    EXPECT_TRUE(results[0].positive());
    ASSERT_EQ(peer.accepted.size(), 1U);
    EXPECT_TRUE(peer.accepted[0].tls);
}

TEST_F(TlsSession, VerifiedPeerIsAccepted) {
    options.tls = TlsLevel::verify;
    EXPECT_TRUE(open());
    EXPECT_TRUE(session->tls());
}

TEST_F(TlsSession, PeerOfAnotherNameFailsVerification) {
    options.tls = TlsLevel::verify;
    options.host_name = "other.example";
    EXPECT_FALSE(open());
    EXPECT_EQ(session->failure().cause, Cause::tls);
    EXPECT_EQ(session->failure().stage, Stage::starttls);
}

TEST_F(TlsSession, NoneMeansNotAsked) {
    options.tls = TlsLevel::none;
    ASSERT_TRUE(open());
    EXPECT_EQ(peer.count("STARTTLS"), 0U);
}

TEST_F(TlsSession, RefusedStarttlsGoesOnInTheClearWhenTlsIsOptional) {
    peer.reply("STARTTLS", "454 4.7.0 not today");
    ASSERT_TRUE(open());
    EXPECT_FALSE(session->tls());
    EXPECT_TRUE(transact(message("a\r\n"))[0].positive());

    options.tls = TlsLevel::encrypt;
    EXPECT_FALSE(open());
    EXPECT_EQ(session->failure().code, 454);
}

TEST_F(TlsSession, BrokenHandshakeIsToldApartFromABrokenConnection) {
    peer.upgrade = [](base::StreamPtr stream) { return talk_nonsense(std::move(stream)); };
    EXPECT_FALSE(open());
    EXPECT_EQ(session->failure().cause, Cause::tls);
    EXPECT_FALSE(session->usable());
}

// Goal: what somebody in between adds to the 220 is never read as if it came under TLS
// (CVE-2011-0411).
TEST_F(TlsSession, BytesBehindTheReplyToStarttlsEndTheSession) {
    peer.reply("STARTTLS", "220 go\r\n250 injected");
    EXPECT_FALSE(open());
    EXPECT_FALSE(session->usable());
    EXPECT_EQ(session->failure().cause, Cause::tls);
    EXPECT_EQ(session->failure().text, "unexpected data behind the reply to STARTTLS");
}

} // namespace
} // namespace tests
