#include "control/link_server.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <future>
#include <map>
#include <mutex>
#include <openssl/crypto.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <vector>

namespace control {
namespace {

constexpr std::size_t connections_max = 8; // one data plane, a few that are on their way out
constexpr std::size_t unsent_bytes_max =
    4U << 20; // answers and commands are small: more is a peer that hangs
constexpr std::size_t receive_bytes = 64UL * 1024;

static_assert(static_cast<int>(LoginVerdict::accepted) ==
              static_cast<int>(schema::Verdict::accepted));
static_assert(static_cast<int>(LoginVerdict::rejected) ==
              static_cast<int>(schema::Verdict::rejected));
static_assert(static_cast<int>(LoginVerdict::unavailable) ==
              static_cast<int>(schema::Verdict::unavailable));
static_assert(static_cast<int>(LoginVerdict::throttled) ==
              static_cast<int>(schema::Verdict::throttled));

[[noreturn]] void fail(const std::string& what) {
    throw std::system_error(errno, std::generic_category(), what);
}

using CommandResult = std::expected<std::string, std::string>;

} // namespace

class LinkServer::Server : public std::enable_shared_from_this<LinkServer::Server> {
public:
    explicit Server(LinkServerOptions options) : options_(std::move(options)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        if (options_.socket_path.size() >= sizeof address.sun_path) {
            errno = ENAMETOOLONG;
            fail(options_.socket_path);
        }
        options_.socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
        wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (wake_ < 0 || listener_ < 0) fail("control socket");
        unlink(options_.socket_path
                   .c_str()); // control.lock makes sure that nobody listens on it any more
        const mode_t mask = umask(0177); // the socket is never there with another mode
        const int bound =
            bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address);
        umask(mask);
        if (bound != 0 || listen(listener_, static_cast<int>(connections_max)) != 0)
            fail(options_.socket_path);
    }
    ~Server() {
        for (auto& [id, connection] : connections_)
            close(connection.descriptor);
        if (listener_ >= 0) close(listener_);
        if (wake_ >= 0) close(wake_);
    }

    void start() {
        thread_ = std::thread([this] { run(); });
    }
    void stop() {
        {
            const std::lock_guard hold(lock_);
            stopping_ = true;
        }
        rouse();
        if (thread_.joinable()) thread_.join();
        unlink(options_.socket_path.c_str());
    }

    /// To one connection, or to all when `connection` is 0.
    void send(std::uint64_t connection, const std::string& frame) {
        {
            const std::lock_guard hold(lock_);
            for (auto& [id, each] : connections_) {
                if (connection == 0 ? !each.hello : id != connection) continue;
                if (each.unsent.size() + frame.size() > unsent_bytes_max) {
                    each.doomed = true;
                } else {
                    each.unsent += frame;
                }
            }
        }
        rouse();
    }

    CommandResult command(const CommandRequest& request) {
        std::future<CommandResult> reply;
        std::uint64_t id = 0;
        std::uint64_t connection = 0;
        {
            const std::lock_guard hold(lock_);
            if (current_ == 0)
                return std::unexpected(
                    "millraced is not connected: is it running, with the same run_dir?");
            connection = current_;
            id = next_command_++;
            Waiting& waiting = commands_[id];
            waiting.connection = connection;
            reply = waiting.reply.get_future();
        }
        flatbuffers::FlatBufferBuilder builder;
        const auto capture = schema::CreateCapture(builder, &request.capture);
        send(connection,
             schema::make_frame(builder, schema::CreateCommandDirect(
                                             builder, id, request.kind, request.domain.c_str(),
                                             request.tenant.c_str(), request.account.c_str(),
                                             request.sender.c_str(), request.message_id.c_str(),
                                             request.limit, capture, request.arguments.c_str())));
        if (reply.wait_for(options_.command_limit) == std::future_status::ready) return reply.get();
        const std::lock_guard hold(lock_);
        commands_.erase(id);
        return std::unexpected("millraced did not answer in time");
    }

    void await_policy() {
        const std::lock_guard hold(lock_);
        status_.policy_ok = true;
        status_.policy_text.clear();
    }

    void policy_published(std::uint64_t version) {
        flatbuffers::FlatBufferBuilder builder;
        send(0, schema::make_frame(builder, schema::CreatePolicyPublished(builder, version)));
    }

    bool wait_for_policy(std::uint64_t version, std::chrono::milliseconds limit) {
        std::unique_lock hold(lock_);
        return reported_.wait_for(hold, limit, [&] {
            return !status_.connected || !status_.policy_ok || status_.policy_version >= version;
        }) && status_.connected;
    }

