// journal_events.h: marks in a spool's journal when a message was accepted and when it was done with.
//
// Scope      Passes every event on unchanged. For --spool-journal alone.
// Threading  The shard's.
#pragma once

#include "dataplane/telemetry/event.h"
#include "queue/disk/journal.h"

namespace dataplane::daemon {

class JournalEvents final : public telemetry::EventSink {
public:
    JournalEvents(telemetry::EventSink& below, queue::Journal& journal) noexcept
        : below_(below), journal_(journal) {}

    [[nodiscard]] telemetry::Event* claim() noexcept override { return claimed_ = below_.claim(); }
    void publish() noexcept override {
        using telemetry::EventType;
        switch (claimed_->type) {
        case EventType::reception:
            journal_.mark(queue::JournalKind::accepted, claimed_->message_id);
            break;
        case EventType::delivery:
        case EventType::bounce:
        case EventType::expiration:
        case EventType::admin_bounce:
            journal_.mark(queue::JournalKind::delivered, claimed_->message_id);
            break;
        case EventType::transient_failure:
        case EventType::rejection:
        case EventType::delayed:
            break;
        }
        below_.publish();
    }

private:
    telemetry::EventSink& below_;
    queue::Journal& journal_;
    telemetry::Event* claimed_ = nullptr;
};

} // namespace dataplane::daemon
