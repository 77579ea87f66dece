// control_link_test.cc: the link to a control process that is away, comes back, hangs, or talks
// nonsense.

#include "control/config.h"
#include "control/policy_compiler.h"
#include "control/schema/frame.h"
#include "dataplane/base/check.h"
#include "dataplane/policy/control_link.h"
#include "dataplane/policy/snapshot.h"
#include "tests/control/temp_folder.h"

#include <gtest/gtest.h>
#include <mutex>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

namespace dataplane::policy {
namespace {

using namespace std::chrono_literals;
namespace schema = control::schema;

/// A control process in the hands of the test: it says what it is told to, and nothing else.
class FakeControl {
public:
    explicit FakeControl(const std::string& path) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof address.sun_path - 1);
        unlink(path.c_str());
        listener_ = socket(AF_UNIX, SOCK_STREAM, 0);
        CHECK(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
              listen(listener_, 4) == 0);
    }
    ~FakeControl() {
        hang_up();
        close(listener_);
    }
    void accept() {
        pollfd waiting{listener_, POLLIN, 0};
        CHECK(poll(&waiting, 1, 5000) == 1);
        descriptor_ = ::accept(listener_, nullptr, nullptr);
        reader_ = {};
    }
    void hang_up() {
        if (descriptor_ >= 0) close(descriptor_);
        descriptor_ = -1;
    }
    const schema::Message& next() {
        for (;;) {
            if (const auto message = reader_.next()) return **message;
            std::array<std::byte, 4096> bytes;
            pollfd waiting{descriptor_, POLLIN, 0};
            CHECK(poll(&waiting, 1, 5000) == 1);
            const ssize_t got = recv(descriptor_, bytes.data(), bytes.size(), 0);
            CHECK(got > 0);
            reader_.append(std::span{bytes}.first(static_cast<std::size_t>(got)));
        }
    }
    template <class Table>
    void send(flatbuffers::FlatBufferBuilder& builder, flatbuffers::Offset<Table> body) {
        const std::string frame = schema::make_frame(builder, body);
        send_bytes(frame);
    }
    void send_bytes(std::string_view bytes) {
        // In two pieces: a stream has no boundaries.
        CHECK(::send(descriptor_, bytes.data(), 3, 0) == 3);
        std::this_thread::sleep_for(2ms);
        CHECK(::send(descriptor_, bytes.data() + 3, bytes.size() - 3, MSG_NOSIGNAL) ==
              static_cast<ssize_t>(bytes.size() - 3));
    }
    bool closed_by_peer() {
        pollfd waiting{descriptor_, POLLIN, 0};
        char byte = 0;
        return poll(&waiting, 1, 5000) == 1 && recv(descriptor_, &byte, 1, 0) <= 0;
    }

private:
    int listener_ = -1, descriptor_ = -1;
    schema::FrameReader reader_;
};

struct Counting final : ShardCommands {
    std::string run(const ShardCommand& command) override {
        last = command;
        return R"({"touched":2})";
    }
    ShardCommand last;
};

class Link : public testing::Test {
protected:
    Link() {
        publish("a.example");
        first_ = load_snapshot(folder_.file("policy.snapshot")).value();
        slots_.assign(2, PolicySlot{first_});
        link_ = std::make_unique<ControlLink>(
            ControlLinkOptions{.socket_path = folder_.file("control.sock"),
                               .snapshot_path = folder_.file("policy.snapshot"),
                               .reconnect_min = 10ms,
                               .reconnect_max = 40ms,
                               .snapshot_look = 30ms,
                               .command_limit = 200ms,
                               .log =
                                   [this](std::string_view line) {
                                       const std::lock_guard hold(lock_);
                                       log_ += std::string{line} + "\n";
                                   }},
            first_);
        for (std::size_t shard = 0; shard < 2; ++shard) {
            ports_.push_back(
                &link_->attach(loop_, wakeup_, slots_[shard], commands_, [this] { ++changes_; }));
        }
        link_->start();
    }
    ~Link() override { link_->stop(); }