    DataPlaneStatus status() const {
        const std::lock_guard hold(lock_);
        return status_;
    }

private:
    struct Connection {
        int descriptor;
        schema::FrameReader reader; // the server's thread only
        bool hello = false;
        bool doomed = false;
        std::string unsent;
    };
    struct Waiting {
        std::uint64_t connection = 0;
        std::promise<CommandResult> reply;
    };

    void rouse() const noexcept {
        const std::uint64_t one = 1;
        static_cast<void>(!write(wake_, &one, sizeof one));
    }

    void run() {
        std::vector<pollfd> watched;
        std::vector<std::uint64_t> ids;
        for (;;) {
            watched.assign({{wake_, POLLIN, 0}, {listener_, POLLIN, 0}});
            ids.clear();
            {
                const std::lock_guard hold(lock_);
                if (stopping_) return;
                for (auto& [id, connection] : connections_) {
                    short wanted = POLLIN;
                    if (!connection.unsent.empty()) wanted |= POLLOUT;
                    watched.push_back({connection.descriptor, wanted, 0});
                    ids.push_back(id);
                }
            }
            if (poll(watched.data(), watched.size(), -1) < 0 && errno != EINTR) return;
            if (watched[0].revents != 0) {
                std::uint64_t signals = 0;
                static_cast<void>(!read(wake_, &signals, sizeof signals));
            }
            if (watched[1].revents != 0) accept_one();
            for (std::size_t index = 0; index < ids.size(); ++index) {
                const short events = watched[index + 2].revents;
                if ((events & (POLLIN | POLLHUP | POLLERR)) != 0) receive(ids[index]);
                flush(ids[index]);
            }
        }
    }

    void accept_one() {
        const int descriptor = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (descriptor < 0) return;
        ucred peer{};
        socklen_t bytes = sizeof peer;
        const bool known = getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0;
        const std::lock_guard hold(lock_);
        if (!known || (peer.uid != geteuid() && peer.uid != 0) ||
            connections_.size() >= connections_max) {
            options_.log("connection_refused pid=" + std::to_string(peer.pid) +
                         " uid=" + std::to_string(peer.uid));
            close(descriptor);
            return;
        }
        connections_.emplace(next_connection_++, Connection{descriptor, {}, false, false, {}});
    }

    void disconnect(std::uint64_t id) {
        const std::lock_guard hold(lock_);
        const auto found = connections_.find(id);
        if (found == connections_.end()) return;
        close(found->second.descriptor);
        OPENSSL_cleanse(found->second.unsent.data(), found->second.unsent.size());
        connections_.erase(found);
        for (auto each = commands_.begin(); each != commands_.end();) {
            if (each->second.connection != id) {
                ++each;
                continue;
            }
            each->second.reply.set_value(std::unexpected("millraced went away before it answered"));
            each = commands_.erase(each);
        }
        if (current_ != id) return;
        current_ = 0;
        status_.connected = false;
        reported_.notify_all();
        options_.log("data_plane_gone");
    }

