#include "queue/tool/live_view.h"

#include "dataplane/base/check.h"

#include <algorithm>

namespace queue::tool {
namespace {

// Nothing is delivered, so nothing needs to stay in memory.
constexpr std::uint32_t resident_bytes = 8U << 20;
constexpr std::size_t sentences_max = 1000; // a pool that fits nowhere says so often enough

} // namespace

Offline::Offline(unsigned shard) : clock_(base::RealClock{}.wall_now()), loop_(clock_, shard) {}

void Offline::turn_until(const std::function<bool()>& done) {
    for (;;) {
        const bool more = loop_.turn();
        if (done()) return;
        if (more) continue;
        const base::TimePoint next = loop_.next_due();
        CHECK(next !=
              base::TimePoint::max()); // our disk answers at once: nothing to wait for but time
        clock_.advance_to(std::max(next, clock_.now()));
    }
}

std::expected<std::unique_ptr<LiveView>, std::string>
LiveView::open(PoolFile& pool, const Superblock& superblock, std::shared_ptr<const KeyRing> keys) {
    std::unique_ptr<LiveView> view{new LiveView{superblock}};
    QueueOptions options;
    options.resident_bytes_max = resident_bytes;
    options.keys = std::move(keys);
    auto opened =
        view->offline_.run(MessageQueue::open(view->offline_.loop(), pool, options, view->report_));
    if (!opened) {
        return std::unexpected("the queue does not open: " +
                               (view->report_.problem.empty()
                                    ? std::string{to_string(opened.error())}
                                    : view->report_.problem));
    }
    view->queue_ = std::move(*opened);
    const auto recovered = view->offline_.run(view->queue_->recovered(base::Deadline::never()));
    if (!recovered)
        return std::unexpected("recovery does not end: " +
                               std::string{to_string(recovered.error())});
    view->report_ = view->queue_->recovery();
    if (!view->report_.problem.empty())
        return std::unexpected("the queue does not open: " + view->report_.problem);
    return view;
}

void LiveView::count_live(std::vector<StoredSegment>& segments) const {
    const auto count = [&](Place place, std::uint32_t payload_bytes) {
        if (place.slot >= segments.size()) return;
        ++segments[place.slot].live_records;
        segments[place.slot].live_bytes +=
            record_bytes(payload_bytes, segments[place.slot].encrypted);
    };
    for (EntryRef ref = 0; ref < index().slot_count(); ++ref) {
        const Entry& entry = index()[ref];
        if (entry.id.value == 0) continue;
        count(entry.place, entry.payload_bytes);
        for (const Chunk& chunk : index().chunks(entry))
            count(chunk.place, chunk_prefix_bytes + chunk.bytes);
    }
}

void LiveView::bring_up_to_date(MessageId id, StoredMessage& stored) const {
    const EntryRef ref = index().find(id);
    if (ref == no_entry || index()[ref].lsn <= stored.status_lsn) return;
    const Entry& entry = index()[ref];
    stored.status_lsn = entry.lsn;
    stored.status = {.due = entry.due,
                     .attempts = entry.attempts,
                     .delay_notified = (entry.flags & Entry::delay_notified) != 0,
                     .last_error = {}};
    stored.last_error = index().error(entry);
    const auto recipients = index().status(entry);
    stored.recipients.assign(recipients.begin(), recipients.end());
}

std::vector<std::string> LiveView::compare(const Catalogue& catalogue) const {
    std::vector<std::string> problems;
    const auto tell = [&](MessageId id, std::string what) {
        if (problems.size() < sentences_max)
            problems.push_back("message " + id.to_string() + ": " + std::move(what));
    };
    for (EntryRef ref = 0; ref < index().slot_count(); ++ref) {
        const Entry& entry = index()[ref];
        if (entry.id.value == 0) continue;
        const StoredMessage* stored = catalogue.find(entry.id);
        if (stored == nullptr || !stored->record) {
            tell(entry.id, "the index has it, and no record of it is in the pool");
            continue;
        }
        if (stored->finished())
            tell(entry.id, "the index has it, and a record in the pool says that it has ended");
        if (stored->status_lsn > entry.lsn) {
            tell(entry.id, "the index has an older status than the pool");
        } else if (stored->status_lsn != 0 && stored->status_lsn == entry.lsn &&
                   !std::ranges::equal(stored->recipients, index().status(entry))) {
            tell(entry.id, "the index and the pool disagree about its recipients");
        }
    }
    // What is not in the index has ended. The record that said so may be overwritten by now, but only
    // where a checkpoint has taken note of it.
    const bool checkpoint = catalogue.checkpoint().has_value() && !report_.checkpoint_lost;
    for (const MessageId id : catalogue.ids()) {
        const StoredMessage& stored = *catalogue.find(id);
        if (stored.finished() || !stored.record || stored.record->damaged || has(id)) continue;
        if (stored.record->segment_seq < floor_) continue;
        if (checkpoint && stored.record->lsn < catalogue.checkpoint()->from.lsn) continue;
        const bool settled = !stored.recipients.empty() &&
                             std::ranges::none_of(stored.recipients, [](RecipientStatus status) {
                                 return status.state == RecipientState::pending;
                             });
        if (settled) continue; // recovery ends it
        tell(id, "the pool has it unfinished, and the index does not know it");
    }
    return problems;
}

} // namespace queue::tool
