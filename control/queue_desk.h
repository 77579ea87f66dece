// queue_desk.h: what an operator asks of queued mail: the requests as they come, and the orders that stand.
//
// Scope      Checks a request, keeps suspensions and reroutes, asks the data plane. What a request does
//            on a shard is dataplane/daemon/queue_operations.h's.
// Owns       state_dir/queue_orders.json. millraced reads it at start, so that what is suspended stays so
//            when everything starts again; it is here and not in the spool because an order is for all
//            shards, outlives them, and can be looked at and ended while millraced is down.
// Threading  Any thread; one lock.
// Failure    QueueRefusal. An order is durable before it is told to the shards and before it is answered.
#pragma once

#include "control/link_server.h"

#include <cstdint>
#include <expected>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace control {

struct QueueRefusal {
    bool asker = true; // wrongly asked; false: it could not be done now
    std::string text;
};

class QueueDesk {
public:
    using Ask = std::function<std::expected<std::string, std::string>(const CommandRequest&)>;
    using Known = std::function<bool(std::string_view source_or_pool)>;

    QueueDesk(std::string file, Ask ask, Known known);

    /// Reads the orders; "" or why that failed.
    [[nodiscard]] std::string open();
    /// \param verb  list, show, count, flush, delete, expire, suspend, resume, reroute, orders
    /// \param body  a JSON object
    [[nodiscard]] std::expected<std::string, QueueRefusal> run(std::string_view verb,
                                                               std::string_view body);
    /// Tells the shards what they could not be told before. Cheap: called every second.
    void follow();

private:
    [[nodiscard]] std::string save(const std::string& text);
    [[nodiscard]] bool tell(); // both: lock_ held
    [[nodiscard]] std::string orders_text();

    const std::string file_;
    const Ask ask_;
    const Known known_;
    std::mutex lock_;
    std::string orders_; // the file's text
    bool untold_ = false;
};

} // namespace control
