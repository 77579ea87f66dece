#include "dataplane/policy/control_link.h"

#include "control/schema/frame.h"
#include "dataplane/base/check.h"
#include "dataplane/policy/command_merge.h"
#include "dataplane/policy/snapshot.h"
#include "dataplane/policy/start_up_change.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <expected>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <openssl/crypto.h>
#include <optional>
#include <poll.h>
#include <span>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

namespace dataplane::policy {
namespace {

namespace schema = control::schema;
using SteadyTime =
    std::chrono::steady_clock::time_point; // the link is no shard: it may read a clock

constexpr std::size_t to_link_entries = 1024; // >= LinkAuthenticator::questions_max, and commands
constexpr std::size_t to_shard_entries =
    2048;                                // answers to all of those, policies, commands, changes
constexpr std::size_t commands_max = 64; // at once; an operator types them
constexpr std::size_t unsent_bytes_max =
    2 * schema::frame_bytes_max; // then control does not read: reconnect
constexpr std::size_t receive_bytes = 64UL * 1024;

// The shards and the schema number verdicts and commands alike.
static_assert(static_cast<int>(AuthVerdict::accepted) ==
              static_cast<int>(schema::Verdict::accepted));
static_assert(static_cast<int>(AuthVerdict::rejected) ==
              static_cast<int>(schema::Verdict::rejected));
static_assert(static_cast<int>(AuthVerdict::unavailable) ==
              static_cast<int>(schema::Verdict::unavailable));
static_assert(static_cast<int>(AuthVerdict::throttled) ==
              static_cast<int>(schema::Verdict::throttled));
static_assert(static_cast<int>(ShardCommand::Kind::queue_list) ==
              static_cast<int>(schema::CommandKind::queue_list));
static_assert(static_cast<int>(ShardCommand::Kind::queue_end) ==
              static_cast<int>(schema::CommandKind::queue_end));
static_assert(static_cast<int>(ShardCommand::Kind::status) ==
              static_cast<int>(schema::CommandKind::status));
static_assert(static_cast<int>(ShardCommand::Kind::net_connections) ==
              static_cast<int>(schema::CommandKind::net_connections));
static_assert(static_cast<int>(ShardCommand::Kind::capture_stop) ==
              static_cast<int>(schema::CommandKind::capture_stop));
static_assert(static_cast<int>(ShardCommand::Kind::offload) ==
              static_cast<int>(schema::CommandKind::offload));

base::SipKey random_key() {
    base::SipKey key{};
    if (getrandom(key.data(), sizeof key, 0) != static_cast<ssize_t>(sizeof key)) {
        throw std::system_error(errno, std::generic_category(), "getrandom");
    }
    return key;
}

std::expected<CaptureRequest, std::string> capture_request(const schema::Capture* asked) {
    CaptureRequest to;
    if (asked == nullptr) return to;
    to.id = asked->id();
    to.bytes = asked->bytes();
    to.time_max = std::chrono::seconds{asked->seconds()};
    to.filter.port = asked->port();
    const std::string_view local = schema::view(asked->local());
    const std::string_view remote = schema::view(asked->remote());
    const std::string_view address = schema::view(asked->address());
    if (!local.empty()) to.filter.local = base::SocketAddress::parse(local);
    if (!remote.empty()) to.filter.remote = base::SocketAddress::parse(remote);
    if (!address.empty()) to.filter.address = base::IpAddress::parse(address);
    if (local.empty() != remote.empty() || (!local.empty() && !to.filter.local) ||
        (!remote.empty() && !to.filter.remote)) {
        return std::unexpected("a connection is two IP:PORT, ours and the peer's");
    }
    if (!address.empty() && !to.filter.address)
        return std::unexpected("not an IP address: " + std::string{address});
    return to;
}

/// What tells one published snapshot from the next without reading it: rename gives a new inode.
struct FileMark {
    ino_t inode = 0;
    off_t bytes = 0;
    std::int64_t modified_ns = 0;
    bool operator==(const FileMark&) const noexcept = default;
};

FileMark mark_of(const std::string& path) {
    struct stat status{};
    if (stat(path.c_str(), &status) != 0) return {};
    return {status.st_ino, status.st_size,
            status.st_mtim.tv_sec * 1'000'000'000LL + status.st_mtim.tv_nsec};
}

} // namespace

class LinkThread {
public:
    LinkThread(ControlLinkOptions options, PolicyPtr first)
        : options_(std::move(options)), newest_(first), reconnect_after_(options_.reconnect_min) {
        first_.start_up = first->start_up;
        first_.listeners = first->listeners;
        options_.authenticator.key = random_key();
        published_.push_back(std::move(first));
    }
    ~LinkThread() { stop(); }