    void flush(std::uint64_t id) {
        bool broken = false;
        {
            const std::lock_guard hold(lock_);
            const auto found = connections_.find(id);
            if (found == connections_.end()) return;
            Connection& connection = found->second;
            std::size_t sent = 0;
            while (sent < connection.unsent.size() && !connection.doomed) {
                const ssize_t took = ::send(connection.descriptor, connection.unsent.data() + sent,
                                            connection.unsent.size() - sent, MSG_NOSIGNAL);
                if (took < 0 && errno == EINTR) continue;
                if (took < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
                if (took < 0) connection.doomed = true;
                sent += took > 0 ? static_cast<std::size_t>(took) : 0;
            }
            connection.unsent.erase(0, sent);
            broken = connection.doomed;
        }
        if (broken) disconnect(id);
    }

    void receive(std::uint64_t id) {
        Connection* connection = nullptr;
        {
            const std::lock_guard hold(lock_);
            const auto found = connections_.find(id);
            if (found == connections_.end()) return;
            connection = &found->second; // only this thread removes connections
        }
        std::array<std::byte, receive_bytes> bytes;
        const ssize_t got = recv(connection->descriptor, bytes.data(), bytes.size(), 0);
        if (got < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (got <= 0) return disconnect(id);
        connection->reader.append(std::span{bytes}.first(static_cast<std::size_t>(got)));
        OPENSSL_cleanse(bytes.data(), static_cast<std::size_t>(got));
        for (;;) {
            const auto message = connection->reader.next();
            if (!message && message.error() == schema::FrameError::need_more) return;
            if (!message) {
                options_.log("bad_frame text=\"a data plane sent something that is no message\"");
                return disconnect(id);
            }
            handle(id, *connection, **message);
        }
    }

    void handle(std::uint64_t id, Connection& connection, const schema::Message& message) {
        if (const auto* hello = message.body_as_Hello()) return on_hello(id, connection, *hello);
        if (!connection.hello) return; // nothing counts before it
        if (const auto* query = message.body_as_CredentialQuery()) return on_query(id, *query);
        if (const auto* report = message.body_as_PolicyReport()) return on_report(id, *report);
        if (const auto* reply = message.body_as_Reply()) return on_reply(*reply);
    }

    void on_hello(std::uint64_t id, Connection& connection, const schema::Hello& hello) {
        {
            const std::lock_guard hold(lock_);
            connection.hello = true;
            current_ = id; // the newest is the data plane; an older one is on its way out
            status_ = {true, hello.shards(), hello.process_id(), hello.policy_version(), "", true};
            reported_.notify_all();
        }
        options_.log("data_plane_connected pid=" + std::to_string(hello.process_id()) +
                     " shards=" + std::to_string(hello.shards()) +
                     " policy_version=" + std::to_string(hello.policy_version()));
        flatbuffers::FlatBufferBuilder builder;
        send(id, schema::make_frame(
                     builder, schema::CreatePolicyPublished(builder, options_.policy_version())));
    }

    void on_query(std::uint64_t id, const schema::CredentialQuery& query) {
        const auto client = base::IpAddress::parse(schema::view(query.client()));
        Login login;
        login.user = schema::view(query.user());
        login.password = schema::view(query.password());
        login.client = client.value_or(base::IpAddress{});
        // The answer comes from a worker, perhaps after this server is gone.
        login.answer = [server = weak_from_this(), id,
                        query_id = query.id()](const LoginAnswer& answer) {
            const auto alive = server.lock();
            if (!alive) return;
            flatbuffers::FlatBufferBuilder builder;
            alive->send(
                id, schema::make_frame(
                        builder,
                        schema::CreateCredentialAnswer(
                            builder, query_id, static_cast<schema::Verdict>(answer.verdict),
                            answer.generation, static_cast<std::uint32_t>(answer.delay.count()))));
        };
        options_.on_login(std::move(login));
    }

    void on_report(std::uint64_t id, const schema::PolicyReport& report) {
        const std::lock_guard hold(lock_);
        if (id != current_) return;
        status_.policy_version = report.version();
        status_.policy_ok = report.ok();
        status_.policy_text = schema::view(report.text());
        reported_.notify_all();
    }

    void on_reply(const schema::Reply& reply) {
        const std::lock_guard hold(lock_);
        const auto found = commands_.find(reply.id());
        if (found == commands_.end()) return; // its asker has given up
        std::string text{schema::view(reply.json())};
        found->second.reply.set_value(reply.ok() ? CommandResult{std::move(text)}
                                                 : CommandResult{std::unexpected(std::move(text))});
        commands_.erase(found);
    }

    LinkServerOptions options_;
    int wake_ = -1, listener_ = -1;
    std::thread thread_;
    mutable std::mutex lock_; // everything below
    std::condition_variable reported_;
    std::map<std::uint64_t, Connection> connections_;
    std::uint64_t next_connection_ = 1;
    std::uint64_t current_ = 0; // the connection that last said Hello, 0: none
    std::map<std::uint64_t, Waiting> commands_;
    std::uint64_t next_command_ = 1;
    DataPlaneStatus status_;
    bool stopping_ = false;
};

LinkServer::LinkServer(LinkServerOptions options)
    : server_(std::make_shared<Server>(std::move(options))) {
    server_->start();
}
LinkServer::~LinkServer() {
    server_->stop();
}

void LinkServer::await_policy() {
    server_->await_policy();
}

void LinkServer::policy_published(std::uint64_t version) {
    server_->policy_published(version);
}

void LinkServer::account_changed(std::string_view name, std::uint64_t generation) {
    flatbuffers::FlatBufferBuilder builder;
    const auto text = builder.CreateString(name.data(), name.size());
    server_->send(
        0, schema::make_frame(builder, schema::CreateAccountChanged(builder, text, generation)));
}

std::expected<std::string, std::string> LinkServer::command(const CommandRequest& request) {
    return server_->command(request);
}

bool LinkServer::wait_for_policy(std::uint64_t version, std::chrono::milliseconds limit) {
    return server_->wait_for_policy(version, limit);
}

DataPlaneStatus LinkServer::status() const {
    return server_->status();
}

} // namespace control
