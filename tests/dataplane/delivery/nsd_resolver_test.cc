// nsd_resolver_test.cc: UnboundResolver against a real name server on loopback. Skipped (77)
// without nsd.
#include "dataplane/delivery/unbound_resolver.h"

#include "dataplane/delivery/domain.h"

#include <arpa/inet.h>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

extern char** environ;

namespace {

using namespace dataplane;
using namespace dataplane::delivery;
using namespace std::chrono_literals;

const char* nsd_path() {
    for (const char* path : {"/usr/sbin/nsd", "/usr/bin/nsd", "/usr/local/sbin/nsd"}) {
        if (access(path, X_OK) == 0) return path;
    }
    return nullptr;
}

constexpr const char* zone = R"($ORIGIN mill.example.
$TTL 300
@        SOA ns hostmaster 1 3600 600 86400 60
@        NS ns
ns       A 127.0.0.1
@        MX 20 backup
@        MX 10 MX1
mx1      A 127.0.0.2
mx1      AAAA ::1
backup   A 127.0.0.3
null     MX 0 .
implicit A 127.0.0.4
text     TXT "nothing for mail"
dangling MX 10 nowhere
alias    CNAME implicit
_25._tcp.mx1 TLSA 3 1 1 00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF
_25._tcp.backup TLSA 2 0 2 0123456789
xn--bcher-kva MX 10 mx1
)";

/// A name server with the zone above, for as long as it lives.
class Nsd {
public:
    /// \param sign  signs the zone, and then spoils the signed record of backup's TLSA
    explicit Nsd(bool sign = false) {
        std::string pattern =
            (std::filesystem::temp_directory_path() / "millrace-nsd-XXXXXX").string();
        CHECK(mkdtemp(pattern.data()) != nullptr);
        folder_ = pattern;
        port_ = free_port();
        std::ofstream{folder_ / "zone"} << zone;
        const std::string dir = folder_.string();
        if (sign) {
            const std::string command = "cd " + dir +
                                        " && key=$(ldns-keygen -a ED25519 -k mill.example) && " +
                                        "ldns-signzone zone $key && mv $key.ds anchor && " +
                                        "sed 's/0123456789/0123456780/' zone.signed >zone";
            CHECK(std::system(command.c_str()) == 0);
        }
        std::ofstream{folder_ / "nsd.conf"}
            << "server:\n  ip-address: 127.0.0.1@" << port_ << "\n  username: \"\"\n  zonesdir: \""
            << dir << "\"\n  pidfile: \"" << dir << "/pid\"\n  database: \"\"\n  zonelistfile: \""
            << dir << "/zonelist\"\n  xfrdfile: \"" << dir << "/xfrd\"\n  xfrdir: \"" << dir
            << "\"\n  logfile: \"" << dir << "/log\"\n"
            << "remote-control:\n  control-enable: no\n"
            << "zone:\n  name: \"mill.example\"\n  zonefile: \"zone\"\n";
        const std::string config = (folder_ / "nsd.conf").string();
        std::string arguments[] = {"nsd", "-d", "-c", config};
        char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(),
                        arguments[3].data(), nullptr};
        CHECK(posix_spawn(&process_, nsd_path(), nullptr, nullptr, argv, environ) == 0);
    }
    ~Nsd() {
        kill(process_, SIGTERM);
        waitpid(process_, nullptr, 0);
        std::error_code ignored;
        std::filesystem::remove_all(folder_, ignored);
    }
    Nsd(const Nsd&) = delete;
    Nsd& operator=(const Nsd&) = delete;
    [[nodiscard]] std::string anchor() const { return folder_ / "anchor"; }
    [[nodiscard]] std::string address() const { return "127.0.0.1@" + std::to_string(port_); }