    ShardPort& attach(ControlLink& link, base::Loop& loop, base::Wakeup& wakeup, PolicySlot& policy,
                      ShardCommands& commands, std::function<void()> policy_changed) {
        const std::lock_guard lock(attach_); // shards start side by side
        CHECK(!thread_.joinable());
        ports_.push_back(
            {std::make_unique<ShardPort>(link, loop, wakeup, policy, commands,
                                         std::move(policy_changed), options_.authenticator),
             policy.current()});
        return *ports_.back().port;
    }

    void start() {
        CHECK(!thread_.joinable());
        stopping_ = false;
        thread_ = std::thread([this] { run(); });
    }
    void stop() {
        if (!thread_.joinable()) return;
        stopping_ = true;
        wakeup_.signal();
        thread_.join();
        disconnect();
    }
    void rouse() noexcept { wakeup_.signal(); } // any shard

private:
    struct Attached {
        std::unique_ptr<ShardPort> port;
        PolicyPtr given;          // the last policy that its mailbox took
        std::uint64_t in_use = 0; // the version that the shard has said it uses
    };
    struct Question {
        std::size_t shard;
        std::uint64_t shard_id;
        std::string user, password;
        std::string client;
        SteadyTime expires;
        bool sent = false;
    };
    struct RunningCommand {
        std::uint64_t control_id;
        std::uint32_t limit;
        std::vector<bool> answered; // by shard
        std::vector<std::string> replies;
        SteadyTime expires;
    };

    void run() {
        while (!stopping_) {
            now_ = std::chrono::steady_clock::now();
            if (socket_ < 0 && now_ >= connect_at_) connect();
            drain_shards();
            send_questions();
            look_at_snapshot();
            hand_out_policy();
            end_overdue();
            flush();
            sleep();
        }
    }

    void sleep() {
        wakeup_.will_sleep();
        const bool more = std::any_of(ports_.begin(), ports_.end(), [](const Attached& each) {
            return each.port->to_link_.size() != 0;
        });
        std::array<pollfd, 2> watched{{{wakeup_.descriptor(), POLLIN, 0}, {socket_, POLLIN, 0}}};
        if (!unsent_.empty()) watched[1].events |= POLLOUT;
        const auto until = std::min(socket_ < 0 ? std::min(connect_at_, look_at_) : look_at_,
                                    commands_.empty() && questions_.empty()
                                        ? SteadyTime::max()
                                        : now_ + std::chrono::milliseconds{100});
        const auto wait =
            std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
        const int timeout_ms =
            more || stopping_ ? 0
                              : static_cast<int>(std::clamp<std::int64_t>(wait.count(), 0, 1000));
        const int ready = poll(watched.data(), socket_ < 0 ? 1 : 2, timeout_ms);
        wakeup_.awake();
        if (ready <= 0) return;
        if (watched[0].revents != 0) {
            std::uint64_t signals = 0;
            static_cast<void>(!read(wakeup_.descriptor(), &signals, sizeof signals));
        }
        if (socket_ >= 0 && watched[1].revents != 0) receive();
    }

    // The socket.

