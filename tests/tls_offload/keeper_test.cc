// Goal: what changes on disk reaches every shard, whole or not at all, and without a shard's help.
// Method: real files, inotify and threads; two shards that are looked into by hand. Nothing here
// waits for a fixed time: each wait ends with what it waits for, or after a limit that is far off.
#include "tests/tls_offload/pki.h"
#include "tests/tls_offload/tls_fixture.h"
#include "tls_offload/keeper.h"

#include <algorithm>
#include <array>
#include <functional>
#include <mutex>
#include <openssl/ocsp.h>
#include <sys/stat.h>
#include <thread>

namespace tests {
namespace {

namespace fs = std::filesystem;
using tls_offload::Keeper;
using tls_offload::KeeperTimes;
using tls_offload::TlsPort;
using tls_offload::TlsSettings;

constexpr KeeperTimes quick{.settle = 20ms,
                            .files_look = 60s,
                            .misfit_grace = 300ms,
                            .ticket_rotation = 3600s,
                            .ocsp_retry = 1s,
                            .ocsp_limit = 20s};
constexpr auto far_off = 30s;

base::WallTime wall_now() {
    return std::chrono::time_point_cast<base::WallTime::duration>(std::chrono::system_clock::now());
}

class KeeperTest : public ::testing::Test {
protected:
    ~KeeperTest() override {
        if (keeper) keeper->stop();
        shards.clear();
    }
    void put(const std::string& name, const std::string& stem = "site") {
        const Identity made = authority.issue(KeyKind::ec, {.common_name = name});
        last_leaf = tls_offload::CertificateHandle{X509_dup(made.certificate.get())};
        write_pair(made, &authority, folder.file(stem + ".pem.new"),
                   folder.file(stem + ".key.new"));
        fs::rename(folder.file(stem + ".key.new"), folder.file(stem + ".key"));
        fs::rename(folder.file(stem + ".pem.new"), folder.file(stem + ".pem"));
    }
    [[nodiscard]] TlsSettings settings(const std::string& stem = "site") const {
        TlsSettings made;
        made.server.certificate_file = folder.file(stem + ".pem");
        made.server.key_file = folder.file(stem + ".key");
        made.client.ca_file = folder.file("root.pem");
        return made;
    }
    void open(const TlsSettings& first, KeeperTimes times = quick) {
        auto opened = Keeper::open(
            first,
            [this](bool trouble, std::string_view event, std::string_view text) {
                const std::lock_guard lock(log_mutex);
                log += (trouble ? "! " : "") + std::string{event} + ": " + std::string{text} + "\n";
            },
            times);
        ASSERT_TRUE(opened.has_value()) << opened.error();
        keeper = std::move(*opened);
        for (int i = 0; i < 2; ++i) {
            shards.push_back(std::make_unique<Shard>());
            ASSERT_TRUE(keeper->attach(shards.back()->port).has_value());
        }
        keeper->start();
    }
    struct Shard {
        base::ManualClock clock{wall_now()};
        base::Loop loop{clock};
        base::Wakeup wakeup;
        TlsPort port{loop, wakeup};
        [[nodiscard]] std::string serves() {
            port.inbox().drain();
            const X509* leaf = SSL_CTX_get0_certificate(port.server()->state()->set->fallback());
            std::array<char, 100> name{};
            X509_NAME_get_text_by_NID(X509_get_subject_name(leaf), NID_commonName, name.data(),
                                      name.size());
            return name.data();
        }
    };
    static bool eventually(const std::function<bool()>& done) {
        const auto limit = std::chrono::steady_clock::now() + far_off;
        while (!done()) {
            if (std::chrono::steady_clock::now() > limit) return false;
            std::this_thread::sleep_for(5ms);
        }
        return true;
    }
    bool all_serve(const std::string& name) {
        return eventually([&] {
            return std::ranges::all_of(shards,
                                       [&](const auto& shard) { return shard->serves() == name; });
        });
    }
    bool logged(std::string_view text) {
        const std::lock_guard lock(log_mutex);
        return log.find(text) != std::string::npos;
    }

    TemporaryFolder folder;
    Authority authority{KeyKind::ec, wall_now()};
    tls_offload::CertificateHandle last_leaf;
    std::unique_ptr<Keeper> keeper;
    std::vector<std::unique_ptr<Shard>> shards;
    std::mutex log_mutex;
    std::string log;