    std::uint64_t publish(const std::string& hostname, const std::string& more = "") {
        auto result = control::parse_config(
            "[server]\nhostname = \"" + hostname + "\"\n" + more +
                "[[listener]]\nname = \"l\"\naddress = \"127.0.0.1:25\"\nkind = \"relay\"\n",
            "m.toml");
        CHECK(result.errors.empty());
        return control::publish_snapshot(result.config.policy, folder_.file("policy.snapshot"))
            .value();
    }
    void turn() {
        for (ShardPort* port : ports_)
            port->inbox().drain();
        while (loop_.turn()) {
        }
    }
    template <class Condition>
    bool eventually(Condition condition) {
        for (int i = 0; i < 5000; ++i) {
            turn();
            if (condition()) return true;
            std::this_thread::sleep_for(1ms);
        }
        return false;
    }
    static base::Task<void> ask(LinkAuthenticator* authenticator, base::Loop* loop,
                                std::string password, std::optional<AuthVerdict>* out) {
        const auto deadline = base::Deadline::in(*loop, 20s);
        const auto client = *base::IpAddress::parse("192.0.2.1");
        auto verdict = co_await authenticator->verify("app", std::move(password), client, deadline);
        *out = verdict;
    }
    void login(std::optional<AuthVerdict>& verdict, std::string password = "right") {
        loop_.spawn(ask(&ports_[0]->authenticator(), &loop_, std::move(password), &verdict),
                    "login");
        turn();
    }
    std::string log() {
        const std::lock_guard hold(lock_);
        return log_;
    }

    tests::TempFolder folder_;
    base::RealClock clock_;
    base::Loop loop_{clock_};
    base::Wakeup wakeup_;
    PolicyPtr first_;
    std::vector<PolicySlot> slots_;
    Counting commands_;
    std::mutex lock_;
    std::string log_;
    int changes_ = 0;
    std::unique_ptr<ControlLink> link_;
    std::vector<ShardPort*> ports_;
};

TEST_F(Link, SaysHelloAndComesBackEachTimeControlDies) {
    FakeControl control(folder_.file("control.sock"));
    for (int life = 0; life < 3; ++life) {
        control.accept();
        const auto* hello = control.next().body_as_Hello();
        ASSERT_NE(hello, nullptr);
        EXPECT_EQ(hello->shards(), 2u);
        EXPECT_EQ(hello->process_id(), static_cast<std::uint32_t>(getpid()));
        EXPECT_EQ(hello->policy_version(), 1u);
        control.hang_up();
    }
}

TEST_F(Link, QuestionOutlivesADeadControlProcess) {
    std::optional<AuthVerdict> verdict;
    login(verdict, std::string("ri\0ght", 6));
    {
        FakeControl control(folder_.file("control.sock"));
        control.accept();
        ASSERT_NE(control.next().body_as_Hello(), nullptr);
        ASSERT_NE(control.next().body_as_CredentialQuery(), nullptr);
    } // dies with the question in hand
    FakeControl control(folder_.file("control.sock"));
    control.accept();
    ASSERT_NE(control.next().body_as_Hello(), nullptr);
    const auto* query = control.next().body_as_CredentialQuery();
    ASSERT_NE(query, nullptr);
    EXPECT_EQ(schema::view(query->user()), "app");
    EXPECT_EQ(schema::view(query->password()), std::string_view("ri\0ght", 6))
        << "a NUL is not the end of a password";
    EXPECT_EQ(schema::view(query->client()), "192.0.2.1");
    flatbuffers::FlatBufferBuilder builder;
    control.send(builder, schema::CreateCredentialAnswer(builder, query->id(),
                                                         schema::Verdict::accepted, 1, 0));
    EXPECT_TRUE(eventually([&] { return verdict.has_value(); }));
    EXPECT_EQ(verdict, AuthVerdict::accepted);
}

TEST_F(Link, NewSnapshotReachesEveryShardWithoutControl) {
    const std::uint64_t version = publish("b.example");
    EXPECT_TRUE(eventually([&] {
        return slots_[0].current()->version == version && slots_[1].current()->version == version;
    }));
    EXPECT_EQ(slots_[0].current()->hostname, "b.example");
    EXPECT_EQ(changes_, 2);
    const std::weak_ptr<const Policy> old = first_;
    first_.reset();
    EXPECT_TRUE(eventually([&] { return old.expired(); })) << "the link frees what nobody uses";
}

