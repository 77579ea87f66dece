#include "dataplane/loadgen/run/worker.h"

#include "dataplane/loadgen/run/machine.h"

#include <pthread.h>
#include <stdexcept>
#include <unistd.h>
#include <utility>

namespace dataplane::loadgen {
namespace {

constexpr std::chrono::milliseconds tick{10};
constexpr base::Duration publish_every = std::chrono::milliseconds{100};
constexpr std::chrono::milliseconds start_poll{2};

} // namespace

class Worker::Body {
public:
    explicit Body(Worker& worker)
        : worker_(worker), runtime_(worker.plan_.net),
          intruders_(runtime_.loop(), runtime_.transport(), worker.plan_.hostile) {
        const WorkerPlan& plan = worker.plan_;
        if (plan.sink) {
            if (plan.starttls) server_tls_ = runtime_.server_tls(plan.sink->host_name);
            sink_ = std::make_unique<Sink>(runtime_.loop(), runtime_.transport(), *plan.sink,
                                           server_tls_.get(), &worker.ledger_);
            if (const auto listening = sink_->start(); !listening) {
                throw std::runtime_error("cannot listen on " + sink_->failed_address().to_string() +
                                         ": " + std::string(base::to_string(listening.error())) +
                                         "; free the address, or say --listen");
            }
        }
        if (plan.source && plan.source->tls != SourceTls::none) {
            client_tls_ = runtime_.client_tls(plan.source->helo_name, plan.source->connections);
            fresh_tls_ = runtime_.client_tls(plan.source->helo_name, 0);
        }
        if (!runtime_.wait_for_link(std::chrono::seconds{30}))
            throw std::runtime_error("the device has no peer");
    }

    void run() {
        runtime_.run(tick, [this] { look(); });
    }

private:
    void look() {
        Order order;
        double rate = 0;
        {
            const std::lock_guard held(worker_.lock_);
            order = std::exchange(worker_.order_, Order::none);
            rate = worker_.rate_per_s_;
            if (std::exchange(worker_.ledger_wanted_, false))
                worker_.taken_ = std::exchange(worker_.ledger_, Auditor{});
        }
        base::Loop& loop = runtime_.loop();
        switch (order) {
        case Order::none:
            break;
        case Order::send:
            if (source_ == nullptr || source_->finished()) {
                begin(rate);
            } else { // the last messages of the time before are still under way
                const std::lock_guard held(worker_.lock_);
                if (worker_.order_ == Order::none) worker_.order_ = Order::send;
            }
            break;
        case Order::stop:
            if (source_) source_->stop();
            break;
        case Order::end:
            intruders_.stop();
            loop.stop();
            break;
        }
        if (order == Order::none && loop.now() - published_ < publish_every &&
            !(source_ && source_->finished()))
            return;
        published_ = loop.now();
        publish();
    }

    void begin(double rate) {
        if (!std::exchange(intruding_, true)) intruders_.start();
        if (!worker_.plan_.source) return;
        retire_source();
        SourceOptions options = *worker_.plan_.source;
        options.rate_per_s = rate;
        options.messages = 0;
        options.time = std::chrono::hours{24 * 365}; // stop_sending() ends it
        options.first_sequence = next_sequence_;
        source_ = std::make_unique<Source>(runtime_.loop(), runtime_.transport(),
                                           std::move(options), MessageMaker(worker_.plan_.pattern),
                                           client_tls_.get(), &worker_.ledger_, fresh_tls_.get());
        source_->start();
    }

    void retire_source() {
        if (source_ == nullptr) return;
        add(before_, source_->tally());
        next_sequence_ += source_->taken();
        source_.reset();
    }

    void publish() {
        Totals totals;
        totals.source = before_;
        if (source_) add(totals.source, source_->tally());
        totals.sending = source_ != nullptr && !source_->finished();
        if (sink_) totals.sink = sink_->tally();
        totals.hostile = intruders_.tally();
        totals.port_drops = runtime_.port_drops();
        totals.cpu_s = thread_cpu_s();
        if (source_ && source_->finished()) retire_source();
        const std::lock_guard held(worker_.lock_);
        if (worker_.order_ == Order::send) totals.sending = true; // told, not yet begun
        worker_.totals_ = std::move(totals);
    }

    Worker& worker_;
    Runtime runtime_;
    std::unique_ptr<TlsWrapper> server_tls_, client_tls_, fresh_tls_;
    std::unique_ptr<Sink> sink_;
    std::unique_ptr<Source> source_;
    Intruders intruders_;
    SourceTally before_; // of sources that are done
    std::uint64_t next_sequence_ = 0;
    bool intruding_ = false;
    base::TimePoint published_{};
};

Worker::Worker(WorkerPlan plan) : plan_(std::move(plan)) {}

Worker::~Worker() {
    if (thread_.joinable()) static_cast<void>(finish());
}

void Worker::start() {
    thread_ = std::thread([this] { run(); });
    pthread_setname_np(thread_.native_handle(), plan_.source ? "bench-source"
                                                : plan_.sink ? "bench-sink"
                                                             : "bench-hostile");
    for (;;) {
        std::this_thread::sleep_for(start_poll);
        const std::lock_guard held(lock_);
        if (!failure_.empty()) throw std::runtime_error(failure_);
        if (started_) return;
    }
}

void Worker::run() {
    try {
        if (plan_.cpu >= 0) pin_to_cpu(plan_.cpu);
        Body body(*this);
        {
            const std::lock_guard held(lock_);
            thread_number_ = gettid();
            started_ = true;
        }
        body.run();
    } catch (const std::exception& error) {
        const std::lock_guard held(lock_);
        failure_ = error.what();
    }
    const std::lock_guard held(lock_);
    ended_ = true;
}

void Worker::send(double rate_per_s) {
    const std::lock_guard held(lock_);
    order_ = Order::send;
    rate_per_s_ = rate_per_s;
    totals_.sending = true;
}

void Worker::stop_sending() {
    const std::lock_guard held(lock_);
    order_ = Order::stop;
}

Totals Worker::totals() const {
    const std::lock_guard held(lock_);
    return totals_;
}

Auditor Worker::take_ledger() {
    {
        const std::lock_guard held(lock_);
        ledger_wanted_ = true;
    }
    for (;;) {
        {
            const std::lock_guard held(lock_);
            if (!ledger_wanted_) return std::exchange(taken_, Auditor{});
            if (ended_) return Auditor{};
        }
        std::this_thread::sleep_for(start_poll);
    }
}

Auditor Worker::finish() {
    {
        const std::lock_guard held(lock_);
        order_ = Order::end;
    }
    if (thread_.joinable()) thread_.join();
    return std::move(ledger_);
}

} // namespace dataplane::loadgen