    void SetUp() override {
        write_file(folder.file("root.pem"), pem_of(authority.certificate()));
        put("first");
    }
};

TEST_F(KeeperTest, RenewalByRenameReachesEveryShard) {
    open(settings());
    EXPECT_TRUE(all_serve("first"));
    put("second");
    EXPECT_TRUE(all_serve("second"));
    EXPECT_TRUE(logged("certificate_in_use"));
    put("third");
    EXPECT_TRUE(all_serve("third"));
}

TEST_F(KeeperTest, NewRevocationListReachesEveryShardAndABadOneIsKeptOut) {
    TlsSettings with_list = settings();
    with_list.client.crl_file = folder.file("lists.pem");
    write_file(with_list.client.crl_file, authority.revocation_list({}, 24h));
    open(with_list);
    const auto revoked = [&](Shard& shard) {
        shard.port.inbox().drain();
        X509_STORE* store =
            SSL_CTX_get_cert_store(shard.port.client()->state()->set->verified.get());
        STACK_OF(X509_OBJECT)* all = X509_STORE_get0_objects(store);
        for (int i = 0; i < sk_X509_OBJECT_num(all); ++i) {
            X509_CRL* list = X509_OBJECT_get0_X509_CRL(sk_X509_OBJECT_value(all, i));
            X509_REVOKED* entry = nullptr;
            if (list != nullptr && X509_CRL_get0_by_cert(list, &entry, last_leaf.get()) == 1)
                return true;
        }
        return false;
    };
    EXPECT_FALSE(revoked(*shards[0]));
    write_file(folder.file("lists.new"), authority.revocation_list({last_leaf.get()}, 24h));
    fs::rename(folder.file("lists.new"), with_list.client.crl_file);
    EXPECT_TRUE(eventually([&] {
        return std::ranges::all_of(shards, [&](const auto& shard) { return revoked(*shard); });
    }));
    write_file(folder.file("lists.new"), "nonsense");
    fs::rename(folder.file("lists.new"), with_list.client.crl_file);
    EXPECT_NE(keeper->reload().find("lists.pem"), std::string::npos);
    EXPECT_TRUE(revoked(*shards[0]));
}

TEST_F(KeeperTest, RenewalBehindSymbolicLinksIsSeen) {
    // As certbot does it: live/NAME/*.pem point into archive/NAME, and are pointed elsewhere.
    fs::create_directories(folder.file("archive/mx"));
    fs::create_directories(folder.file("live/mx"));
    const auto point_to = [&](const std::string& version) {
        for (const char* kind : {"fullchain", "privkey"}) {
            const std::string link = folder.file(std::string{"live/mx/"} + kind + ".pem");
            fs::remove(link);
            fs::create_symlink(std::string{"../../archive/mx/"} + kind + version + ".pem", link);
        }
    };
    const auto archive = [&](const std::string& version, const std::string& name) {
        put(name);
        fs::rename(folder.file("site.pem"), folder.file("archive/mx/fullchain" + version + ".pem"));
        fs::rename(folder.file("site.key"), folder.file("archive/mx/privkey" + version + ".pem"));
    };
    archive("1", "one");
    point_to("1");
    TlsSettings live = settings();
    live.server.certificate_file = folder.file("live/mx/fullchain.pem");
    live.server.key_file = folder.file("live/mx/privkey.pem");
    open(live);
    EXPECT_TRUE(all_serve("one"));
    archive("2", "two");
    point_to("2");
    EXPECT_TRUE(all_serve("two"));

    // A whole folder may be swapped by its link, too.
    fs::create_directories(folder.file("day1"));
    fs::create_directories(folder.file("day2"));
    put("day one", "day1/site");
    put("day two", "day2/site");
    fs::create_directory_symlink("day1", folder.file("today"));
    EXPECT_EQ(keeper->use(settings("today/site")), "");
    EXPECT_TRUE(all_serve("day one"));
    fs::create_directory_symlink("day2", folder.file("today.new"));
    fs::rename(folder.file("today.new"), folder.file("today"));
    EXPECT_TRUE(all_serve("day two"));
}

TEST_F(KeeperTest, BadFileKeepsTheOldSetAndSaysSo) {
    open(settings());
    write_file(folder.file("site.pem"), "garbage\n");
    EXPECT_TRUE(eventually([&] { return logged("! certificates_kept: certificate file"); }));
    EXPECT_NE(keeper->reload().find("site.pem"), std::string::npos);
    EXPECT_TRUE(all_serve("first"));
    fs::remove(folder.file("site.key"));
    EXPECT_NE(keeper->reload(), "");
    EXPECT_TRUE(all_serve("first"));
    put("mended");
    EXPECT_TRUE(all_serve("mended"));
    EXPECT_EQ(keeper->reload(), "");
}

TEST_F(KeeperTest, HalfReplacedPairIsNeitherUsedNorNews) {
    KeeperTimes patient = quick;
    patient.misfit_grace = 3600s;
    open(settings(), patient);
    const Identity next = authority.issue(KeyKind::ec, {.common_name = "next"});
    write_file(folder.file("site.pem"),
               pem_of(*next.certificate) + pem_of(authority.certificate()));
    std::this_thread::sleep_for(200ms); // long enough to be looked at
    for (const auto& shard : shards)
        EXPECT_EQ(shard->serves(), "first");
    write_file(folder.file("site.key"), pem_of(*next.key));
    EXPECT_TRUE(all_serve("next"));
    EXPECT_FALSE(logged("certificates_kept"));
}

TEST_F(KeeperTest, NewSettingsWithBadFilesAreTakenOnceTheFilesAreGood) {
    open(settings());
    const std::string why = keeper->use(settings("other"));
    EXPECT_NE(why.find("other.pem"), std::string::npos) << why;
    EXPECT_TRUE(all_serve("first"));
    put("other", "other");
    EXPECT_TRUE(all_serve("other"));
}

TEST_F(KeeperTest, OpenRefusesWhatDoesNotLoad) {
    const auto opened =
        Keeper::open(settings("absent"), [](bool, std::string_view, std::string_view) {});
    ASSERT_FALSE(opened.has_value());
    EXPECT_NE(opened.error().find("absent.pem"), std::string::npos) << opened.error();
}

TEST_F(KeeperTest, ConnectionsOfTheOldSetGoOn) {
    open(settings());
    Shard& shard = *shards[0];
    const auto old = shard.port.server()->state();
    put("second");
    ASSERT_TRUE(all_serve("second"));
    EXPECT_EQ(old->reference_count(), 1U); // ours alone, as a connection would have it
    EXPECT_NE(SSL_CTX_get0_certificate(old->set->fallback()), nullptr);
}

TEST_F(KeeperTest, ClientTrustIsRenewedAndForgetsItsSessions) {
    open(settings());
    const auto trust_of = [](Shard& shard) {
        shard.port.inbox().drain();
        return sk_X509_OBJECT_num(X509_STORE_get0_objects(
            SSL_CTX_get_cert_store(shard.port.client()->state()->set->verified.get())));
    };
    EXPECT_EQ(trust_of(*shards[0]), 1);
    const Authority other{KeyKind::ec, wall_now(), "Other Root"};
    write_file(folder.file("root.pem"),
               pem_of(authority.certificate()) + pem_of(other.certificate()));
    EXPECT_TRUE(eventually([&] { return trust_of(*shards[0]) == 2 && trust_of(*shards[1]) == 2; }));
}

TEST_F(KeeperTest, TicketKeysAreTheSameOnAllShardsAndRotate) {
    KeeperTimes fast = quick;
    fast.ticket_rotation = 1s;
    open(settings(), fast);
    // Looked at through the sets that the shards would seal with.
    const auto current = [](Shard& shard) {
        shard.port.inbox().drain();
        return shard.port.server()->state()->library->ticket_keys->current().name;
    };
    const auto first = current(*shards[0]);
    EXPECT_EQ(current(*shards[1]), first);
    EXPECT_TRUE(eventually([&] {
        return current(*shards[0]) != first && current(*shards[0]) == current(*shards[1]);
    }));
}

TEST_F(KeeperTest, OcspCommandFetchesWhatIsMissingAndGoodOnesOutliveTheirFile) {
    TlsSettings stapled = settings();
    stapled.server.ocsp_file = folder.file("ocsp.der");
    const std::string good = authority.ocsp(*last_leaf, V_OCSP_CERTSTATUS_GOOD, -1h, 48h);
    write_file(folder.file("fetched.der"), good);
    write_file(folder.file("fetch"), "#!/bin/sh\ntest \"$1\" = \"" + folder.file("site.pem") +
                                         "\" || exit 3\ncp \"" + folder.file("fetched.der") +
                                         "\" \"$2.new\" && mv \"$2.new\" \"$2\"\n");
    chmod(folder.file("fetch").c_str(), 0755);
    stapled.ocsp_command = folder.file("fetch");
    open(stapled);
    const auto state = [&] { return keeper->certificates().at(0).info.ocsp; };
    EXPECT_TRUE(eventually([&] { return state() == tls_offload::OcspState::good; }));
    // The command breaks; so does the file. The response in use stays until its time is over.
    write_file(folder.file("fetch"), "#!/bin/sh\nexit 7\n");
    write_file(folder.file("ocsp.der"), "garbage");
    EXPECT_EQ(keeper->reload(), "");
    EXPECT_EQ(state(), tls_offload::OcspState::good);
    EXPECT_NE(keeper->certificates().at(0).info.ocsp_text.find("kept from before"),
              std::string::npos);
}

TEST_F(KeeperTest, OcspCommandThatFailsIsTold) {
    TlsSettings stapled = settings();
    stapled.server.ocsp_file = folder.file("ocsp.der");
    stapled.ocsp_command = "/bin/false";
    open(stapled);
    EXPECT_TRUE(eventually([&] { return logged("! ocsp_command: status 1"); }));
    EXPECT_TRUE(all_serve("first"));
}

} // namespace
} // namespace tests
