#include "dataplane/loadgen/spool_load.h"

#include <algorithm>
#include <stdexcept>
#include <sys/resource.h>
#include <vector>

namespace dataplane::loadgen {
namespace {

using Steady = std::chrono::steady_clock;

constexpr std::size_t header_bytes = 600; // Received and what else a relay adds
constexpr std::uint32_t kept_body_bytes = 64;
constexpr std::size_t filling_writers = 2000;
constexpr std::chrono::seconds patience{600};

double cpu_now() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

} // namespace

/// Hands over memory as it lies there: who fills it in the relay is the SMTP session, whose work is not the
/// spool's (smtp_bench has it).
base::Task<queue::SpoolResult<>> fill_body(queue::Draft& draft, std::size_t bytes) {
    while (bytes > 0) {
        const std::size_t room = std::min(draft.room().size(), bytes);
        if (room == 0) {
            auto made = co_await draft.make_room(base::Deadline::never());
            if (!made) co_return made;
            continue;
        }
        draft.appended(room);
        bytes -= room;
    }
    co_return queue::SpoolResult<>{};
}

/// Takes each message at once: it is done, or waits for a day.
class SpoolLoad::Sink final : public queue::ReadySink {
public:
    Sink(base::Loop& loop, queue::MessageQueue& queue, bool keep) noexcept
        : loop_(loop), queue_(queue), keep_(keep) {}
    void message_ready(queue::MessageRef message) override {
        if (keep_) {
            queue_.defer(std::move(message), loop_.wall_now() + std::chrono::hours{24},
                         "451 4.7.1 try again later");
            return;
        }
        for (queue::RecipientStatus& status : message->status)
            status.state = queue::RecipientState::delivered;
        queue_.settle(std::move(message));
    }

private:
    base::Loop& loop_;
    queue::MessageQueue& queue_;
    bool keep_;
};

struct SpoolLoad::Writers {
    SpoolLoad& load;
    const SpoolFlow& flow;
    SpoolFigures& figures;
    Steady::time_point began = Steady::now();
    std::uint64_t next = 0; // at a rate: the next to be due
    std::uint64_t left = 0; // when they are counted
    std::size_t running = 0;
    bool stop = false;
};

SpoolLoad::SpoolLoad(const std::string& path, std::uint64_t pool_bytes,
                     queue::CommitStrategy commit) {
    queue::UringFileOptions options;
    options.pool_bytes = pool_bytes;
    auto file = queue::UringFile::open(loop_, ring_, path, options);
    if (!file) throw std::runtime_error(path + ": " + file.error().text);
    file_ = std::move(*file);
    disk_ = file_.get();
    if (commit == queue::CommitStrategy::dsync) return;
    coordinator_ = std::make_unique<queue::FlushCoordinator>();
    file_->flush_through(*coordinator_);
    flush_disk_ = std::make_unique<queue::FlushDisk>(loop_, *file_);
    disk_ = flush_disk_.get();
}

SpoolLoad::~SpoolLoad() {
    try {
        close();
    } catch (const std::exception&) {
        // It was to be thrown away: the figures have been taken.
    }
}

void SpoolLoad::turn() {
    ring_.poll();
    if (loop_.turn()) return;
    ring_.sleep_until(loop_.now(),
                      std::min(loop_.next_due(), loop_.now() + std::chrono::milliseconds{10}));
}

bool SpoolLoad::turn_until(const std::function<bool()>& done, std::chrono::seconds limit) {
    const auto end = Steady::now() + limit;
    while (!done()) {
        if (Steady::now() > end) return false;
        turn();
    }
    return true;
}

queue::RecoveryReport SpoolLoad::open(bool keep, std::shared_ptr<const queue::KeyRing> keys) {
    queue::QueueOptions options;
    options.keys = std::move(keys);
    queue::RecoveryReport report;
    queue::SpoolResult<std::unique_ptr<queue::MessageQueue>> opened;
    struct Opening {
        static base::Task<void> run(SpoolLoad* load, const queue::QueueOptions* how,
                                    queue::RecoveryReport* out,
                                    queue::SpoolResult<std::unique_ptr<queue::MessageQueue>>* to) {
            *to = co_await queue::MessageQueue::open(load->loop_, *load->disk_, *how, *out);
        }
    };
    base::Task<void> opening = Opening::run(this, &options, &report, &opened);
    opening.start();
    if (!turn_until([&] { return opening.done(); }, patience))
        throw std::runtime_error("the spool does not open");
    if (!opened) throw std::runtime_error("the spool does not open: " + report.problem);
    queue_ = std::move(*opened);
    sink_ = std::make_unique<Sink>(loop_, *queue_, keep);
    queue_->set_sink(*sink_);
    return report;
}

void SpoolLoad::close() {
    if (!queue_) return;
    bool safe = false;
    struct Closing {
        static base::Task<void> run(SpoolLoad* load, bool* out) {
            auto closed = co_await load->queue_->close(base::Deadline::never());
            *out = closed.has_value();
        }
    };
    base::Task<void> closing = Closing::run(this, &safe);
    closing.start();
    const bool ended = turn_until([&] { return closing.done(); }, patience);
    queue_.reset();
    sink_.reset();
    if (!ended || !safe) throw std::runtime_error("the spool does not close");
}

base::Task<void> SpoolLoad::write_mail(Writers* all) {
    base::Loop& loop = all->load.loop_;
    const std::string prelude(header_bytes, 'h');
    while (!all->stop) {
        auto since = Steady::now();
        if (all->flow.rate_per_s != 0) {
            const auto due = all->began + std::chrono::nanoseconds{all->next++ * 1'000'000'000ULL /
                                                                   all->flow.rate_per_s};
            while (Steady::now() < due && !all->stop)
                static_cast<void>(co_await base::sleep_for(loop, due - Steady::now()));
            if (all->stop) break;
            since = due;
        }
        auto draft = all->load.queue_->begin(all->flow.body_bytes);
        if (!draft) {
            ++all->figures.refused;
            static_cast<void>(co_await base::sleep_for(loop, std::chrono::milliseconds{1}));
            continue;
        }
        draft->envelope().set_sender("sender@example.org");
        draft->envelope().add_recipient("recipient@example.net", "", queue::notify_absent);
        auto filled = co_await fill_body(*draft, all->flow.body_bytes);
        auto committed = co_await draft->commit(prelude, base::Deadline::never());
        if (!filled || !committed) {
            ++all->figures.refused;
            continue;
        }
        ++all->figures.messages;
        all->figures.latency.record(static_cast<std::uint64_t>((Steady::now() - since).count()));
    }
    --all->running;
}

SpoolFigures SpoolLoad::run(const SpoolFlow& flow) {
    SpoolFigures figures;
    const queue::QueueCounters before = queue_->counters();
    const double cpu_before = cpu_now();
    Writers all{.load = *this, .flow = flow, .figures = figures, .running = flow.writers};
    for (std::size_t i = 0; i < flow.writers; ++i)
        loop_.spawn(write_mail(&all), "bench writer");
    turn_until([&] { return Steady::now() - all.began > flow.time; }, patience);
    figures.seconds = std::chrono::duration<double>(Steady::now() - all.began).count();
    figures.cpu_seconds = cpu_now() - cpu_before;
    const queue::QueueCounters after = queue_->counters();
    figures.batches = after.batches - before.batches;
    figures.written_bytes = after.batch_bytes - before.batch_bytes;
    const std::uint64_t messages = figures.messages; // those that end later do not count
    all.stop = true;
    turn_until([&] { return all.running == 0; }, patience);
    figures.messages = messages;
    return figures;
}

base::Task<void> SpoolLoad::write_kept(Writers* all, std::uint32_t destinations) {
    const std::vector<std::byte> body(kept_body_bytes, std::byte{'x'});
    while (all->left > 0) {
        const std::uint64_t number = --all->left;
        auto draft = all->load.queue_->begin(body.size());
        if (!draft) {
            ++all->left;
            ++all->figures.refused;
            static_cast<void>(
                co_await base::sleep_for(all->load.loop_, std::chrono::milliseconds{1}));
            continue;
        }
        draft->envelope().set_sender("bounces@sender.example");
        draft->envelope().add_recipient("user" + std::to_string(number) + "@d" +
                                            std::to_string(number % destinations) + ".example",
                                        "", queue::notify_absent);
        auto appended = co_await draft->append(body, base::Deadline::never());
        auto committed = co_await draft->commit("Received: x\r\n", base::Deadline::never());
        if (appended && committed) ++all->figures.messages;
    }
    --all->running;
}

void SpoolLoad::fill(std::uint64_t count, std::uint32_t destinations) {
    const SpoolFlow flow;
    SpoolFigures figures;
    Writers all{
        .load = *this, .flow = flow, .figures = figures, .left = count, .running = filling_writers};
    for (std::size_t i = 0; i < filling_writers; ++i)
        loop_.spawn(write_kept(&all, destinations), "bench filler");
    turn_until([&] { return all.running == 0; }, patience);
    turn_until([&] { return counters().deferred_messages >= figures.messages; }, patience);
    if (figures.messages != count)
        throw std::runtime_error("the pool took only " + std::to_string(figures.messages) + " of " +
                                 std::to_string(count) + " messages: give it more --pool-mib");
}

base::Task<void> SpoolLoad::write_one(Writers* all, bool* done) {
    co_await write_kept(all, 1);
    *done = true;
}

std::chrono::nanoseconds SpoolLoad::one() {
    const SpoolFlow flow;
    SpoolFigures figures;
    Writers all{.load = *this, .flow = flow, .figures = figures, .left = 1, .running = 1};
    bool done = false;
    loop_.spawn(write_one(&all, &done), "bench one");
    if (!turn_until([&] { return done; }, patience) || figures.messages != 1)
        throw std::runtime_error("the spool takes no mail");
    return Steady::now() - all.began;
}

} // namespace dataplane::loadgen
