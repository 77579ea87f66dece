// driver.h: where the events of a shard on its own TCP/IP come from: its ports and the ring.
//
// Scope      Polls all of them. A device that is polled cannot wake a thread, so "asleep" means short naps: none
//            while frames come, longer and longer ones up to idle_sleep when they do not. A loop that
//            busy-polls (Loop::run) never asks for a nap.
// Owns       Nothing.
// Threading  The shard's.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/uring.h"
#include "dataplane/net/stack/stack.h"

#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

namespace dataplane::net::stack {

struct DriverOptions {
    base::Duration idle_sleep =
        std::chrono::microseconds{50};                  // longest nap; 0: gives the CPU up, no more
    base::Duration spin = std::chrono::microseconds{2}; // polls on for so long after a frame
};

class StackDriver : public base::Driver {
public:
    /// \param stacks  one for each port
    StackDriver(std::vector<Stack*> stacks, base::Uring& ring, DriverOptions options = {}) noexcept
        : stacks_(std::move(stacks)), ring_(ring), options_(options) {}

    void poll() override;
    void sleep_until(base::TimePoint now, base::TimePoint until) override;

protected:
    /// There was work that poll() does not see: no nap for now, as after a frame.
    void stay_awake() noexcept { frames_came_ = true; }

private:
    static constexpr base::Duration nap_min = std::chrono::microseconds{5};

    std::vector<Stack*> stacks_;
    base::Uring& ring_;
    DriverOptions options_;
    bool frames_came_ = false;
    base::TimePoint last_frame_{};
    base::Duration nap_ = nap_min;
};

} // namespace dataplane::net::stack