TEST_F(Link, DamagedSnapshotIsRefusedAndTheOldOneStays) {
    FakeControl control(folder_.file("control.sock"));
    control.accept();
    ASSERT_NE(control.next().body_as_Hello(), nullptr);
    std::string bytes = folder_.read("policy.snapshot");
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    folder_.write("new", bytes);
    std::filesystem::rename(folder_.file("new"), folder_.file("policy.snapshot"));
    const auto* report = control.next().body_as_PolicyReport();
    ASSERT_NE(report, nullptr);
    EXPECT_FALSE(report->ok());
    EXPECT_EQ(report->version(), 1u);
    EXPECT_NE(schema::view(report->text()).find("SHA-256"), std::string_view::npos);
    turn();
    EXPECT_EQ(slots_[0].current()->version, 1u);
}

TEST_F(Link, StartUpSettingsWaitForARestartAndAreNamed) {
    FakeControl control(folder_.file("control.sock"));
    control.accept();
    ASSERT_NE(control.next().body_as_Hello(), nullptr);
    publish("b.example", "shards = 4\nmemory = \"128MiB\"\n");
    ASSERT_TRUE(eventually(
        [&] { return slots_[0].current()->version == 2 && slots_[1].current()->version == 2; }));
    const auto* report = control.next().body_as_PolicyReport(); // not before the last shard has it
    ASSERT_NE(report, nullptr);
    EXPECT_TRUE(report->ok());
    EXPECT_EQ(schema::view(report->text()),
              "takes effect at the next start of millraced: server.shards, server.memory");
    EXPECT_EQ(slots_[0].current()->start_up.shards, 1u);
    EXPECT_EQ(slots_[0].current()->hostname, "b.example");
    publish("b.example",
            "[[listener]]\nname = \"new\"\naddress = \"127.0.0.1:26\"\nkind = \"relay\"\n");
    ASSERT_TRUE(eventually(
        [&] { return slots_[0].current()->version == 3 && slots_[1].current()->version == 3; }));
    const auto* second = control.next().body_as_PolicyReport();
    ASSERT_NE(second, nullptr);
    EXPECT_EQ(schema::view(second->text()),
              "takes effect at the next start of millraced: listener");
    ASSERT_EQ(slots_[0].current()->listeners.size(), 1u);
    EXPECT_EQ(slots_[0].current()->listeners[0].name, "l");
}

TEST_F(Link, CommandRunsOnEveryShardAndIsAnsweredOnce) {
    FakeControl control(folder_.file("control.sock"));
    control.accept();
    ASSERT_NE(control.next().body_as_Hello(), nullptr);
    flatbuffers::FlatBufferBuilder builder;
    control.send(builder, schema::CreateCommandDirect(builder, 77, schema::CommandKind::queue_flush,
                                                      "d.example", "t", "a", "s@x", "00ff", 5));
    ASSERT_TRUE(eventually([&] { return commands_.last.limit == 5; }));
    const auto* reply = control.next().body_as_Reply();
    ASSERT_NE(reply, nullptr);
    EXPECT_EQ(reply->id(), 77u);
    EXPECT_TRUE(reply->ok());
    EXPECT_EQ(schema::view(reply->json()), R"({"touched":4})");
    EXPECT_EQ(commands_.last.kind, ShardCommand::Kind::queue_flush);
    EXPECT_EQ(commands_.last.domain, "d.example");
    EXPECT_EQ(commands_.last.tenant, "t");
    EXPECT_EQ(commands_.last.account, "a");
    EXPECT_EQ(commands_.last.sender, "s@x");
    EXPECT_EQ(commands_.last.message_id, "00ff");
}

TEST_F(Link, PortsAndTcpWaitForARestartAndSoDoSourcesOnThem) {
    FakeControl control(folder_.file("control.sock"));
    control.accept();
    ASSERT_NE(control.next().body_as_Hello(), nullptr);
    publish("b.example", "[dpdk]\nhugepages = false\n[tcp]\necn = false\n[[port]]\nname = "
                         "\"p\"\ndevice = \"net_tap0\"\naddresses = [\"192.0.2.1/24\"]\n"
                         "[[source]]\nname = \"s1\"\naddress_v4 = \"192.0.2.1\"\n"
                         "transport = \"dpdk\"\n[[source]]\nname = \"s2\"\n");
    ASSERT_TRUE(eventually(
        [&] { return slots_[0].current()->version == 2 && slots_[1].current()->version == 2; }));
    const auto* report = control.next().body_as_PolicyReport();
    ASSERT_NE(report, nullptr);
    EXPECT_TRUE(report->ok());
    EXPECT_EQ(schema::view(report->text()),
              "takes effect at the next start of millraced: dpdk, port, tcp, source on dpdk: s1");
    const Policy& in_use = *slots_[0].current();
    EXPECT_TRUE(in_use.start_up.ports.empty());
    EXPECT_TRUE(in_use.start_up.tcp.ecn);
    EXPECT_EQ(in_use.sources.at(0).transport, TransportKind::dpdk)
        << "it waits, but stays what it is";
}

