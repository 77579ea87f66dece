// Goal: a client gets the certificate it asked for, the response beside it, and its session back on
// whichever shard it comes to.
#include "tests/tls_offload/pki.h"
#include "tests/tls_offload/tls_fixture.h"

#include <array>
#include <openssl/ocsp.h>

namespace tests {
namespace {

using tls_offload::CertificateFiles;
using tls_offload::OcspState;
using tls_offload::ServerContext;
using tls_offload::ServerOptions;
using tls_offload::TlsLevel;

/// What a client of plain OpenSSL sees: a client of ours would not say which certificate it got.
struct Seen {
    std::string common_name;
    std::string ocsp;
    int version = 0;
};

class ServerSetTest : public TlsFixture {
protected:
    CertificateFiles pair(const std::string& name, KeyKind kind, LeafOptions options) {
        options.common_name = name;
        const Identity made = authority.issue(kind, options);
        CertificateFiles files;
        files.certificate_file = folder.file(name + ".pem");
        files.key_file = folder.file(name + ".key");
        write_pair(made, &authority, files.certificate_file, files.key_file);
        leaf = tls_offload::CertificateHandle{X509_dup(made.certificate.get())};
        return files;
    }
    ServerContext serve(const CertificateFiles& first, std::vector<CertificateFiles> more = {}) {
        auto made =
            ServerContext::create(server_library, {.certificate_file = first.certificate_file,
                                                   .key_file = first.key_file,
                                                   .ocsp_file = first.ocsp_file,
                                                   .more = std::move(more)});
        CHECK(made.has_value());
        return std::move(*made);
    }
    Seen look(ServerContext& server, const char* sni, const char* signatures = nullptr,
              int version = TLS1_3_VERSION) {
        const tls_offload::SslCtxHandle context{SSL_CTX_new(TLS_client_method())};
        SSL_CTX_set_max_proto_version(context.get(), version);
        if (signatures != nullptr) CHECK(SSL_CTX_set1_sigalgs_list(context.get(), signatures) == 1);
        const tls_offload::SslHandle ssl{SSL_new(context.get())};
        if (sni != nullptr) SSL_set_tlsext_host_name(ssl.get(), sni);
        SSL_set_tlsext_status_type(ssl.get(), TLSEXT_STATUSTYPE_ocsp);
        BIO* in = BIO_new(BIO_s_mem());
        BIO* out = BIO_new(BIO_s_mem());
        SSL_set_bio(ssl.get(), in, out); // its owner from here on
        SSL_set_connect_state(ssl.get());

        auto pair = make_pair();
        std::optional<TlsResult> accepted;
        loop.spawn(
            store(accept_tls(std::move(pair.server), server, Deadline::in(loop, 10s)), &accepted),
            "server");
        for (int round = 0; round < 10 && SSL_do_handshake(ssl.get()) != 1; ++round) {
            char* bytes = nullptr;
            const long count = BIO_get_mem_data(out, &bytes);
            write(*pair.client, {bytes, static_cast<std::size_t>(count)});
            BIO_reset(out);
            run_until(loop, clock, [&] { return accepted.has_value(); }, 1s);
            while (!pair.client->unread().empty() ||
                   run(loop, clock, pair.client->fill(Deadline::in(loop, 100ms)))) {
                const auto piece = pair.client->unread();
                BIO_write(in, piece.data(), static_cast<int>(piece.size()));
                pair.client->consume(piece.size());
            }
        }
        Seen seen;
        if (SSL_is_init_finished(ssl.get()) != 1) return seen;
        std::array<char, 100> name{};
        X509_NAME_get_text_by_NID(X509_get_subject_name(SSL_get0_peer_certificate(ssl.get())),
                                  NID_commonName, name.data(), name.size());
        seen.common_name = name.data();
        seen.version = SSL_version(ssl.get());
        const unsigned char* response = nullptr;
        const long bytes = SSL_get_tlsext_status_ocsp_resp(ssl.get(), &response);
        if (bytes > 0)
            seen.ocsp.assign(reinterpret_cast<const char*>(response),
                             static_cast<std::size_t>(bytes));
        return seen;
    }

