#include "queue/disk/flush_coordinator.h"

#include "dataplane/base/check.h"

#include <cerrno>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <system_error>
#include <unistd.h>

namespace queue {
namespace {

constexpr unsigned ring_entries = 64;

/// fdatasync of several files at the same time, or one after the other where there is no ring to be had.
class Flusher {
public:
    Flusher() : has_ring_(io_uring_queue_init(ring_entries, &ring_, 0) == 0) {}
    ~Flusher() {
        if (has_ring_) io_uring_queue_exit(&ring_);
    }
    Flusher(const Flusher&) = delete;
    Flusher& operator=(const Flusher&) = delete;

    [[nodiscard]] bool flush(const std::vector<int>& descriptors) {
        // The kernel hands each fsync of a ring to a worker of its own: worth it only where two can meet.
        if (descriptors.size() > 1 && descriptors.size() <= ring_entries && has_ring_)
            return flush_together(descriptors);
        bool good = true;
        for (const int descriptor : descriptors)
            good = ::fdatasync(descriptor) == 0 && good;
        return good;
    }

private:
    [[nodiscard]] bool flush_together(const std::vector<int>& descriptors) {
        for (const int descriptor : descriptors) {
            io_uring_sqe* entry = io_uring_get_sqe(&ring_);
            CHECK(entry != nullptr);
            io_uring_prep_fsync(entry, descriptor, IORING_FSYNC_DATASYNC);
        }
        std::size_t submitted = 0;
        while (submitted < descriptors.size()) {
            const int count = io_uring_submit(&ring_);
            CHECK(count >= 0 || count == -EINTR || count == -EAGAIN || count == -EBUSY);
            if (count > 0) submitted += static_cast<std::size_t>(count);
        }
        bool good = true;
        for (std::size_t done = 0; done < descriptors.size();) {
            io_uring_cqe* entry = nullptr;
            if (io_uring_wait_cqe(&ring_, &entry) != 0) continue;
            good = entry->res == 0 && good;
            io_uring_cqe_seen(&ring_, entry);
            ++done;
        }
        return good;
    }

    io_uring ring_{};
    bool has_ring_;
};

} // namespace

FlushCoordinator::FlushCoordinator()
    : FlushCoordinator([flusher = std::make_shared<Flusher>()](const std::vector<int>& all) {
          return flusher->flush(all); // shared_ptr only because std::function wants a copyable one
      }) {}

FlushCoordinator::FlushCoordinator(Flush flush) : flush_(std::move(flush)) {
    thread_ = std::thread([this] { run(); });
}

FlushCoordinator::~FlushCoordinator() {
    CHECK(ports_.empty());
    stop_ = true;
    wakeup_.signal();
    thread_.join();
}

std::unique_ptr<FlushCoordinator::Port>
FlushCoordinator::attach(base::Loop& loop, base::Uring& ring, int descriptor) {
    std::unique_ptr<Port> port{new Port{*this, loop, ring, descriptor}};
    const std::scoped_lock lock(mutex_);
    ports_.push_back(port.get());
    ++attached_;
    return port;
}

void FlushCoordinator::detach(Port& port) {
    const std::scoped_lock lock(mutex_);
    std::erase(ports_, &port);
    --attached_;
}

void FlushCoordinator::run() {
    pthread_setname_np(pthread_self(), "spool-flush");
    while (!stop_) {
        if (epoch()) continue;
        wakeup_.will_sleep();
        if (!epoch() && !stop_) { // asked for before the sleep was announced
            pollfd waiting{wakeup_.descriptor(), POLLIN, 0};
            static_cast<void>(::poll(&waiting, 1, -1));
        }
        wakeup_.awake();
        std::uint64_t count = 0;
        static_cast<void>(!::read(wakeup_.descriptor(), &count, sizeof count));
    }
}

std::vector<FlushCoordinator::Port*> FlushCoordinator::take_wanting() {
    std::vector<Port*> wanting;
    for (Port* port : ports_) {
        // Acquire: the shard's writes had landed when it asked.
        if (port->wanted_.exchange(false, std::memory_order_acq_rel)) wanting.push_back(port);
    }
    return wanting;
}

bool FlushCoordinator::epoch() {
    const std::scoped_lock lock(mutex_);
    std::vector<Port*> wanting = take_wanting();
    if (wanting.empty()) return false;
    std::vector<int> descriptors;
    for (const Port* port : wanting)
        descriptors.push_back(port->descriptor_);
    const bool good = flush_(descriptors);
    epochs_.fetch_add(1, std::memory_order_relaxed);
    if (!good) {
        const std::vector<Port*> since = take_wanting();
        wanting.insert(wanting.end(), since.begin(), since.end());
    }
    for (Port* port : wanting) {
        auto answer = good ? Port::Answer::good : Port::Answer::failed;
        CHECK(port->answers_.post(std::move(answer))); // one question at a time
    }
    return true;
}

FlushCoordinator::Port::Port(FlushCoordinator& owner, base::Loop& loop, base::Uring& ring,
                             int descriptor)
    : owner_(owner), loop_(loop), ring_(ring), descriptor_(descriptor),
      answers_(
          ring.wakeup(), 2,
          [](void* self, Answer&& answer) {
              Port& port = *static_cast<Port*>(self);
              port.waiting_ = false;
              port.answer_ = answer;
              port.answered_.wake_all();
          },
          this) {
    ring_.add_inbox(answers_);
}

FlushCoordinator::Port::~Port() {
    owner_.detach(*this);
    ring_.remove_inbox(answers_);
}

base::Task<std::expected<void, DiskError>> FlushCoordinator::Port::flush() {
    CHECK(!waiting_);
    waiting_ = true;
    wanted_.store(true, std::memory_order_release);
    owner_.wakeup_.signal();
    while (waiting_)
        static_cast<void>(co_await answered_.wait(loop_, base::Deadline::never()));
    if (answer_ == Answer::failed) co_return std::unexpected(DiskError::io);
    co_return std::expected<void, DiskError>{};
}

} // namespace queue
