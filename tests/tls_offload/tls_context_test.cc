#include "tests/tls_offload/tls_fixture.h"

#include <fstream>
#include <openssl/pem.h>
#include <sys/stat.h>

namespace tests {
namespace {

using tls_offload::ClientContext;
using tls_offload::ServerContext;
using tls_offload::TlsContextErrorKind;

class TlsContextTest : public TlsFixture {
protected:
    tls_offload::TlsContextError server_error(const std::string& certificate,
                                              const std::string& key) {
        auto made = ServerContext::create(server_library,
                                          {.certificate_file = certificate, .key_file = key});
        CHECK(!made.has_value());
        return made.error();
    }
    void write_text(const std::string& name, std::string_view text) {
        std::ofstream{folder.file(name)} << text;
    }
};

TEST_F(TlsContextTest, MissingCertificateNamesFileAndReason) {
    const auto error = server_error(folder.file("absent.pem"), folder.file("key.pem"));
    EXPECT_EQ(error.kind, TlsContextErrorKind::certificate_file);
    EXPECT_NE(error.text.find("absent.pem"), std::string::npos) << error.text;
    EXPECT_NE(error.text.find("No such file"), std::string::npos) << error.text;
}

TEST_F(TlsContextTest, GarbageCertificateIsRefused) {
    write_text("garbage.pem", "not a certificate\n");
    const auto error = server_error(folder.file("garbage.pem"), folder.file("key.pem"));
    EXPECT_EQ(error.kind, TlsContextErrorKind::certificate_file);
    EXPECT_NE(error.text.find("no start line"), std::string::npos) << error.text;
}

TEST_F(TlsContextTest, MissingKeyIsTheKeyFilesError) {
    const auto error = server_error(folder.file("cert.pem"), folder.file("absent.pem"));
    EXPECT_EQ(error.kind, TlsContextErrorKind::key_file);
    EXPECT_NE(error.text.find("absent.pem"), std::string::npos) << error.text;
}

TEST_F(TlsContextTest, ForeignKeyIsAMismatch) {
    ASSERT_TRUE(tls_offload::make_self_signed("other.example", folder.file("other.pem"),
                                              folder.file("other.key"), clock.wall_now()));
    const auto error = server_error(folder.file("cert.pem"), folder.file("other.key"));
    EXPECT_EQ(error.kind, TlsContextErrorKind::key_mismatch);
    EXPECT_NE(error.text.find("other.key"), std::string::npos) << error.text;
}

TEST_F(TlsContextTest, EncryptedKeyFailsInsteadOfAskingForAPassPhrase) {
    const tls_offload::KeyHandle key{EVP_EC_gen("P-256")};
    FILE* file = fopen(folder.file("locked.key").c_str(), "w");
    ASSERT_NE(file, nullptr);
    ASSERT_EQ(PEM_write_PKCS8PrivateKey(file, key.get(), EVP_aes_128_cbc(), "secret", 6, nullptr,
                                        nullptr),
              1);
    fclose(file);
    EXPECT_EQ(server_error(folder.file("cert.pem"), folder.file("locked.key")).kind,
              TlsContextErrorKind::key_file);
}

TEST_F(TlsContextTest, MissingCaFileAndDirectoryAreNamed) {
    auto file = ClientContext::create(client_library, {.ca_file = folder.file("absent.pem")});
    ASSERT_FALSE(file.has_value());
    EXPECT_EQ(file.error().kind, TlsContextErrorKind::ca_file);
    EXPECT_NE(file.error().text.find("absent.pem"), std::string::npos) << file.error().text;

    auto directory = ClientContext::create(client_library, {.ca_dir = folder.file("absent")});
    ASSERT_FALSE(directory.has_value());
    EXPECT_EQ(directory.error().kind, TlsContextErrorKind::ca_dir);
    EXPECT_NE(directory.error().text.find("No such file"), std::string::npos)
        << directory.error().text;
}

TEST_F(TlsContextTest, CaDirectoryIsReadWholeAtOnce) {
    std::filesystem::create_directory(folder.file("ca"));
    std::filesystem::copy_file(folder.file("cert.pem"), folder.file("ca/0a1b2c3d.0"));
    write_text("ca/README", "not a certificate, and not named like one");
    auto client = make_client({.ca_dir = folder.file("ca")});
    std::filesystem::remove_all(folder.file("ca"));

    auto server = make_server();
    const auto ends =
        shake(make_pair(), client, server,
              {.server_name = "mx.example.com", .level = tls_offload::TlsLevel::verify});
    EXPECT_TRUE(ends.client->has_value());
}

TEST_F(TlsContextTest, SelfSignedKeyIsReadableByItsOwnerAlone) {
    struct stat status{};
    ASSERT_EQ(stat(folder.file("key.pem").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U);

    // Also when something laxer was there before.
    chmod(folder.file("key.pem").c_str(), 0644);
    SetUp();
    ASSERT_EQ(stat(folder.file("key.pem").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST_F(TlsContextTest, SelfSignedRefusesWhatIsNoHostName) {
    const auto made = tls_offload::make_self_signed("a,DNS:bank.example", folder.file("x.pem"),
                                                    folder.file("x.key"), clock.wall_now());
    ASSERT_FALSE(made.has_value());
    EXPECT_FALSE(std::filesystem::exists(folder.file("x.key")));
}

TEST_F(TlsContextTest, SelfSignedServesAnAddressToo) {
    ASSERT_TRUE(tls_offload::make_self_signed("192.0.2.25", folder.file("cert.pem"),
                                              folder.file("key.pem"), clock.wall_now()));
    auto server = make_server();
    auto client = make_client();
    auto ends = shake(make_pair(), client, server,
                      {.server_name = "192.0.2.25", .level = tls_offload::TlsLevel::verify});
    EXPECT_TRUE(ends.client->has_value()) << ends.client->error().text;
}

TEST_F(TlsContextTest, UnwritableFolderNamesTheFile) {
    const auto made = tls_offload::make_self_signed("mx.example.com", folder.file("none/c.pem"),
                                                    folder.file("none/k.pem"), clock.wall_now());
    ASSERT_FALSE(made.has_value());
    EXPECT_NE(made.error().find("none/k.pem"), std::string::npos) << made.error();
}

} // namespace
} // namespace tests
