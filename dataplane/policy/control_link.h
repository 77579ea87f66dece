// control_link.h: the one thread of millraced that talks to the control process, and each shard's
// end of it.
//
// Scope      Connects to control.sock and reconnects forever; watches the snapshot file and hands
//            new policies to the shards; carries credential questions, account changes and operator
//            commands. What a command does on a shard is ShardCommands' business. Mail never waits
//            for any of this.
// Owns       Its thread, the socket, one ShardPort per shard, and the last reference to old
//            policies: they are freed on this thread, not on a shard.
// Threading  attach(): each shard's own thread, before start(). A ShardPort belongs to its shard.
//            The rest: the thread that made the link. Destroy it after the shards' loops, stop() it
//            before.
// Failure    A control process that is away, hangs or talks nonsense costs new logins (unavailable)
//            and commands, nothing else. A snapshot that does not load is reported, and the policy
//            stays.
#pragma once

#include "dataplane/base/mailbox.h"
#include "dataplane/base/spsc_ring.h"
#include "dataplane/policy/link_authenticator.h"
#include "dataplane/policy/policy.h"
#include "dataplane/policy/shard_command.h"

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace dataplane::policy {

struct ControlLinkOptions {
    std::string socket_path;   // run_dir/control.sock
    std::string snapshot_path; // state_dir/policy.snapshot
    std::chrono::milliseconds reconnect_min{100}, reconnect_max{1000};
    std::chrono::milliseconds snapshot_look{1000}; // when no PolicyPublished comes
    std::chrono::milliseconds command_limit{
        5000};                                // a shard that has not answered by then is left out
    LinkAuthenticatorOptions authenticator{}; // its key is replaced by a random one
    std::function<void(std::string_view)>
        log; // one line for the operator; called on the link's thread
    // Looks at a new policy before the shards get it, on the link's thread: prepares what is too
    // slow to prepare on a shard. Returns why the policy cannot be used, or "".
    std::function<std::string(const PolicyPtr&)> prepare;
    // Takes over what of a new policy does not travel with it, on the link's thread. Returns what
    // could not be taken over, or "": the policy is used all the same, and the operator told.
    std::function<std::string(const PolicyPtr&)> adopt;
    // Answers `cert list` and, after reading the files again, `cert reload`: a JSON object, or why
    // not. On the link's thread.
    std::function<std::expected<std::string, std::string>(bool reload)> certificates;
};

class ControlLink;

/// One shard's end. The shard adds inbox() to its Uring and gives authenticator() to its SMTP
/// server.
class ShardPort final : private CredentialChannel {
public:
    ShardPort(ControlLink& link, base::Loop& loop, base::Wakeup& shard, PolicySlot& policy,
              ShardCommands& commands, std::function<void()> policy_changed,
              LinkAuthenticatorOptions options);

    [[nodiscard]] base::Inbox& inbox() noexcept { return to_shard_; }
    [[nodiscard]] LinkAuthenticator& authenticator() noexcept { return authenticator_; }

private:
    friend class ControlLink;
    friend class LinkThread;
    struct AccountChange {
        std::string name;
        std::uint64_t generation = 0;
    };
    struct CommandRun {
        std::uint64_t id = 0;
        std::shared_ptr<const ShardCommand> command; // shared: the same one goes to every shard
    };
    struct CommandAnswer {
        std::uint64_t id = 0;
        std::string json;
    };
    using ToShard =
        std::variant<std::monostate, PolicyPtr, CredentialVerdict, AccountChange, CommandRun>;
    struct PolicyTaken {
        std::uint64_t version = 0;
    };
    using ToLink = std::variant<std::monostate, CredentialQuestion, CommandAnswer, PolicyTaken>;

    bool ask(CredentialQuestion&& question) override;
    void handle(ToShard&& message);

    ControlLink& link_;
    PolicySlot& policy_;
    ShardCommands& commands_;
    std::function<void()> policy_changed_;
    base::SpscRing<ToLink> to_link_;
    base::Mailbox<ToShard> to_shard_;
    LinkAuthenticator authenticator_;
};

class ControlLink {
public:
    /// \param first  the policy that the shards start with; its StartUp and listeners hold until
    /// the process ends
    ControlLink(ControlLinkOptions options, PolicyPtr first);
    ~ControlLink(); // stops
    ControlLink(const ControlLink&) = delete;
    ControlLink& operator=(const ControlLink&) = delete;

    /// \param policy_changed  called on the shard after its slot was given a new policy
    ShardPort& attach(base::Loop& loop, base::Wakeup& wakeup, PolicySlot& policy,
                      ShardCommands& commands, std::function<void()> policy_changed = {});
    void start();
    void stop();

private:
    friend class ShardPort;
    std::unique_ptr<class LinkThread> thread_;
};

} // namespace dataplane::policy