    void connect() {
        connect_at_ = now_ + reconnect_after_;
        reconnect_after_ = std::min(reconnect_after_ * 2, options_.reconnect_max);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        if (options_.socket_path.size() >= sizeof address.sun_path)
            return; // control's configuration refuses it
        options_.socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
        const int descriptor = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (descriptor < 0) return;
        // A Unix socket connects at once or not at all; a full backlog counts as not.
        if (::connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) !=
            0) {
            close(descriptor);
            return;
        }
        socket_ = descriptor;
        reader_ = {};
        flatbuffers::FlatBufferBuilder builder;
        send(schema::make_frame(
            builder, schema::CreateHello(builder, static_cast<std::uint32_t>(ports_.size()),
                                         static_cast<std::uint32_t>(getpid()), newest_->version)));
        for (auto& [id, question] : questions_)
            question.sent = false;
        look_at_ = now_; // control may have published while it was not heard
        log("connected to the control process");
    }

    void disconnect() {
        if (socket_ < 0) return;
        close(socket_);
        socket_ = -1;
        unsent_.clear();
        unsent_overflow_ = false;
        commands_.clear(); // whoever asked is gone with the connection
        connect_at_ = now_ + reconnect_after_;
        log("lost the control process; mail flows on, new logins wait");
    }

    void send(std::string frame) {
        if (socket_ < 0) return;
        // The connection ends in flush(), not here: callers walk what disconnect() clears.
        if (unsent_.size() + frame.size() > unsent_bytes_max) unsent_overflow_ = true;
        if (!unsent_overflow_) unsent_ += frame;
        OPENSSL_cleanse(frame.data(), frame.size());
    }

