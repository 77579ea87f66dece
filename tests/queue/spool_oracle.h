// spool_oracle.h: what clients and deliveries know, and what therefore must hold.
//
// Scope      The ledger of every message that was begun: what it contained, what its client was told, what has
//            become of its recipients and how much of that must be durable. Judges each boot by it, and the
//            queue's own books by what lies on the disk. The invariants are those of docs/reliability.md.
// Owns       The ledger; it outlives all Worlds of a run.
// Threading  One.
// Failure    A broken invariant is a violation, kept for whoever asks.
#pragma once

#include "queue/codec.h"
#include "tests/queue/spool_world.h"

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tests {

enum class Invariant : std::uint8_t {
    acknowledged_survives = 1, // body, envelope, expiry of what was acknowledged and is not done
    nothing_false_is_handed_out = 2, // no altered bytes, nobody else's bytes
    no_promise_without_durability = 3,
    done_stays_done = 4,
    duplicates_bounded =
        5, // only what was in doubt at the crash comes back, and the restart says how much
    index_is_the_log = 6,
    recovery_converges = 7,
    accounting_agrees = 8,
    numbers_never_repeat = 9,
    status_is_monotonic = 10, // and a report is durable before the message it is about ends
    damage_stays_local = 11,
    full_disk_goes_on = 12,
    memory_is_bounded = 13,
    everything_ends = 14,
    any_image_opens_or_refuses = 15,
};
[[nodiscard]] std::string_view to_string(Invariant invariant) noexcept;

struct Digest {
    std::uint64_t value = 0, bytes = 0;
    bool operator==(const Digest&) const noexcept = default;
};
[[nodiscard]] Digest digest(std::string_view bytes) noexcept;
[[nodiscard]] Digest digest(const queue::Envelope& envelope);

/// One message as its client meant it, and what has become of it.
struct Mail {
    Digest content, envelope;
    base::WallTime expiry{};
    bool acknowledged = false; // or found by a recovery: from then on it is there
    bool refused = false, refused_for_good = false;
    bool settled = false, settled_for_good = false; // for good: and a sync after it succeeded
    bool lost = false;                              // by damage that was reported
    // What a half that is left behind or away has of a last moment comes back with it, in a later boot: the end of
    // mail that had reached it, a round that had been made, mail that nobody was promised.
    bool loose = false, ended_once = false;
    std::uint32_t attempts_ever = 0;
    bool unannounced = false; // handed out before its time or removed, which the disk does not tell
    std::uint64_t report = 0; // a message that tells the sender; it must outlive this one's end
    std::uint32_t attempts = 0, attempts_synced = 0;
    base::WallTime due_max{};
    std::vector<queue::RecipientState> states, states_synced;
    std::int64_t begun_at = 0, acknowledged_at = 0; // ns of its boot
    std::uint32_t boot = 0;
};

class Oracle {
public:
    // Clients.
    void begun(World& world, queue::MessageId id, const queue::Envelope& envelope,
               std::string_view content);
    void acknowledged(World& world, const queue::Message& message);
    void refused(queue::MessageId id);

    // Deliveries.
    /// A round begins. \param content  nothing when it could not be read
    void handed(World& world, const queue::Message& message, const std::string* content);
    void progressed(const queue::Message& message); // before defer() and progress()
    void deferred(const queue::Message& message, base::WallTime due);
    void settled(queue::MessageId id, queue::MessageId report = {});

    /// By an operator: nobody got it.
    void removed(queue::MessageId id);

    // What a successful sync promises must hold after any crash.
    struct Promise {
        std::uint64_t id = 0;
        std::uint32_t attempts = 0;
        std::vector<queue::RecipientState> states;
        bool settled = false, refused = false;
    };
    [[nodiscard]] std::vector<Promise> sync_begins();
    void sync_ended(std::vector<Promise> promises, bool succeeded);

    // The world.
    void boot_begins() {
        ++boot_;
        most_queued_ = 0;
    }
    void boot_ends(World& world);
    /// Bytes have been damaged from outside: what is lost must be reported, not survived.
    void damage_done() { damaged_ = true; }
    [[nodiscard]] bool damaged() const noexcept { return damaged_; }
    void closed_cleanly() { clean_boot_ = boot_; }

    // Judging. Nobody may have been handed anything since the boot.
    void check_opened(World& world);
    /// Live bytes and records per segment, recomputed from what is queued.
    void check_accounting(World& world);
    /// The disk's bytes: numbers, and the index against a fold of all records.
    void check_disk(World& world, bool fold);
    void check_bounds(World& world);
    void check_drained(World& world);

    void violate(Invariant invariant, std::string what);
    [[nodiscard]] const std::vector<std::string>& violations() const noexcept {
        return violations_;
    }
    [[nodiscard]] bool good() const noexcept { return violations_.empty(); }
    [[nodiscard]] const std::map<std::uint64_t, Mail>& mails() const noexcept { return mails_; }
    [[nodiscard]] std::uint64_t promised_count() const noexcept; // acknowledged and not done
    [[nodiscard]] std::uint64_t lost_count() const noexcept { return lost_; }
    [[nodiscard]] std::uint64_t acknowledged_count() const noexcept { return acknowledged_; }

private:
    [[nodiscard]] bool harmed(const World& world) noexcept;
    void check_one(World& world, Mail& mail, const queue::Message& message);
    void check_missing(World& world, std::uint64_t id, Mail& mail);
    void check_told(const queue::RecoveryReport& report);
    void take_over(Mail& mail, const queue::Message& message);

    std::map<std::uint64_t, Mail> mails_;
    std::set<std::uint64_t> changed_; // since the last sync began
    std::map<std::uint64_t, std::uint64_t> record_of_lsn_;
    std::map<std::uint64_t, std::uint64_t> place_of_segment_; // epoch and slot, by number
    std::vector<std::string> violations_;
    std::uint32_t boot_ = 0;
    std::int64_t told_until_ =
        0; // of the last boot: what was acknowledged before, a later write names
    // Batches of what this start did not find: all mail of one is acknowledged in the same moment of the same boot.
    std::set<std::pair<std::uint32_t, std::int64_t>> missed_;
    bool damaged_ = false;
    std::uint32_t clean_boot_ = UINT32_MAX; // that had an orderly end
    std::uint64_t lost_ = 0;
    std::size_t most_queued_ = 0; // at a time, in this boot
    std::uint64_t acknowledged_ = 0;
};

} // namespace tests