    Authority authority{KeyKind::ec, clock.wall_now()};
    tls_offload::CertificateHandle leaf; // of the last pair()
};

TEST_F(ServerSetTest, ExactNameThenWildcardThenDefault) {
    auto server =
        serve(pair("default", KeyKind::ec, {.names = {"relay.example.com"}}),
              {pair("exact", KeyKind::ec, {.names = {"a.example.net", "www.example.net"}}),
               pair("wild", KeyKind::ec, {.names = {"*.example.net"}})});
    EXPECT_EQ(look(server, "relay.example.com").common_name, "default");
    EXPECT_EQ(look(server, "a.example.net").common_name, "exact");
    EXPECT_EQ(look(server, "WWW.Example.Net").common_name, "exact");
    EXPECT_EQ(look(server, "b.example.net").common_name, "wild");
    EXPECT_EQ(look(server, "a.b.example.net").common_name, "default"); // one label, no more
    EXPECT_EQ(look(server, "example.net").common_name, "default");
    EXPECT_EQ(look(server, "nobody.example").common_name, "default");
    EXPECT_EQ(look(server, nullptr).common_name, "default");
    EXPECT_EQ(look(server, "b.example.net", nullptr, TLS1_2_VERSION).common_name, "wild");
}

TEST_F(ServerSetTest, ConfiguredNamesNarrowACertificateAndMustBeInIt) {
    CertificateFiles wide = pair("wide", KeyKind::ec, {.names = {"a.example", "b.example"}});
    wide.names = {"B.example"};
    const CertificateFiles first = pair("default", KeyKind::ec, {.names = {"c.example"}});
    auto server = serve(first, {wide});
    EXPECT_EQ(look(server, "b.example").common_name, "wide");
    EXPECT_EQ(look(server, "a.example").common_name, "default");

    wide.names = {"z.example"};
    const auto refused = ServerContext::create(
        server_library,
        {.certificate_file = first.certificate_file, .key_file = first.key_file, .more = {wide}});
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().kind, tls_offload::TlsContextErrorKind::names);
    EXPECT_NE(refused.error().text.find("z.example"), std::string::npos) << refused.error().text;
}

TEST_F(ServerSetTest, EcdsaIsPreferredAndRsaServesWhoHasNothingElse) {
    for (const bool rsa_first : {false, true}) {
        CertificateFiles ec = pair("ec", KeyKind::ec, {.names = {"mx.example.com"}});
        CertificateFiles rsa = pair("rsa", KeyKind::rsa, {.names = {"mx.example.com"}});
        if (rsa_first) std::swap(ec, rsa);
        rsa.is_default = true;
        auto server = serve(ec, {rsa});
        for (const char* sni : {"mx.example.com", static_cast<const char*>(nullptr)}) {
            for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
                EXPECT_EQ(look(server, sni, nullptr, version).common_name, "ec") << version;
                EXPECT_EQ(look(server, sni, "RSA-PSS+SHA256:RSA+SHA256:ECDSA+SHA256", version)
                              .common_name,
                          "ec");
                EXPECT_EQ(look(server, sni, "RSA-PSS+SHA256:RSA+SHA256", version).common_name,
                          "rsa")
                    << version;
            }
        }
    }
}

TEST_F(ServerSetTest, GoodOcspResponseIsStapledAndNoOther) {
    CertificateFiles files = pair("stapled", KeyKind::ec, {.must_staple = true});
    files.ocsp_file = folder.file("ocsp.der");
    const std::string good = authority.ocsp(*leaf, V_OCSP_CERTSTATUS_GOOD, -1h, 24h);
    write_file(files.ocsp_file, good);
    {
        auto server = serve(files);
        EXPECT_EQ(look(server, nullptr).ocsp, good);
        EXPECT_EQ(look(server, nullptr, nullptr, TLS1_2_VERSION).ocsp, good);
    }
    const auto state_of = [&](const std::string& bytes) {
        write_file(files.ocsp_file, bytes);
        const auto loaded = tls_offload::load_certificate(files, clock.wall_now());
        EXPECT_TRUE(loaded.has_value());
        EXPECT_TRUE(loaded->info.must_staple);
        EXPECT_EQ(loaded->ocsp_der.empty(), loaded->info.ocsp != OcspState::good);
        EXPECT_EQ(tls_offload::concerns(*loaded, clock.wall_now()).empty(),
                  loaded->info.ocsp == OcspState::good);
        return loaded->info.ocsp;
    };
    EXPECT_EQ(state_of(good), OcspState::good);
    EXPECT_EQ(state_of(authority.ocsp(*leaf, V_OCSP_CERTSTATUS_GOOD, -48h, -24h)),
              OcspState::stale);
    EXPECT_EQ(state_of(authority.ocsp(*leaf, V_OCSP_CERTSTATUS_REVOKED, -1h, 24h)),
              OcspState::unusable);
    EXPECT_EQ(state_of(authority.ocsp(*leaf, V_OCSP_CERTSTATUS_GOOD, 1h, 24h)),
              OcspState::unusable);
    const Identity other = authority.issue(KeyKind::ec);
    EXPECT_EQ(state_of(authority.ocsp(*other.certificate, V_OCSP_CERTSTATUS_GOOD, -1h, 24h)),
              OcspState::unusable);
    EXPECT_EQ(state_of("garbage"), OcspState::unusable);
    EXPECT_EQ(state_of(good.substr(0, good.size() / 2)), OcspState::unusable);
    EXPECT_EQ(state_of(""), OcspState::unusable);
}

