// spool_bench.cc: how many 4 KB messages a second become durable, beside the same writes without a queue.
//
// Usage: spool_bench FOLDER [SECONDS]. FOLDER must be on a real disk. 64 writers commit, a sink settles
// each message at once; then bare RWF_DSYNC writes of the batch size seen, as many at a time.
#include "dataplane/base/uring.h"
#include "queue/log.h"
#include "queue/queue.h"
#include "queue/uring_file.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unistd.h>
#include <vector>

namespace {

using namespace queue;
namespace base = dataplane::base;

constexpr std::size_t writer_count = 64;
constexpr std::size_t body_bytes = 4096;
constexpr std::size_t raw_writers = natural_writes_in_flight;

class SettlingSink final : public ReadySink {
public:
    explicit SettlingSink(MessageQueue& queue) noexcept : queue_(queue) {}
    void message_ready(MessageRef message) override {
        for (RecipientStatus& status : message->status)
            status.state = RecipientState::delivered;
        queue_.settle(std::move(message));
    }

private:
    MessageQueue& queue_;
};

struct Run {
    base::Loop* loop;
    bool* stop;
    std::uint64_t count = 0;
    std::size_t running = 0;
};

base::Task<void> commit_mail(Run* run, MessageQueue* queue) {
    const std::vector<std::byte> body(body_bytes, std::byte{'x'});
    const std::string prelude(600, 'h');
    while (!*run->stop) {
        auto draft = queue->begin(body_bytes);
        if (!draft) {
            static_cast<void>(co_await base::sleep_for(*run->loop, std::chrono::milliseconds{1}));
            continue;
        }
        draft->envelope().set_sender("sender@example.org");
        draft->envelope().add_recipient("recipient@example.net", "", notify_absent);
        auto appended = co_await draft->append(body, base::Deadline::never());
        auto committed = co_await draft->commit(prelude, base::Deadline::never());
        if (appended && committed) ++run->count;
    }
    --run->running;
}

base::Task<void> write_raw(Run* run, Disk* disk, std::size_t bytes, std::size_t lane) {
    const BlockMemory memory{bytes};
    const std::uint64_t lane_bytes = disk->size_bytes() / raw_writers / block_bytes * block_bytes;
    std::uint64_t at = 0;
    while (!*run->stop) {
        if (at + bytes > lane_bytes) at = 0;
        auto written = co_await disk->write(lane * lane_bytes + at, memory.span(), Durable::yes);
        if (written) ++run->count;
        at += bytes;
    }
    --run->running;
}

double seconds_since(std::chrono::steady_clock::time_point began) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: spool_bench FOLDER [SECONDS]\n");
        return 2;
    }
    const double seconds = argc > 2 ? std::atof(argv[2]) : 5;
    const std::string path = std::string{argv[1]} + "/spool_bench.pool";
    base::RealClock clock;
    base::Loop loop{clock};
    base::Uring ring;
    auto file = UringFile::open(loop, ring, path, {.pool_bytes = 1ULL << 30});
    if (!file) {
        std::fprintf(stderr, "%s\n", file.error().text.c_str());
        return 1;
    }
    ::unlink(path.c_str());
    bool stop = false;
    const auto turn = [&] {
        ring.poll();
        if (loop.turn()) return;
        ring.sleep_until(loop.now(),
                         std::min(loop.next_due(), loop.now() + std::chrono::milliseconds{10}));
    };
    const auto measure = [&](Run& run) {
        const auto began = std::chrono::steady_clock::now();
        const std::clock_t cpu = std::clock();
        while (seconds_since(began) < seconds)
            turn();
        const double took = seconds_since(began);
        const double cpu_took = static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC;
        stop = true;
        const std::uint64_t count = run.count;
        while (run.running > 0)
            turn();
        stop = false;
        std::printf("%.0f/s, CPU %.0f%%, %.1f us CPU each\n", static_cast<double>(count) / took,
                    100 * cpu_took / took, 1e6 * cpu_took / static_cast<double>(count));
    };

    RecoveryReport report;
    std::unique_ptr<MessageQueue> queue;
    {
        auto open = [](base::Loop* on, Disk* disk, RecoveryReport* out,
                       std::unique_ptr<MessageQueue>* to) -> base::Task<void> {
            auto opened = co_await MessageQueue::open(*on, *disk, QueueOptions{}, *out);
            if (opened) *to = std::move(*opened);
        };
        base::Task<void> opening = open(&loop, file->get(), &report, &queue);
        opening.start();
        while (!opening.done())
            turn();
        if (!queue) {
            std::fprintf(stderr, "%s\n", report.problem.c_str());
            return 1;
        }
    }
    SettlingSink sink{*queue};
    queue->set_sink(sink);

    Run commits{.loop = &loop, .stop = &stop, .running = writer_count};
    for (std::size_t i = 0; i < writer_count; ++i)
        loop.spawn(commit_mail(&commits, queue.get()), "bench writer");
    std::printf("queue, %zu writers of %zu bytes: ", writer_count, body_bytes);
    measure(commits);
    const QueueCounters counters = queue->counters();
    const std::uint64_t batch_bytes = counters.batch_bytes / counters.batches;
    std::printf("  %.1f messages and %.1f KiB a batch, written/accepted bytes %.2f\n",
                static_cast<double>(counters.accepted) / static_cast<double>(counters.batches),
                static_cast<double>(batch_bytes) / 1024,
                static_cast<double>(counters.batch_bytes) /
                    static_cast<double>(counters.accepted_bytes));
    queue.reset();

    const std::size_t raw_bytes = (batch_bytes + block_bytes - 1) / block_bytes * block_bytes;
    Run raw{.loop = &loop, .stop = &stop, .running = raw_writers};
    for (std::size_t i = 0; i < raw_writers; ++i)
        loop.spawn(write_raw(&raw, file->get(), raw_bytes, i), "bench raw");
    std::printf("bare DSYNC writes of %zu KiB, %zu at a time: ", raw_bytes / 1024, raw_writers);
    measure(raw);
    return 0;
}
