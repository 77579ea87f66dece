// process_test.cc: the control process as a whole, with a real data-plane link on the other side of
// its socket.

#include "control/admin_server.h"
#include "control/control_process.h"
#include "control/event_search.h"
#include "dataplane/policy/control_link.h"
#include "dataplane/policy/snapshot.h"
#include "tests/control/temp_folder.h"

#include <fstream>
#include <gtest/gtest.h>
#include <httplib.h>
#include <mutex>
#include <netinet/in.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <sys/stat.h>
#include <thread>

namespace control {
namespace {

namespace policy = dataplane::policy;
using Json = nlohmann::json;
constexpr std::string_view good = "four unrelated wet horses";
constexpr std::string_view other = "seven dry umbrellas sing";

int free_port() {
    const int descriptor = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    bind(descriptor, reinterpret_cast<sockaddr*>(&address), bytes);
    getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &bytes);
    close(descriptor);
    return ntohs(address.sin_port);
}

struct Echo final : policy::ShardCommands {
    std::string run(const policy::ShardCommand& command) override {
        const Json given = Json::parse(command.arguments, nullptr, false);
        const std::string domain = given.is_object() ? given.value("domain", "") : "";
        if (domain == "refuse.example") return R"({"error":"no such domain"})";
        if (command.kind == policy::ShardCommand::Kind::queue_orders) {
            const std::lock_guard hold(lock);
            orders = given;
            return R"({"taken":1})";
        }
        if (command.kind == policy::ShardCommand::Kind::queue_end) {
            return R"({"touched":1,"busy":0,"how":")" + given.value("how", "") + R"("})";
        }
        if (command.kind == policy::ShardCommand::Kind::capture_read) {
            return R"({"running":1,"id":)" + std::to_string(command.capture.id) + R"(,"port":)" +
                   std::to_string(command.capture.filter.port) + R"(,"blocks":["AA==","AA=="]})";
        }
        return R"({"total":2,"messages":[{"id":"1","domain":")" + domain +
               R"("},{"id":"2"}],"messages_count":2,"touched":5})";
    }
    std::mutex lock;
    Json orders;
};

