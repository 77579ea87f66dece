#include "queue/queue.h"

#include "queue/core.h"
#include "queue/recovery.h"

namespace queue {

std::string_view to_string(DiskError error) noexcept {
    switch (error) {
    case DiskError::io:
        return "input/output error";
    case DiskError::short_transfer:
        return "short transfer";
    case DiskError::no_space:
        return "no space";
    case DiskError::timed_out:
        return "timed out";
    }
    return "unknown";
}

std::string_view to_string(SpoolError error) noexcept {
    switch (error) {
    case SpoolError::full:
        return "full";
    case SpoolError::overloaded:
        return "overloaded";
    case SpoolError::write_failed:
        return "write failed";
    case SpoolError::read_failed:
        return "read failed";
    case SpoolError::damaged:
        return "damaged";
    case SpoolError::timed_out:
        return "timed out";
    case SpoolError::cancelled:
        return "cancelled";
    case SpoolError::read_only:
        return "read-only";
    case SpoolError::too_large:
        return "too large";
    }
    return "unknown";
}

MessageQueue::MessageQueue(std::unique_ptr<QueueCore> core) noexcept : core_(std::move(core)) {}
MessageQueue::~MessageQueue() = default;

base::Task<SpoolResult<std::unique_ptr<MessageQueue>>>
MessageQueue::open(base::Loop& loop, Disk& disk, QueueOptions options, RecoveryReport& report) {
    Recovery recovery{loop, disk, options, report};
    auto core = co_await recovery.run();
    if (!core) co_return std::unexpected(core.error());
    co_return std::unique_ptr<MessageQueue>{new MessageQueue{std::move(*core)}};
}

SpoolResult<Draft> MessageQueue::begin(std::uint64_t expected_bytes, DraftUse use) {
    auto message = core_->begin(expected_bytes, use);
    if (!message) return std::unexpected(message.error());
    return Draft{*core_, std::move(*message)};
}

void MessageQueue::set_sink(ReadySink& sink) {
    core_->set_sink(sink);
}
void MessageQueue::settle(MessageRef message) {
    core_->settle(std::move(message));
}
void MessageQueue::defer(MessageRef message, base::WallTime due, std::string_view why) {
    core_->defer(std::move(message), due, why);
}
void MessageQueue::progress(const Message& message) {
    core_->progress(message);
}
base::Task<SpoolResult<>> MessageQueue::sync(base::Deadline deadline) {
    return core_->sync(deadline);
}
void MessageQueue::for_each(const QueueFilter& filter,
                            const std::function<bool(const Message&)>& visit) const {
    core_->for_each(filter, visit);
}
std::uint64_t MessageQueue::flush(const QueueFilter& filter) {
    return core_->flush(filter);
}
std::uint64_t MessageQueue::suspend(const QueueFilter& filter) {
    return core_->suspend(filter);
}
std::uint64_t MessageQueue::resume(const QueueFilter& filter) {
    return core_->resume(filter);
}
bool MessageQueue::suspended(const Message& message) const {
    return core_->suspended(message);
}
base::Task<SpoolResult<>> MessageQueue::close(base::Deadline deadline) {
    return core_->close(deadline);
}
QueueCounters MessageQueue::counters() const noexcept {
    return core_->counters();
}

} // namespace queue
