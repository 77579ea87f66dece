// server_harness.h: one shard's SMTP server in a simulated world, and a client that plays scripts
// against it.
//
// Scope      Everything is real but the network, the disk, the clock and the password check.
#pragma once

#include "dataplane/base/line_reader.h"
#include "dataplane/policy/authenticator.h"
#include "dataplane/policy/policy.h"
#include "dataplane/smtp/server_context.h"
#include "dataplane/smtp/server_session.h"
#include "dataplane/telemetry/stats.h"
#include "queue/queue.h"
#include "tests/support/sim_disk.h"
#include "tests/support/sim_net.h"
#include "tls_offload/tls_context.h"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tests {

/// Knows passwords from a table; can also be slow or absent.
class TableAuthenticator final : public dataplane::policy::Authenticator {
public:
    explicit TableAuthenticator(base::Loop& loop) : loop_(loop) {}
    base::Task<dataplane::policy::AuthVerdict> verify(std::string user, std::string password,
                                                      base::IpAddress client,
                                                      base::Deadline deadline) override;

    std::map<std::string, std::string> passwords;
    std::optional<dataplane::policy::AuthVerdict> always;
    base::Duration takes{};
    unsigned asked = 0;

private:
    base::Loop& loop_;
};

class EventList final : public dataplane::telemetry::EventSink {
public:
    dataplane::telemetry::Event* claim() noexcept override { return full ? nullptr : &next_; }
    void publish() noexcept override { events.push_back(next_); }

    std::vector<dataplane::telemetry::Event> events;
    bool full = false;

private:
    dataplane::telemetry::Event next_;
};

/// A message as the queue handed it out.
struct Stored {
    std::string sender, envid, account, tenant, source;
    std::vector<std::string> recipients, orcpts;
    std::vector<int> notifies;
    queue::BodyKind body = queue::BodyKind::seven_bit;
    queue::DsnReturn dsn_return = queue::DsnReturn::unspecified;
    bool smtputf8 = false, client_tls = false;
    std::string content; // added headers included
    base::Duration lifetime{};

    /// What stands behind the relay's own header fields; fails the process when they are not there.
    [[nodiscard]] std::string client_bytes() const;
};

struct HarnessOptions {
    std::uint64_t seed = 1;
    bool fragment = true;
    bool tls = false;
    bool client_certificate = false; // clients show the harness's own, when they are asked
    bool trusts_clients = true;      // and the server trusts its issuer, which is itself
    std::size_t pipe_bytes_max = 64 * 1024;
    std::uint64_t disk_bytes = 12U << 20;
};

class ServerHarness : private queue::ReadySink {
public:
    explicit ServerHarness(HarnessOptions options = {});
    ~ServerHarness() override;

    static constexpr std::string_view listed_client = "198.51.100.7"; // in policy.relay_networks
    static constexpr std::string_view other_client = "203.0.113.9";

    class Client {
    public:
        void send(std::string_view bytes);
        /// The next reply, its lines joined by '|' without CRLF; "<why>" when the connection ended.
        std::string reply();
        /// send() with CRLF, then reply().
        std::string ask(std::string_view line);
        bool start_tls();
        void vanish() { stream_->abort(); }
        [[nodiscard]] base::Stream& stream() { return *stream_; }

    private:
        friend class ServerHarness;
        Client(ServerHarness& world, base::StreamPtr stream);
        ServerHarness& world_;
        base::StreamPtr stream_;
        std::unique_ptr<base::LineReader> reader_;
    };

    /// Connects to the first listener of this kind, and reads the greeting unless TLS comes first.
    Client connect(dataplane::policy::ListenerKind kind, std::string_view client = listed_client);
    /// As connect(), without reading anything.
    Client dial(dataplane::policy::ListenerKind kind, std::string_view client = listed_client);
    /// Plays a script against a fresh connection; failures name the script's line. See
    /// server_harness.cc.
    void play(Client& client, std::string_view script);

    /// Lets the world run for this long.
    void pass(base::Duration time);
    /// Makes `policy` the current one.
    void publish_policy();
    [[nodiscard]] std::uint64_t count(dataplane::telemetry::Counter counter) const {
        return stats_.get(counter);
    }
    [[nodiscard]] static std::string certificate_fingerprint();
    [[nodiscard]] std::size_t sessions() const { return loop.spawned_count() - own_tasks_; }

    base::ManualClock clock;
    base::Loop loop{clock};
    SimNet net;
    SimDisk disk;
    dataplane::policy::Policy policy; // edit, then publish_policy()
    TableAuthenticator authenticator{loop};
    EventList events;
    base::CancelSource shutdown;
    std::vector<Stored> stored;
    bool keep_messages = false; // defers them for a day instead of settling them

private:
    void message_ready(queue::MessageRef message) override;
    base::Task<void> keep(queue::MessageRef message);

    std::unique_ptr<control::schema::ShardStats> page_ =
        std::make_unique<control::schema::ShardStats>();
    dataplane::telemetry::Stats stats_{*page_};
    std::unique_ptr<queue::MessageQueue> queue_;
    std::unique_ptr<dataplane::policy::PolicySlot> slot_;
    std::optional<tls_offload::TlsLibrary> tls_library_;
    std::optional<tls_offload::ServerContext> tls_server_;
    std::optional<tls_offload::ClientContext> tls_client_;
    std::size_t own_tasks_ = 0;

public:
    std::optional<dataplane::smtp::ServerContext> context;
};

[[nodiscard]] std::string base64(std::string_view text);
[[nodiscard]] std::string auth_plain(std::string_view user, std::string_view password);

} // namespace tests