/// Two shards on one thread: what millraced is to the control process.
class FakeDataPlane {
public:
    FakeDataPlane(const std::string& state_dir, const std::string& run_dir)
        : first_(*policy::load_snapshot(state_dir + "/policy.snapshot")),
          slots_{policy::PolicySlot{first_}, policy::PolicySlot{first_}},
          link_({.socket_path = run_dir + "/control.sock",
                 .snapshot_path = state_dir + "/policy.snapshot",
                 .reconnect_min = std::chrono::milliseconds{20},
                 .reconnect_max = std::chrono::milliseconds{50}},
                first_) {
        for (std::size_t shard = 0; shard < 2; ++shard)
            ports_[shard] = &link_.attach(loop_, wakeup_, slots_[shard], echo_);
        link_.start();
        thread_ = std::thread([this] {
            while (!stop_) {
                turn();
                std::this_thread::sleep_for(std::chrono::microseconds{200});
            }
        });
    }
    ~FakeDataPlane() {
        stop_ = true;
        thread_.join();
        link_.stop();
    }
    policy::AuthVerdict login(std::string user, std::string_view password) {
        std::atomic<bool> done{false};
        policy::AuthVerdict verdict{};
        {
            const std::lock_guard hold(lock_);
            loop_.spawn(ask(std::move(user), std::string{password}, &verdict, &done), "test login");
        }
        while (!done)
            std::this_thread::sleep_for(std::chrono::milliseconds{1});
        return verdict;
    }
    std::uint64_t version() {
        const std::lock_guard hold(lock_);
        return std::min(slots_[0].current()->version, slots_[1].current()->version);
    }
    policy::AuthenticatorCounters counters() {
        const std::lock_guard hold(lock_);
        return ports_[0]->authenticator().counters();
    }

private:
    base::Task<void> ask(std::string user, std::string password, policy::AuthVerdict* verdict,
                         std::atomic<bool>* done) {
        const auto client = *base::IpAddress::parse("192.0.2.9");
        const auto deadline = base::Deadline::in(loop_, std::chrono::seconds{20});
        auto got = co_await ports_[0]->authenticator().verify(std::move(user), std::move(password),
                                                              client, deadline);
        *verdict = got;
        *done = true;
    }
    void turn() {
        const std::lock_guard hold(lock_);
        for (auto* port : ports_)
            port->inbox().drain();
        while (loop_.turn()) {
        }
    }
    policy::PolicyPtr first_;
    std::array<policy::PolicySlot, 2> slots_;
    base::RealClock clock_;
    base::Loop loop_{clock_};
    base::Wakeup wakeup_;
    Echo echo_;
    policy::ControlLink link_;
    std::array<policy::ShardPort*, 2> ports_{};
    std::mutex lock_;
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

class Process : public testing::Test {
protected:
    Process() { write_config("spool_size = \"1GiB\""); }
    void write_config(const std::string& line) {
        folder_.write(
            "m.toml",
            "[server]\nhostname = \"a.example\"\nstate_dir = \"s\"\nrun_dir = \"r\"\nspool_dir = "
            "\"q\"\n" +
                line +
                "\n[[listener]]\nname = \"l\"\naddress = \"127.0.0.1:25\"\nkind = \"relay\"\n"
                "[admin]\naddress = \"127.0.0.1:" +
                std::to_string(port_) + "\"\n");
    }
    void start() {
        auto started = ControlProcess::start(folder_.file("m.toml"), [](std::string_view) {});
        if (!started) throw std::runtime_error(started.error().front());
        process_ = std::move(*started);
        admin_ = std::make_unique<AdminServer>(*process_);
        token_ = folder_.read("r/admin.token");
        token_.pop_back();
    }
    void stop() { // as far as others can see this is also what kill -9 leaves behind, but for the
                  // socket file
        admin_.reset();
        process_.reset();
    }
    template <class Condition>
    static bool eventually(Condition condition) {
        for (int i = 0; i < 5000; ++i) {
            if (condition()) return true;
            std::this_thread::sleep_for(std::chrono::milliseconds{1});
        }
        return false;
    }
    httplib::Client http() { return httplib::Client("127.0.0.1", port_); }
    std::pair<int, Json> post(const std::string& path, const Json& body) {
        auto result = http().Post(path, {{"Authorization", "Bearer " + token_}}, body.dump(),
                                  "application/json");
        if (!result) return {0, nullptr};
        return {result->status, Json::parse(result->body, nullptr, false)};
    }

