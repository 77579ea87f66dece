// stack_set.h: a shard's stacks, one for each port, as one transport.
//
// Scope      Which port a connection takes. From an address of ours: the port that has it, whatever its
//            routes say, so that an egress source stays on its own line. From no address in particular:
//            the port with the longest match for the destination among its networks and routes; of
//            equals, and when none matches, the one that was added first. A listener on an unspecified
//            address (0.0.0.0, ::) listens on all of them.
// Owns       What it must know of each stack's addresses and routes; not the stacks.
// Threading  One shard.
// Failure    As the stack's that was chosen.
#pragma once

#include "dataplane/net/stack/stack.h"

#include <vector>

namespace dataplane::net::stack {

class StackSet final : public base::Transport {
public:
    explicit StackSet(base::Loop& loop) noexcept : loop_(loop) {}
    /// \param ip  what the stack was made with
    void add(Stack& stack, const ip::LayerOptions& ip);

    [[nodiscard]] base::NetResult<std::unique_ptr<base::Listener>>
    listen(const base::SocketAddress& local, const base::ListenOptions& options) override;
    [[nodiscard]] base::Task<base::NetResult<base::StreamPtr>>
    connect(base::SocketAddress remote, std::optional<base::IpAddress> source,
            base::Deadline deadline) override;

private:
    class Everywhere;
    struct Member {
        Stack* stack;
        std::vector<base::IpAddress> addresses; // sorted
        std::vector<base::Network> reached;     // networks and routes
    };
    [[nodiscard]] Stack& with_address(const base::IpAddress& own) const noexcept;
    [[nodiscard]] Stack& towards(const base::IpAddress& remote) const noexcept;

    base::Loop& loop_;
    std::vector<Member> members_;
};

} // namespace dataplane::net::stack
