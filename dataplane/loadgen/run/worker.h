// worker.h: one thread of a run, with a source, a sink, or both, or with intruders.
//
// Scope      The thread's loop and transport, what it is told to do, and a copy of its tallies ten
//            times a second. When to send, and what the figures mean, is runner.h's business.
// Owns       The thread and everything on it.
// Threading  The public functions from the thread that made the Worker; tallies cross under a lock
//            that neither side holds for longer than a copy.
// Failure    What the thread cannot do at its start comes out of start() as std::runtime_error.
#pragma once

#include "dataplane/loadgen/audit.h"
#include "dataplane/loadgen/run/plan.h"
#include "dataplane/loadgen/run/totals.h"
#include "dataplane/loadgen/runtime.h"

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace dataplane::loadgen {

class Worker {
public:
    explicit Worker(WorkerPlan plan);
    ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    /// Returns once the sink listens.
    void start();
    /// Begins to send; the numbers go on where the last time ended.
    /// \param rate_per_s  0: closed loop
    void send(double rate_per_s);
    /// What is under way is finished: see Totals::sending.
    void stop_sending();
    [[nodiscard]] Totals totals() const;
    [[nodiscard]] const WorkerPlan& plan() const noexcept { return plan_; }
    /// What the ledger has got since the last time. Waits for the thread, a tick or so.
    [[nodiscard]] Auditor take_ledger();
    /// The thread's number, for /proc.
    [[nodiscard]] int thread() const noexcept { return thread_number_; }
    /// Ends the thread and gives the rest of its ledger away.
    [[nodiscard]] Auditor finish();

private:
    enum class Order : std::uint8_t { none, send, stop, end };
    class Body; // what lives on the thread

    void run();

    WorkerPlan plan_;
    Auditor ledger_; // the thread's until it has ended
    mutable std::mutex lock_;
    Order order_ = Order::none;
    double rate_per_s_ = 0;
    bool started_ = false;
    bool ledger_wanted_ = false;
    bool ended_ = false;
    Auditor taken_; // on its way out
    int thread_number_ = 0;
    std::string failure_;
    Totals totals_;
    std::thread thread_;
};

} // namespace dataplane::loadgen
