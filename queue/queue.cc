#include "queue/queue.h"

#include "queue/core.h"
#include "queue/recovery.h"

namespace queue {

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
    case SpoolError::forged:
        return "forged";
    case SpoolError::no_key:
        return "its key is missing";
    case SpoolError::too_large:
        return "too large";
    }
    return "unknown";
}

MessageQueue::MessageQueue(std::unique_ptr<QueueCore> core) noexcept : core_(std::move(core)) {}
MessageQueue::~MessageQueue() = default;

base::Task<SpoolResult<std::unique_ptr<MessageQueue>>>
MessageQueue::open(base::Loop& loop, Disk& disk, QueueOptions options, RecoveryReport& report) {
    auto core = co_await Recovery::open(loop, disk, options, report);
    if (!core) co_return std::unexpected(core.error());
    co_return std::unique_ptr<MessageQueue>{new MessageQueue{std::move(*core)}};
}

const RecoveryReport& MessageQueue::recovery() const noexcept {
    return core_->recovery();
}

base::Task<SpoolResult<>> MessageQueue::recovered(base::Deadline deadline) {
    return core_->recovered(deadline);
}

bool MessageQueue::read_only() const noexcept {
    return core_->log().read_only();
}

SpoolPressure MessageQueue::pressure() noexcept {
    return core_->pressure();
}

SpoolResult<Draft> MessageQueue::begin(std::uint64_t expected_bytes, DraftUse use,
                                       std::string_view tenant) {
    auto message = core_->begin(expected_bytes, use, tenant);
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
void MessageQueue::park(MessageRef message, SiteRef site, base::WallTime wake_by) {
    core_->park(std::move(message), site, wake_by);
}
void MessageQueue::hold(MessageRef message) {
    core_->hold(std::move(message));
}
std::uint32_t MessageQueue::release_held(std::uint32_t count) {
    core_->pull();
    return core_->schedule().release_held(count);
}
void MessageQueue::pull() {
    core_->pull();
}
SiteRef MessageQueue::site(std::string_view key) {
    return core_->schedule().site(key);
}
void MessageQueue::leave(SiteRef site) noexcept {
    core_->schedule().leave(site);
}
void MessageQueue::pause(SiteRef site, base::WallTime until) {
    core_->schedule().pause(site, core_->tick_of(until));
    core_->pull();
}
void MessageQueue::unpause(SiteRef site) {
    core_->schedule().unpause(site);
    core_->pull();
}
void MessageQueue::set_failures(SiteRef site, std::uint32_t failures, std::string_view why) {
    core_->schedule().set_failures(site, failures, why);
}
std::uint32_t MessageQueue::release(SiteRef site, std::uint32_t count) {
    core_->pull();
    return core_->schedule().release(site, count);
}
Schedule::SiteView MessageQueue::site_view(SiteRef site) const noexcept {
    return core_->schedule().view(site);
}
const Schedule& MessageQueue::schedule() const noexcept {
    return core_->schedule();
}
const MessageIndex& MessageQueue::index() const noexcept {
    return core_->index();
}
base::Task<SpoolResult<MessageRef>> MessageQueue::load(MessageId id, base::Deadline deadline) {
    return core_->load(id, deadline);
}
bool MessageQueue::remove(EntryRef entry) {
    return core_->remove(entry);
}
bool MessageQueue::expedite(EntryRef entry, bool held_too) {
    return core_->expedite(entry, held_too);
}
void MessageQueue::for_each(const QueueFilter& filter,
                            const std::function<bool(EntryRef, const Entry&)>& visit) const {
    core_->for_each(filter, visit);
}
std::uint64_t MessageQueue::flush(const QueueFilter& filter) {
    return core_->flush(filter);
}
base::Task<SpoolResult<>> MessageQueue::close(base::Deadline deadline) {
    return core_->close(deadline);
}
QueueCounters MessageQueue::counters() const noexcept {
    return core_->counters();
}

std::array<std::span<std::byte>, 2> MessageQueue::arenas() const noexcept {
    return core_->arenas();
}

} // namespace queue