private:
    static unsigned free_port() {
        const int socket_fd = socket(AF_INET, SOCK_DGRAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        CHECK(bind(socket_fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
        socklen_t bytes = sizeof address;
        CHECK(getsockname(socket_fd, reinterpret_cast<sockaddr*>(&address), &bytes) == 0);
        close(socket_fd);
        return ntohs(address.sin_port);
    }
    std::filesystem::path folder_;
    unsigned port_ = 0;
    pid_t process_ = 0;
};

Nsd* server = nullptr;  // of the whole run
Nsd* signing = nullptr; // the same zone, signed; null without ldns

class UnboundResolverTest : public ::testing::Test {
protected:
    ~UnboundResolverTest() override { service.stop(); }

    enum class Answers { taken, held };

    /// \param answers  held: none is taken from the inbox, however soon the server sends it
    template <class T>
    T run(base::Task<T> task, Answers answers = Answers::taken) {
        std::optional<T> value;
        auto wrap = [](base::Task<T> inner, std::optional<T>* out) -> base::Task<void> {
            auto result = co_await std::move(inner);
            out->emplace(std::move(result));
        };
        loop.spawn(wrap(std::move(task), &value), "test");
        const auto give_up = std::chrono::steady_clock::now() + 20s;
        while (!value && std::chrono::steady_clock::now() < give_up) {
            if (answers == Answers::taken) resolver.inbox().drain();
            if (!loop.turn()) std::this_thread::sleep_for(1ms);
        }
        CHECK(value.has_value());
        return std::move(*value);
    }
    MxResult mx(std::string domain) {
        return run(resolver.mx(std::move(domain), base::Deadline::in(loop, 15s)));
    }
    AddressResult addresses(std::string host) {
        return run(resolver.addresses(std::move(host), base::Deadline::in(loop, 15s)));
    }

    TlsaResult tlsa(std::string name) {
        return run(resolver.tlsa(std::move(name), base::Deadline::in(loop, 15s)));
    }

    explicit UnboundResolverTest(DnsOptions options = {.servers = {server->address()}})
        : service(std::move(options)) {}

    base::RealClock clock;
    base::Loop loop{clock};
    base::Wakeup wakeup;
    DnsService service;
    UnboundResolver resolver{loop, wakeup, service, 0};
};

/// Against the signed zone, with its key as the trust anchor.
class ValidatingResolverTest : public UnboundResolverTest {
protected:
    ValidatingResolverTest()
        : UnboundResolverTest(signing == nullptr
                                  ? DnsOptions{.servers = {server->address()}}
                                  : DnsOptions{.servers = {signing->address()},
                                               .dnssec = true,
                                               .trust_anchor_file = signing->anchor()}) {}
    void SetUp() override {
        if (signing == nullptr) GTEST_SKIP() << "ldns-signzone is not installed (ldnsutils)";
    }
};

TEST_F(UnboundResolverTest, TlsaRecordsComeAndCountForNothingUnsigned) {
    const auto found = tlsa("_25._tcp.mx1.mill.example");
    ASSERT_TRUE(found.has_value()) << to_string(found.error());
    ASSERT_EQ((*found)->records.size(), 1U);
    const tls_offload::TlsaRecord& record = (*found)->records[0];
    EXPECT_EQ(record.usage, 3);
    EXPECT_EQ(record.selector, 1);
    EXPECT_EQ(record.matching_type, 1);
    ASSERT_EQ(record.data.size(), 32U);
    EXPECT_EQ(record.data[1], 0x11);
    EXPECT_FALSE((*found)->secure);
    const auto none = tlsa("_25._tcp.ns.mill.example");
    ASSERT_TRUE(none.has_value()) << to_string(none.error());
    EXPECT_TRUE((*none)->records.empty());
    const auto hosts = mx("mill.example");
    ASSERT_TRUE(hosts.has_value());
    EXPECT_FALSE((*hosts)->secure);
}

TEST_F(ValidatingResolverTest, SignedAnswersAreSecureAndSoIsTheirAbsence) {
    const auto hosts = mx("mill.example");
    ASSERT_TRUE(hosts.has_value()) << to_string(hosts.error());
    EXPECT_TRUE((*hosts)->secure);
    const auto found = addresses("mx1.mill.example");
    ASSERT_TRUE(found.has_value()) << to_string(found.error());
    EXPECT_TRUE((*found)->secure);
    const auto record = tlsa("_25._tcp.mx1.mill.example");
    ASSERT_TRUE(record.has_value()) << to_string(record.error());
    EXPECT_TRUE((*record)->secure);
    EXPECT_EQ((*record)->records.size(), 1U);
    const auto none = tlsa("_25._tcp.ns.mill.example");
    ASSERT_TRUE(none.has_value()) << to_string(none.error());
    EXPECT_TRUE((*none)->secure);
    EXPECT_TRUE((*none)->records.empty());
}

TEST_F(ValidatingResolverTest, ForgedRecordIsAFailureNotAnAnswer) {
    const auto forged = tlsa("_25._tcp.backup.mill.example");
    ASSERT_FALSE(forged.has_value());
    EXPECT_EQ(forged.error(), ResolveError::temporary);
}

TEST_F(UnboundResolverTest, MxHostsComeInOrderAndLowerCase) {
    const auto found = mx("mill.example");
    ASSERT_TRUE(found.has_value()) << to_string(found.error());
    ASSERT_EQ((*found)->hosts.size(), 2U);
    EXPECT_EQ((*found)->hosts[0].host, "mx1.mill.example");
    EXPECT_EQ((*found)->hosts[0].preference, 10);
    EXPECT_EQ((*found)->hosts[1].host, "backup.mill.example");
    EXPECT_GT((*found)->valid_until, loop.now() + 200s);
    EXPECT_LE((*found)->valid_until, loop.now() + 301s);
}

TEST_F(UnboundResolverTest, AddressesOfBothFamilies) {
    const auto found = addresses("mx1.mill.example");
    ASSERT_TRUE(found.has_value()) << to_string(found.error());
    ASSERT_EQ((*found)->addresses.size(), 2U);
    EXPECT_EQ((*found)->addresses[0].to_string(), "127.0.0.2");
    EXPECT_EQ((*found)->addresses[1].to_string(), "::1");
    EXPECT_EQ((*addresses("alias.mill.example"))->addresses.at(0).to_string(), "127.0.0.4");
}

TEST_F(UnboundResolverTest, SpecialAnswersAreToldApart) {
    EXPECT_EQ(mx("null.mill.example").error(), ResolveError::no_mail);
    EXPECT_EQ(mx("missing.mill.example").error(), ResolveError::no_such_domain);
    EXPECT_EQ(addresses("nowhere.mill.example").error(), ResolveError::no_such_domain);
    EXPECT_EQ(addresses("text.mill.example").error(), ResolveError::no_data);
    const auto implicit = mx("implicit.mill.example");
    ASSERT_TRUE(implicit.has_value());
    EXPECT_TRUE((*implicit)->implicit);
    EXPECT_EQ((*implicit)->hosts.at(0).host, "implicit.mill.example");
    EXPECT_EQ((*mx("dangling.mill.example"))->hosts.at(0).host, "nowhere.mill.example");
}

TEST_F(UnboundResolverTest, InternationalDomainsAreAskedForByTheirALabels) {
    const auto ascii = to_ascii("b\xc3\xbc"
                                "cher.mill.example");
    ASSERT_TRUE(ascii.has_value());
    EXPECT_EQ((*mx(*ascii))->hosts.at(0).host, "mx1.mill.example");
}

TEST_F(UnboundResolverTest, AnswersAreCachedNegativeOnesToo) {
    static_cast<void>(mx("mill.example"));
    static_cast<void>(mx("missing.mill.example"));
    const auto asked = resolver.question_count();
    for (int i = 0; i < 10; ++i) {
        static_cast<void>(mx("mill.example"));
        static_cast<void>(mx("missing.mill.example"));
    }
    EXPECT_EQ(resolver.question_count(), asked);
    EXPECT_EQ(resolver.cached_count(), 2U);
}

TEST_F(UnboundResolverTest, EqualQuestionsAtOnceAreAskedOnce) {
    int answered = 0;
    auto ask = [](UnboundResolver* whom, base::Loop* time, int* count) -> base::Task<void> {
        const auto found = co_await whom->mx("mill.example", base::Deadline::in(*time, 15s));
        if (found) ++*count;
    };
    for (int i = 0; i < 50; ++i)
        loop.spawn(ask(&resolver, &loop, &answered), "ask");
    static_cast<void>(mx("mill.example"));
    EXPECT_EQ(answered, 50);
    EXPECT_EQ(resolver.question_count(), 1U);
}

TEST_F(UnboundResolverTest, DeadlineEndsTheWaitAndTheAnswerIsKept) {
    const auto late =
        run(resolver.mx("mill.example", base::Deadline::in(loop, 10ms)), Answers::held);
    ASSERT_FALSE(late.has_value());
    EXPECT_EQ(late.error(), ResolveError::temporary);
    EXPECT_TRUE(mx("mill.example").has_value());
    EXPECT_EQ(resolver.question_count(), 1U);
}

TEST(DnsServiceTest, SilentServerIsATemporaryFailure) {
    base::RealClock clock;
    base::Loop loop{clock};
    base::Wakeup wakeup;
    DnsService service{{.servers = {"127.0.0.1@1"}}};
    UnboundResolver resolver{loop, wakeup, service, 0};
    std::optional<MxResult> result;
    auto ask = [](UnboundResolver* whom, base::Loop* time,
                  std::optional<MxResult>* out) -> base::Task<void> {
        auto found = co_await whom->mx("mill.example", base::Deadline::in(*time, 3s));
        out->emplace(std::move(found));
    };
    loop.spawn(ask(&resolver, &loop, &result), "ask");
    while (!result) {
        resolver.inbox().drain();
        if (!loop.turn()) std::this_thread::sleep_for(1ms);
    }
    ASSERT_FALSE(result->has_value());
    EXPECT_EQ(result->error(), ResolveError::temporary);
    service.stop(); // with questions still open
}

} // namespace

int main(int argc, char** argv) {
    ::testing::InitGoogleTest(&argc, argv);
    if (nsd_path() == nullptr) {
        std::fprintf(stderr, "skipped: nsd is not installed (apt install nsd)\n");
        return 77;
    }
    Nsd nsd;
    server = &nsd;
    std::optional<Nsd> signed_zone;
    if (access("/usr/bin/ldns-signzone", X_OK) == 0) signing = &signed_zone.emplace(true);
    std::this_thread::sleep_for(500ms); // until it listens; the resolver would ask again otherwise
    return RUN_ALL_TESTS();
}
