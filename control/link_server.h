// link_server.h: the control process's end of the Unix socket that millraced connects to.
//
// Scope      Accepts, reads and writes frames, keeps who is connected, matches replies to commands.
//            Checking a credential is given to a handler. The other end is
//            dataplane/policy/control_link.h.
// Owns       The socket, its connections, one thread.
// Threading  command(), announcements and status() from any thread. The handlers run on the
//            server's thread and must not block.
// Failure    A peer of another user, or one that does not speak the protocol, is disconnected. A
//            command without a data plane, or without an answer in time, is an error text.
#pragma once

#include "control/credentials.h"
#include "control/schema/frame.h"

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace control {

struct DataPlaneStatus {
    bool connected = false;
    std::uint32_t shards = 0, process_id = 0;
    std::uint64_t policy_version = 0; // in use there
    std::string policy_text; // why the last snapshot was refused, or what waits for a restart
    bool policy_ok = true;
};

struct CommandRequest {
    schema::CommandKind kind = schema::CommandKind::status;
    std::string domain, tenant, account, sender, message_id;
    std::uint32_t limit = 100;
    schema::CaptureT capture{}; // of the capture commands
    std::string arguments{};    // of the queue commands, JSON
};

struct LinkServerOptions {
    std::string socket_path;
    std::chrono::milliseconds command_limit{8000}; // more than millraced gives its shards
    std::function<void(Login)> on_login;           // takes a question over, answers from any thread
    std::function<std::uint64_t()> policy_version; // last published, told to each that connects
    std::function<void(std::string_view)> log;
};

class LinkServer {
public:
    /// Binds the socket, mode 0600, in place of one that a dead process left. Throws
    /// std::system_error.
    explicit LinkServer(LinkServerOptions options);
    ~LinkServer();
    LinkServer(const LinkServer&) = delete;
    LinkServer& operator=(const LinkServer&) = delete;

    /// Before a snapshot is published: forgets what the data plane said of the one before.
    void await_policy();
    void policy_published(std::uint64_t version);
    void account_changed(std::string_view name, std::uint64_t generation);
    /// Waits for the merged reply of all shards; JSON, or a sentence.
    [[nodiscard]] std::expected<std::string, std::string> command(const CommandRequest& request);
    /// Waits until the data plane has said what became of `version`; false when it did not within
    /// `limit`.
    [[nodiscard]] bool wait_for_policy(std::uint64_t version, std::chrono::milliseconds limit);
    [[nodiscard]] DataPlaneStatus status() const;

private:
    class Server;
    std::shared_ptr<Server> server_; // shared: answers of credential workers may come after the end
};

} // namespace control