    void flush() {
        if (unsent_overflow_) return disconnect();
        std::size_t sent = 0;
        while (socket_ >= 0 && sent < unsent_.size()) {
            const ssize_t took =
                ::send(socket_, unsent_.data() + sent, unsent_.size() - sent, MSG_NOSIGNAL);
            if (took < 0 && errno == EINTR) continue;
            if (took < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
            if (took < 0) return disconnect();
            sent += static_cast<std::size_t>(took);
        }
        OPENSSL_cleanse(unsent_.data(), sent);
        unsent_.erase(0, sent);
    }

    void receive() {
        std::array<std::byte, receive_bytes> bytes;
        const ssize_t got = recv(socket_, bytes.data(), bytes.size(), 0);
        if (got < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (got <= 0) return disconnect();
        reader_.append(std::span{bytes}.first(static_cast<std::size_t>(got)));
        while (socket_ >= 0) {
            const auto message = reader_.next();
            if (!message && message.error() == schema::FrameError::need_more) return;
            if (!message) {
                log("the control process sent something that is no message; reconnecting");
                return disconnect();
            }
            handle(**message);
        }
    }

    void handle(const schema::Message& message) {
        reconnect_after_ = options_.reconnect_min; // it speaks our language
        switch (message.body_type()) {
        case schema::Body::CredentialAnswer:
            return on_answer(*message.body_as_CredentialAnswer());
        case schema::Body::AccountChanged:
            return on_account_changed(*message.body_as_AccountChanged());
        case schema::Body::PolicyPublished:
            look_at_ = now_;
            return;
        case schema::Body::Command:
            return on_command(*message.body_as_Command());
        case schema::Body::NONE:
        case schema::Body::Hello:
        case schema::Body::CredentialQuery:
        case schema::Body::PolicyReport:
        case schema::Body::Reply:
            return; // ours to send: a newer control may mean something by it
        }
    }

    // Credentials.

    void on_question(std::size_t shard, CredentialQuestion&& question) {
        const std::uint64_t id = next_question_++;
        questions_.emplace(id, Question{shard, question.id, std::move(question.user),
                                        std::move(question.password), question.client.to_string(),
                                        now_ + options_.authenticator.answer_limit});
    }

    void send_questions() {
        if (socket_ < 0) return;
        for (auto& [id, question] : questions_) {
            if (question.sent) continue;
            flatbuffers::FlatBufferBuilder builder;
            // By length, not as C strings: a password may have a NUL in it.
            const auto user = builder.CreateString(question.user);
            const auto password = builder.CreateString(question.password);
            const auto client = builder.CreateString(question.client);
            send(schema::make_frame(
                builder, schema::CreateCredentialQuery(builder, id, user, password, client)));
            OPENSSL_cleanse(builder.GetBufferPointer(), builder.GetSize());
            question.sent = true;
        }
    }

    void on_answer(const schema::CredentialAnswer& answer) {
        const auto found = questions_.find(answer.id());
        if (found == questions_.end() || answer.verdict() > schema::Verdict::MAX) return;
        // A full mailbox drops the answer: the shard is in trouble, and the client is told
        // "unavailable".
        static_cast<void>(ports_[found->second.shard].port->to_shard_.post(
            CredentialVerdict{found->second.shard_id, static_cast<AuthVerdict>(answer.verdict()),
                              answer.generation(), std::chrono::milliseconds{answer.delay_ms()}}));
        forget(found);
    }

    void forget(std::map<std::uint64_t, Question>::iterator question) {
        OPENSSL_cleanse(question->second.password.data(), question->second.password.size());
        questions_.erase(question);
    }

    void on_account_changed(const schema::AccountChanged& changed) {
        for (Attached& each : ports_) {
            // Dropped only by a full mailbox; then the next policy, which carries the generation,
            // voids the login.
            static_cast<void>(each.port->to_shard_.post(ShardPort::AccountChange{
                std::string{schema::view(changed.name())}, changed.generation()}));
        }
        look_at_ = now_;
    }

    // Commands.

    void on_command(const schema::Command& asked) {
        if (asked.kind() > schema::CommandKind::MAX)
            return reply(asked.id(), false, "this release does not know the command");
        if (asked.kind() == schema::CommandKind::cert_list ||
            asked.kind() == schema::CommandKind::cert_reload) {
            return on_certificates(asked);
        }
        if (commands_.size() >= commands_max)
            return reply(asked.id(), false, "too many commands at once");
        const auto capture = capture_request(asked.capture());
        if (!capture) return reply(asked.id(), false, capture.error());
        auto command = std::make_shared<const ShardCommand>(ShardCommand{
            static_cast<ShardCommand::Kind>(asked.kind()),
            std::string{schema::view(asked.domain())}, std::string{schema::view(asked.tenant())},
            std::string{schema::view(asked.account())}, std::string{schema::view(asked.sender())},
            std::string{schema::view(asked.message_id())}, asked.limit(), *capture,
            std::string{schema::view(asked.arguments())}});
        const std::uint64_t id = next_command_++;
        const auto running = commands_
                                 .emplace(id, RunningCommand{asked.id(),
                                                             asked.limit(),
                                                             std::vector<bool>(ports_.size()),
                                                             {},
                                                             now_ + options_.command_limit})
                                 .first;
        for (Attached& each : ports_) {
            if (each.port->to_shard_.post(ShardPort::CommandRun{id, command})) continue;
            commands_.erase(running);
            return reply(asked.id(), false, "a shard's mailbox is full");
        }
    }

    /// Certificates are read for all shards together, and not by them.
    void on_certificates(const schema::Command& asked) {
        if (!options_.certificates) return reply(asked.id(), false, "there are no certificates");
        const auto answer = options_.certificates(asked.kind() == schema::CommandKind::cert_reload);
        reply(asked.id(), answer.has_value(), answer ? *answer : answer.error());
    }

    void on_shard_answer(std::size_t shard, ShardPort::CommandAnswer&& answer) {
        const auto found = commands_.find(answer.id);
        if (found == commands_.end()) return; // overdue, or its asker is gone
        RunningCommand& running = found->second;
        running.answered[shard] = true;
        running.replies.push_back(std::move(answer.json));
        if (running.replies.size() == ports_.size()) finish(found);
    }

    void finish(std::map<std::uint64_t, RunningCommand>::iterator command) {
        auto merged = merge_replies(command->second.replies, command->second.limit);
        reply(command->second.control_id, merged.has_value(), merged ? *merged : merged.error());
        commands_.erase(command);
    }

    void reply(std::uint64_t id, bool ok, const std::string& text) {
        flatbuffers::FlatBufferBuilder builder;
        if (text.size() > schema::frame_bytes_max - 1024)
            return reply(id, false, "the reply is too large; ask for less");
        send(schema::make_frame(builder, schema::CreateReplyDirect(builder, id, ok, text.c_str())));
    }

    void end_overdue() {
        for (auto each = questions_.begin(); each != questions_.end();) {
            // The shard's own time limit answers the client.
            const auto question = each++;
            if (now_ >= question->second.expires) forget(question);
        }
        for (auto each = commands_.begin(); each != commands_.end();) {
            const auto command = each++;
            if (now_ < command->second.expires) continue;
            std::string silent;
            for (std::size_t shard = 0; shard < ports_.size(); ++shard) {
                if (!command->second.answered[shard]) silent += " " + std::to_string(shard);
            }
            reply(command->second.control_id, false, "no answer in time from shard" + silent);
            commands_.erase(command);
        }
    }

    void drain_shards() {
        for (std::size_t shard = 0; shard < ports_.size(); ++shard) {
            while (auto message = ports_[shard].port->to_link_.pop()) {
                if (auto* question = std::get_if<CredentialQuestion>(&*message))
                    on_question(shard, std::move(*question));
                if (auto* answer = std::get_if<ShardPort::CommandAnswer>(&*message)) {
                    on_shard_answer(shard, std::move(*answer));
                }
                if (const auto* taken = std::get_if<ShardPort::PolicyTaken>(&*message)) {
                    ports_[shard].in_use = taken->version;
                    report_when_in_use();
                }
            }
        }
    }

    // Policy.

    void look_at_snapshot() {
        if (now_ < look_at_) return;
        look_at_ = now_ + options_.snapshot_look;
        const FileMark mark = mark_of(options_.snapshot_path);
        if (mark == seen_ || mark == FileMark{}) return;
        seen_ = mark;
        auto loaded = load_snapshot(options_.snapshot_path);
        if (!loaded) {
            log("policy snapshot refused, version " + std::to_string(newest_->version) +
                " stays: " + loaded.error().text);
            return report(false, loaded.error().text);
        }
        if ((*loaded)->version == newest_->version) return; // the one we started with
        std::string waits = changed_at_start(first_, **loaded);
        if (!waits.empty()) {
            auto kept = std::make_shared<Policy>(**loaded);
            kept->start_up = first_.start_up;
            kept->listeners = first_.listeners;
            loaded = std::move(kept);
            waits = "takes effect at the next start of millraced: " + waits;
            log(waits);
        }
        if (const std::string objection = options_.prepare ? options_.prepare(*loaded) : "";
            !objection.empty()) {
            log("policy snapshot refused, version " + std::to_string(newest_->version) +
                " stays: " + objection);
            return report(false, objection);
        }
        if (const std::string remark = options_.adopt ? options_.adopt(*loaded) : "";
            !remark.empty()) {
            log(remark);
            waits += (waits.empty() ? "" : "; ") + remark;
        }
        newest_ = *loaded;
        published_.push_back(newest_);
        log("policy version " + std::to_string(newest_->version));
        report_due_ = std::move(waits);
    }

    /// "In use" is said once, when the last shard has it.
    void report_when_in_use() {
        const bool everywhere =
            std::all_of(ports_.begin(), ports_.end(),
                        [&](const Attached& each) { return each.in_use == newest_->version; });
        if (!everywhere || !report_due_) return;
        report(true, *report_due_);
        report_due_.reset();
    }

    void hand_out_policy() {
        for (Attached& each : ports_) {
            if (each.given == newest_) continue;
            if (each.port->to_shard_.post(PolicyPtr{newest_}))
                each.given = newest_; // else in the next round
        }
        // Freed here and not on a shard: the last session that used an old policy has let go of it.
        std::erase_if(published_, [&](const PolicyPtr& policy) {
            return policy != newest_ && policy.use_count() == 1;
        });
    }

    void report(bool ok, const std::string& text) {
        flatbuffers::FlatBufferBuilder builder;
        send(schema::make_frame(builder, schema::CreatePolicyReportDirect(builder, newest_->version,
                                                                          ok, text.c_str())));
    }

    void log(std::string_view line) const {
        if (options_.log) options_.log(line);
    }

    ControlLinkOptions options_;
    Policy first_; // its start-up settings and listeners alone
    std::mutex attach_;
    std::vector<Attached> ports_;
    std::thread thread_;
    std::atomic<bool> stopping_{false};
    base::Wakeup wakeup_;

    SteadyTime now_{};
    PolicyPtr newest_;
    std::vector<PolicyPtr> published_;      // every policy that a shard may still use
    std::optional<std::string> report_due_; // about newest_: what of it waits for a restart
    FileMark seen_;
    SteadyTime look_at_{};

    int socket_ = -1;
    SteadyTime connect_at_{};
    std::chrono::milliseconds reconnect_after_;
    schema::FrameReader reader_;
    std::string unsent_;
    bool unsent_overflow_ = false;

    std::map<std::uint64_t, Question> questions_; // bounded: questions_max per shard
    std::uint64_t next_question_ = 1;
    std::map<std::uint64_t, RunningCommand> commands_;
    std::uint64_t next_command_ = 1;
};

ShardPort::ShardPort(ControlLink& link, base::Loop& loop, base::Wakeup& shard, PolicySlot& policy,
                     ShardCommands& commands, std::function<void()> policy_changed,
                     LinkAuthenticatorOptions options)
    : link_(link), policy_(policy), commands_(commands), policy_changed_(std::move(policy_changed)),
      to_link_(to_link_entries), to_shard_(
                                     shard, to_shard_entries,
                                     [](void* self, ToShard&& message) {
                                         static_cast<ShardPort*>(self)->handle(std::move(message));
                                     },
                                     this),
      authenticator_(loop, policy, *this, options) {}

bool ShardPort::ask(CredentialQuestion&& question) {
    ToLink message{std::move(question)};
    if (!to_link_.push(std::move(message))) return false;
    link_.thread_->rouse();
    return true;
}

void ShardPort::handle(ToShard&& message) {
    if (auto* policy = std::get_if<PolicyPtr>(&message)) {
        policy_.replace(std::move(*policy));
        if (policy_changed_) policy_changed_();
        // Full only when the link is dead or buried; then nobody waits for this either.
        ToLink taken{PolicyTaken{policy_.current()->version}};
        if (to_link_.push(std::move(taken))) link_.thread_->rouse();
    } else if (const auto* verdict = std::get_if<CredentialVerdict>(&message)) {
        authenticator_.on_verdict(*verdict);
    } else if (const auto* change = std::get_if<AccountChange>(&message)) {
        authenticator_.on_account_changed(change->name, change->generation);
    } else if (const auto* run = std::get_if<CommandRun>(&message)) {
        commands_.start(*run->command, [this, id = run->id](std::string json) {
            // Full only when the link is dead or buried; the operator is told that this shard did
            // not answer.
            ToLink answer{CommandAnswer{id, std::move(json)}};
            if (to_link_.push(std::move(answer))) link_.thread_->rouse();
        });
    }
}

ControlLink::ControlLink(ControlLinkOptions options, PolicyPtr first)
    : thread_(std::make_unique<LinkThread>(std::move(options), std::move(first))) {}

ControlLink::~ControlLink() = default;

ShardPort& ControlLink::attach(base::Loop& loop, base::Wakeup& wakeup, PolicySlot& policy,
                               ShardCommands& commands, std::function<void()> policy_changed) {
    return thread_->attach(*this, loop, wakeup, policy, commands, std::move(policy_changed));
}

void ControlLink::start() {
    thread_->start();
}
void ControlLink::stop() {
    thread_->stop();
}

} // namespace dataplane::policy