    tests::TempFolder folder_;
    int port_ = free_port();
    std::unique_ptr<ControlProcess> process_;
    std::unique_ptr<AdminServer> admin_;
    std::string token_;
};

TEST_F(Process, ApiNeedsTheTokenAndStatisticsDoNot) {
    start();
    struct stat status{};
    ASSERT_EQ(stat(folder_.file("r/admin.token").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600);
    ASSERT_EQ(stat(folder_.file("r/control.sock").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600);
    auto client = http();
    EXPECT_EQ(client.Get("/metrics")->status, 200);
    EXPECT_EQ(client.Get("/status")->status, 200);
    EXPECT_EQ(client.Get("/check-liveness")->status, 503) << "no data plane is connected";
    EXPECT_EQ(client.Get("/api/admin/accounts")->status, 401);
    EXPECT_EQ(
        client.Get("/api/admin/accounts", {{"Authorization", "Bearer " + std::string(64, '0')}})
            ->status,
        401);
    EXPECT_EQ(client.Post("/api/admin/reload")->status, 401);
    EXPECT_EQ(client.Get("/api/admin/accounts", {{"Authorization", "Bearer " + token_}})->status,
              200);
    EXPECT_EQ(client.Get("/status", {{"Host", "evil.example"}})->status, 401)
        << "a name that points here";
}

TEST_F(Process, AccountsReachTheDataPlaneAndChangesVoidCachedLogins) {
    start();
    FakeDataPlane plane(folder_.file("s"), folder_.file("r"));
    ASSERT_TRUE(eventually([&] { return process_->alive(); }));
    EXPECT_EQ(post("/api/admin/accounts/add", {{"name", "app"}, {"password", "short"}}).first, 400);
    EXPECT_EQ(
        post("/api/admin/accounts/add", {{"name", "app"}, {"password", good}, {"source", "gone"}})
            .first,
        400);
    EXPECT_EQ(post("/api/admin/accounts/add", {{"name", "app"}, {"password", good}}).first, 200);
    EXPECT_EQ(post("/api/admin/accounts/add", {{"name", "app"}, {"password", good}}).first, 409);
    ASSERT_TRUE(eventually([&] { return plane.version() == 2; }));

    EXPECT_EQ(plane.login("app", good), policy::AuthVerdict::accepted);
    EXPECT_EQ(plane.login("app", good), policy::AuthVerdict::accepted);
    EXPECT_EQ(plane.counters().cached, 1u);
    EXPECT_EQ(plane.login("app", other), policy::AuthVerdict::rejected);

    EXPECT_EQ(post("/api/admin/accounts/passwd", {{"name", "app"}, {"password", other}}).first,
              200);
    ASSERT_TRUE(eventually([&] { return plane.version() == 3; }));
    EXPECT_EQ(plane.login("app", good), policy::AuthVerdict::rejected)
        << "the cached login is of the old password";
    EXPECT_EQ(plane.login("app", other), policy::AuthVerdict::accepted);
    EXPECT_EQ(post("/api/admin/accounts/disable", {{"name", "app"}}).first, 200);
    ASSERT_TRUE(eventually([&] { return plane.version() == 4; }));
    EXPECT_EQ(plane.login("app", other), policy::AuthVerdict::rejected);
    EXPECT_EQ(post("/api/admin/accounts/remove", {{"name", "app"}}).first, 200);
    EXPECT_EQ(post("/api/admin/accounts/remove", {{"name", "app"}}).first, 404);
}

TEST_F(Process, CommandsAreMergedOverTheShards) {
    start();
    EXPECT_EQ(post("/api/admin/queue/list", Json::object()).first, 503) << "nobody to ask";
    FakeDataPlane plane(folder_.file("s"), folder_.file("r"));
    ASSERT_TRUE(eventually([&] { return process_->alive(); }));
    const auto [status, reply] =
        post("/api/admin/queue/list", {{"domain", "a.example"}, {"limit", 3}});
    EXPECT_EQ(status, 200);
    EXPECT_EQ(reply["total"], 4);
    ASSERT_EQ(reply["messages"].size(), 3u) << "the limit is over all shards";
    EXPECT_EQ(reply["messages"][0]["domain"], "a.example");
    const auto [refused, why] = post("/api/admin/queue/list", {{"domain", "refuse.example"}});
    EXPECT_EQ(refused, 503);
    EXPECT_EQ(why["error"], "no such domain");
    EXPECT_EQ(post("/api/admin/queue/flush", {{"domian", "a.example"}}).first, 400)
        << "a misspelt filter is not everything";
}

TEST_F(Process, SuspensionIsKeptOnDiskToldToTheShardsAndEnded) {
    start();
    const auto [status, reply] =
        post("/api/admin/queue/suspend",
             {{"domain", "a.example"}, {"reason", "blocked"}, {"for_s", 3600}});
    EXPECT_EQ(status, 200);
    EXPECT_EQ(reply["order"], 1);
    EXPECT_EQ(reply["in_use"], false) << "millraced is away: it reads the file when it starts";
    std::ifstream file(folder_.file("s") + "/queue_orders.json");
    const Json kept = Json::parse(file, nullptr, false);
    ASSERT_TRUE(kept.is_object());
    EXPECT_EQ(kept["orders"][0]["domain"], "a.example");
    EXPECT_EQ(kept["orders"][0]["kind"], "suspend");

    FakeDataPlane plane(folder_.file("s"), folder_.file("r"));
    ASSERT_TRUE(eventually([&] { return process_->alive(); }));
    EXPECT_EQ(post("/api/admin/queue/suspend", {{"tenant", "t"}}).second["in_use"], true);
    EXPECT_EQ(post("/api/admin/queue/resume", {{"domain", "b.example"}}).second["ended"], 0);
    EXPECT_EQ(post("/api/admin/queue/resume", {{"order", 1}, {"dry_run", true}}).second["ended"],
              1);
    EXPECT_EQ(post("/api/admin/queue/resume", {{"order", 1}}).second["ended"], 1);
    const auto [listed, orders] = post("/api/admin/queue/orders", Json::object());
    EXPECT_EQ(listed, 200);
    ASSERT_EQ(orders["orders"].size(), 1u);
    EXPECT_EQ(orders["orders"][0]["tenant"], "t");
}

TEST_F(Process, QueueCommandsThatCouldMeanTooMuchAreRefused) {
    start();
    FakeDataPlane plane(folder_.file("s"), folder_.file("r"));
    ASSERT_TRUE(eventually([&] { return process_->alive(); }));
    for (const auto& [verb, body] :
         {std::pair<std::string, Json>{"delete", Json::object()},
          {"delete", Json{{"domain", "a.example"}}}, // and the senders?
          {"delete", {{"domain", ""}, {"dsn", false}}},
          {"expire", Json{{"sendre", "a@b"}}},
          {"suspend", Json{{"site", "mx.example"}}}, // a site changes while mail waits
          {"suspend", Json::object()},
          {"reroute", Json{{"domain", "a.example"}}},
          {"reroute", {{"domain", "a.example"}, {"to", "nowhere"}}},
          {"resume", Json::object()},
          {"count", Json{{"by", "colour"}}},
          {"frobnicate", Json::object()}}) {
        EXPECT_EQ(post("/api/admin/queue/" + verb, body).first, 400) << verb << body;
    }
    EXPECT_EQ(
        post("/api/admin/queue/delete", {{"domain", "a.example"}, {"dsn", false}}).second["how"],
        "remove");
    EXPECT_EQ(post("/api/admin/queue/delete", {{"older_s", 60}, {"dsn", true}}).second["how"],
              "dsn");
    EXPECT_EQ(post("/api/admin/queue/expire", {{"everything", true}}).second["touched"], 2);
}

TEST_F(Process, CaptureReachesTheShardsAndNothingOfItIsCutOff) {
    start();
    FakeDataPlane plane(folder_.file("s"), folder_.file("r"));
    ASSERT_TRUE(eventually([&] { return process_->alive(); }));
    const auto [status, reply] = post("/api/admin/capture/read", {{"id", 21}, {"port", 25}});
    EXPECT_EQ(status, 200);
    EXPECT_EQ(reply["id"], 42) << "of two shards";
    EXPECT_EQ(reply["port"], 50);
    EXPECT_EQ(reply["running"], 2);
    EXPECT_EQ(reply["blocks"].size(), 4u);
    EXPECT_EQ(post("/api/admin/capture/read", {{"local", "192.0.2.1:25"}}).first, 503)
        << "half a connection";
    for (const Json& wrong :
         {Json{{"prot", 25}}, Json{{"port", "25"}}, Json{{"port", 65536}}, Json{{"port", -1}},
          Json{{"seconds", 3601}}, Json{{"bytes", (1U << 30) + 1ULL}}, Json{{"limit", 5}}}) {
        EXPECT_EQ(post("/api/admin/capture/start", wrong).first, 400) << wrong;
    }
    EXPECT_EQ(post("/api/admin/net/connections", {{"limit", 3}}).second["messages"].size(), 3u);
    EXPECT_EQ(post("/api/admin/net/connections", {{"domain", "a.example"}}).first, 400);
    EXPECT_EQ(http().Get("/status/net")->status, 503) << "no statistics page";
}

TEST_F(Process, ReloadPutsTheNewPolicyIntoUseOrChangesNothing) {
    start();
    FakeDataPlane plane(folder_.file("s"), folder_.file("r"));
    ASSERT_TRUE(eventually([&] { return process_->alive(); }));
    write_config("spool_size = \"2GiB\"\n[limits]\nerrors_max = 5");
    auto [status, report] = post("/api/admin/reload", Json::object());
    EXPECT_EQ(status, 200);
    EXPECT_EQ(report["in_use"], true);
    ASSERT_EQ(report["warnings"].size(), 1u);
    EXPECT_EQ(report["warnings"][0],
              "takes effect at the next start of millraced: server.spool_size");
    EXPECT_EQ(plane.version(), 2u);

    write_config("[limits]\nerrors_max = 0");
    std::tie(status, report) = post("/api/admin/reload", Json::object());
    EXPECT_EQ(status, 422);
    ASSERT_EQ(report["errors"].size(), 1u);
    EXPECT_NE(report["errors"][0].get<std::string>().find("m.toml:7: limits.errors_max: expected"),
              std::string::npos);
    EXPECT_EQ(plane.version(), 2u);
    EXPECT_EQ(policy::load_snapshot(folder_.file("s/policy.snapshot")).value()->version, 2u);
}

TEST_F(Process, DeathOfControlIsSurvivedAndItFindsItsShardsAgain) {
    start();
    ASSERT_TRUE(process_->add_account({.name = "app"}, good));
    FakeDataPlane plane(folder_.file("s"), folder_.file("r"));
    ASSERT_TRUE(eventually([&] { return process_->alive(); }));
    EXPECT_EQ(plane.login("app", good), policy::AuthVerdict::accepted);
    stop();
    EXPECT_EQ(plane.login("app", good), policy::AuthVerdict::accepted) << "from the cache";
    const std::uint64_t before = plane.version();
    start();
    ASSERT_TRUE(eventually([&] { return process_->alive(); }));
    ASSERT_TRUE(eventually([&] { return plane.version() > before; }));
    EXPECT_EQ(process_->status_json().find("\"connected\":false"), std::string::npos);
    EXPECT_EQ(plane.login("app", other), policy::AuthVerdict::rejected);
}

TEST_F(Process, SecondControlProcessOnTheSameStateIsRefused) {
    start();
    const auto second = ControlProcess::start(folder_.file("m.toml"), [](std::string_view) {});
    ASSERT_FALSE(second);
    EXPECT_NE(second.error().front().find("another millrace-control"), std::string::npos);
}

TEST_F(Process, AccountsChangedByAnotherProcessArePublished) {
    start();
    {
        auto store = AccountStore::open(folder_.file("s/accounts.db"));
        ASSERT_TRUE(store && (*store)->add({.name = "second"}, good));
    }
    process_->follow_accounts();
    const auto loaded = policy::load_snapshot(folder_.file("s/policy.snapshot"));
    ASSERT_TRUE(loaded);
    EXPECT_NE((*loaded)->account("second"), nullptr);
    process_->follow_accounts();
    EXPECT_EQ(policy::load_snapshot(folder_.file("s/policy.snapshot")).value()->version,
              (*loaded)->version)
        << "once";
}

TEST(EventSearch, FindsTheLinesOfOneMessageAcrossReadBoundaries) {
    const tests::TempFolder folder;
    std::string log;
    for (int i = 0; log.size() < (5U << 20) / 2; ++i) {
        log += R"({"type":"Reception","id":")" +
               std::string(i % 1000 == 7 ? "00000000000000aa" : "00000000000000bb") +
               R"(","size":)" + std::to_string(i) + "}\n";
    }
    const std::string whole = log;
    const auto events = find_events(
        folder.write("e.jsonl", log + R"({"type":"Delivery","id":"00000000000000aa","torn)"),
        "00000000000000aa");
    ASSERT_TRUE(events);
    std::size_t wanted = 0;
    for (std::size_t at = whole.find("aa\""); at != std::string::npos;
         at = whole.find("aa\"", at + 1))
        ++wanted;
    EXPECT_EQ(events->size(), wanted) << "each once, and not the line that is being written";
    for (const std::string& line : *events)
        EXPECT_TRUE(Json::accept(line)) << line;
    EXPECT_FALSE(find_events(folder.file("none"), "00000000000000aa"));
}

} // namespace
} // namespace control
