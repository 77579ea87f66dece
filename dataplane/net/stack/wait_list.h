// wait_list.h: base::WaitQueue without its label, for what every one of a million connections has twice.
//
// Scope      As base/wait.h. The label comes with each wait.
// Threading  One shard.
#pragma once

#include "dataplane/base/wait.h"

namespace dataplane::net::stack {

namespace base = dataplane::base;

class WaitList {
public:
    WaitList() noexcept { head_.make_head(); }
    /// Whoever waits holds the connection that this belongs to.
    ~WaitList() { CHECK(head_.alone()); }
    WaitList(const WaitList&) = delete;
    WaitList& operator=(const WaitList&) = delete;

    class Awaiter {
    public:
        Awaiter(WaitList& list, base::Loop& loop, const char* label,
                base::Deadline deadline) noexcept
            : list_(list), node_(loop, label, deadline) {}
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        bool await_suspend(std::coroutine_handle<> waiting) noexcept {
            if (!node_.park(waiting)) return false;
            node_.queue_link.node = &node_;
            node_.queue_link.link_before(list_.head_);
            return true;
        }
        [[nodiscard]] base::Wake await_resume() const noexcept { return node_.reason(); }

    private:
        WaitList& list_;
        base::WaitNode node_;
    };

    /// \param label  names the wait to the loop's watchdog; a string literal
    [[nodiscard]] Awaiter wait(base::Loop& loop, const char* label,
                               base::Deadline deadline) noexcept {
        return Awaiter{*this, loop, label, deadline};
    }
    void wake_all() noexcept {
        while (!head_.alone()) {
            auto& link = static_cast<base::WaitNode::QueueLink&>(*head_.next);
            link.node->wake(base::Wake::event); // unlinks it
        }
    }
    [[nodiscard]] bool empty() const noexcept { return head_.alone(); }

private:
    base::detail::Link head_;
};

} // namespace dataplane::net::stack