TEST_F(Link, CaptureReachesEveryShardAsItWasAskedFor) {
    FakeControl control(folder_.file("control.sock"));
    control.accept();
    ASSERT_NE(control.next().body_as_Hello(), nullptr);
    const auto ask = [&](std::uint64_t id, const char* local, const char* remote,
                         const char* address) {
        flatbuffers::FlatBufferBuilder builder;
        const auto capture =
            schema::CreateCaptureDirect(builder, 99, local, remote, address, 25, 4096, 7);
        control.send(builder, schema::CreateCommandDirect(
                                  builder, id, schema::CommandKind::capture_start, nullptr, nullptr,
                                  nullptr, nullptr, nullptr, 0, capture));
    };
    ask(1, "192.0.2.1:25", "[2001:db8::9]:4000", "198.51.100.1");
    ASSERT_TRUE(eventually([&] { return commands_.last.capture.id == 99; }));
    const CaptureRequest& got = commands_.last.capture;
    EXPECT_EQ(commands_.last.kind, ShardCommand::Kind::capture_start);
    EXPECT_EQ(got.filter.local, base::SocketAddress::parse("192.0.2.1:25"));
    EXPECT_EQ(got.filter.remote, base::SocketAddress::parse("[2001:db8::9]:4000"));
    EXPECT_EQ(got.filter.address, base::IpAddress::parse("198.51.100.1"));
    EXPECT_EQ(got.filter.port, 25);
    EXPECT_EQ(got.bytes, 4096u);
    EXPECT_EQ(got.time_max, 7s);
    ASSERT_TRUE(control.next().body_as_Reply()->ok());
    for (const auto& [local, remote, address, why] :
         {std::tuple{"192.0.2.1:25", "", "", "a connection is two IP:PORT, ours and the peer's"},
          std::tuple{"192.0.2.1", "192.0.2.2:1", "",
                     "a connection is two IP:PORT, ours and the peer's"},
          std::tuple{"", "", "nowhere", "not an IP address: nowhere"}}) {
        ask(2, local, remote, address);
        const auto* reply = control.next().body_as_Reply();
        ASSERT_NE(reply, nullptr);
        EXPECT_FALSE(reply->ok());
        EXPECT_EQ(schema::view(reply->json()), why);
    }
}

TEST_F(Link, ShardThatDoesNotAnswerIsNamed) {
    FakeControl control(folder_.file("control.sock"));
    control.accept();
    ASSERT_NE(control.next().body_as_Hello(), nullptr);
    flatbuffers::FlatBufferBuilder builder;
    control.send(builder, schema::CreateCommandDirect(builder, 1, schema::CommandKind::status));
    std::this_thread::sleep_for(20ms);
    ports_[1]->inbox().drain(); // shard 0 is stuck
    const auto* reply = control.next().body_as_Reply();
    ASSERT_NE(reply, nullptr);
    EXPECT_FALSE(reply->ok());
    EXPECT_EQ(schema::view(reply->json()), "no answer in time from shard 0");
}

TEST_F(Link, NonsenseEndsTheConnectionNotTheProcess) {
    FakeControl control(folder_.file("control.sock"));
    for (const std::string& nonsense :
         {std::string("\x10\0\0\0this is no frame", 20), std::string("\xff\xff\xff\xff", 4)}) {
        control.accept();
        ASSERT_NE(control.next().body_as_Hello(), nullptr);
        control.send_bytes(nonsense);
        EXPECT_TRUE(control.closed_by_peer());
        control.hang_up();
    }
    control.accept();
    EXPECT_NE(control.next().body_as_Hello(), nullptr);
}

} // namespace
} // namespace dataplane::policy
