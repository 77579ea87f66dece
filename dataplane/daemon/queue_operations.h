// queue_operations.h: what an operator asks of the queued mail of one shard, done while it is delivered.
//
// Scope      Walks the index in slices between the turns' other work, selects by delivery/orders.h, and
//            counts, groups, lists, hands out, removes or gives up what it finds. Also reads the JSON that
//            says what to do, and the standing orders that control keeps (queue_orders.json).
// Owns       Its walks, one task each.
// Threading  Bound to one shard.
// Failure    {"error":"..."} for arguments that make no sense. What is in a delivery round, or being read
//            for one, is left alone and counted as `busy`.
//
// The index alone answers most filters. A sender or a recipient is found by a hash first, and then read
// from disk to be sure, unless only a count is wanted.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/delivery/dispatcher.h"
#include "dataplane/delivery/orders.h"
#include "dataplane/policy/shard_command.h"
#include "queue/queue.h"

#include <expected>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::daemon {

/// The text of queue_orders.json; a sentence when it is not that.
[[nodiscard]] std::expected<std::vector<delivery::StandingOrder>, std::string>
parse_orders(std::string_view json);

class QueueOperations {
public:
    using Answer = std::function<void(std::string json)>;

    QueueOperations(base::Loop& loop, queue::MessageQueue& queue,
                    delivery::Dispatcher& dispatcher) noexcept
        : loop_(loop), queue_(queue), dispatcher_(dispatcher) {}

    /// Answers at once or some turns later. The loop drops what is under way when it ends.
    void start(policy::ShardCommand::Kind kind, std::string_view arguments, Answer answer);

private:
    struct Request;
    struct Tally;
    base::Task<void> walk(Request request, Answer answer);
    [[nodiscard]] bool selected(const Request& request, queue::EntryRef ref,
                                const queue::Entry& entry) const;
    [[nodiscard]] std::string_view why(queue::EntryRef ref, const queue::Entry& entry) const;
    void take(const Request& request, Tally& tally, queue::EntryRef ref);
    base::Task<void> list(const Request* request, Tally* tally);
    [[nodiscard]] std::string_view site_of(queue::EntryRef ref, const queue::Entry& entry) const;
    [[nodiscard]] std::string group_of(const Request& request, queue::EntryRef ref,
                                       const queue::Entry& entry) const;

    base::Loop& loop_;
    queue::MessageQueue& queue_;
    delivery::Dispatcher& dispatcher_;
};

} // namespace dataplane::daemon