TEST_F(ServerSetTest, SessionOfOneShardResumesOnAnotherAlsoAfterRotations) {
    tls_offload::TlsLibrary other_library{loop};
    tls_offload::TicketKeysPtr keys = tls_offload::make_ticket_keys();
    for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
        server_library.use_ticket_keys(keys);
        auto client = make_client();
        const auto serve_on = [&](tls_offload::TlsLibrary& library) {
            auto made = ServerContext::create(library, {.certificate_file = folder.file("cert.pem"),
                                                        .key_file = folder.file("key.pem")});
            CHECK(made.has_value());
            for (const auto& context : made->state()->set->contexts())
                SSL_CTX_set_max_proto_version(context.get(), version);
            return std::move(*made);
        };
        auto here = serve_on(server_library);
        auto there = serve_on(other_library);
        const auto resumed_on = [&](ServerContext& server) {
            auto ends = shake(make_pair(), client, server);
            CHECK(ends.client->has_value() && ends.server->has_value());
            StreamPtr near = std::move(**ends.client);
            StreamPtr far = std::move(**ends.server);
            write(*far, "220\r\n");
            EXPECT_EQ(read(*near, 5), "220\r\n"); // the tickets come with it
            const bool resumed = near->info().tls_resumed;
            near->close();
            far->close();
            run_until(loop, clock, [] { return false; }, 20s);
            return resumed;
        };
        EXPECT_FALSE(resumed_on(here));
        // A shard that is one rotation ahead knows the key, and one that is behind knows the next.
        other_library.use_ticket_keys(tls_offload::rotated(*keys, 2));
        EXPECT_TRUE(resumed_on(there));
        EXPECT_TRUE(resumed_on(here)); // sealed over there, with the key that is next here
        // The old key resumes, and gives way to the new one: with ever newer tickets the session
        // outlives its first key by far.
        for (int rotation = 0; rotation < 6; ++rotation) {
            keys = tls_offload::rotated(*keys, 2);
            server_library.use_ticket_keys(keys);
            EXPECT_TRUE(resumed_on(here)) << "rotation " << rotation;
        }
        // Left alone for longer than the ring is, it is forgotten.
        for (int rotation = 0; rotation < 4; ++rotation)
            keys = tls_offload::rotated(*keys, 2);
        server_library.use_ticket_keys(keys);
        EXPECT_FALSE(resumed_on(here));
    }
}

TEST_F(ServerSetTest, RingIsAsLongAsItSaysAndKnowsWhatIsOutdated) {
    tls_offload::TicketKeysPtr keys = tls_offload::make_ticket_keys();
    const tls_offload::TicketKey first = keys->current();
    EXPECT_FALSE(keys->outdated(*keys->find(first.name)));
    for (int rotation = 1; rotation <= 3; ++rotation) {
        const tls_offload::TicketKey next = keys->all()[0];
        keys = tls_offload::rotated(*keys, 2);
        EXPECT_EQ(keys->current().name, next.name);
        const auto* found = keys->find(first.name);
        ASSERT_EQ(found != nullptr, rotation <= 2) << rotation;
        if (found != nullptr) {
            EXPECT_TRUE(keys->outdated(*found));
            EXPECT_EQ(found->mac, first.mac);
        }
    }
    EXPECT_EQ(keys->all().size(), 4U);
}

TEST_F(ServerSetTest, CertificateIsDescribedForPeople) {
    const CertificateFiles files = pair(
        "described", KeyKind::rsa, {.names = {"A.example.com", "*.b.example"}, .valid_for = 48h});
    const auto loaded = tls_offload::load_certificate(files, clock.wall_now());
    ASSERT_TRUE(loaded.has_value());
    EXPECT_EQ(loaded->info.subject, "CN=described");
    EXPECT_EQ(loaded->info.issuer, "CN=Test Root");
    EXPECT_EQ(loaded->info.key_type, "RSA-2048");
    EXPECT_EQ(loaded->info.names, (std::vector<std::string>{"a.example.com", "*.b.example"}));
    EXPECT_EQ(loaded->info.chain_length, 2U);
    EXPECT_EQ(loaded->info.fingerprint, tls_offload::fingerprint_of(*leaf));
    EXPECT_FALSE(loaded->info.self_signed);
    const auto soon = tls_offload::concerns(*loaded, clock.wall_now());
    ASSERT_EQ(soon.size(), 1U);
    EXPECT_NE(soon[0].find("expires in 1 days"), std::string::npos) << soon[0];
    const auto late = tls_offload::concerns(*loaded, clock.wall_now() + 72h);
    ASSERT_EQ(late.size(), 1U);
    EXPECT_NE(late[0].find("has expired"), std::string::npos) << late[0];
}

} // namespace
} // namespace tests
