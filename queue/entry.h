// entry.h: what the queue keeps in memory of every message: the least that it can be found, woken, counted
// and grouped by.
//
// Scope      One message of any size in a fixed number of bytes; only one with several recipients or with
//            chunks has an EntryExtra beside it. Envelope and content are on disk, and are read back when
//            the message is handed out.
// Owns       Nothing: texts are numbers of the index's tables, which count what entries hold.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/clock.h"
#include "queue/text_table.h"
#include "queue/ticket.h"

#include <compare>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace queue {

namespace base = dataplane::base;

/// Never reused: shard (8 bits), boot epoch (16), counter (40). Prints as 16 hex digits.
struct MessageId {
    std::uint64_t value = 0;

    static constexpr MessageId make(unsigned shard, unsigned epoch,
                                    std::uint64_t counter) noexcept {
        return {std::uint64_t{shard} << 56 | std::uint64_t{epoch} << 40 | counter};
    }
    [[nodiscard]] constexpr unsigned shard() const noexcept {
        return static_cast<unsigned>(value >> 56);
    }
    [[nodiscard]] std::string to_string() const;
    [[nodiscard]] static std::optional<MessageId> parse(std::string_view hex) noexcept;
    auto operator<=>(const MessageId&) const noexcept = default;
};

enum class RecipientState : std::uint8_t {
    pending = 0,
    delivered = 1, // a 2xx came back for it
    bounced = 2,   // refused for good; a DSN is out where one was due
    expired = 3,   // given up at its expiry; a DSN is out where one was due
    removed = 4,   // taken out by an operator
};

struct RecipientStatus {
    RecipientState state = RecipientState::pending;
    std::uint8_t attempts = 0;   // saturates at 255
    std::uint16_t last_code = 0; // last SMTP reply code, or 0 for a network or DNS failure
    bool operator==(const RecipientStatus&) const noexcept = default;
};

/// Which slot of the index; stable while the message is queued, then used again.
using EntryRef = std::uint32_t;
inline constexpr EntryRef no_entry = std::numeric_limits<EntryRef>::max();

enum class EntryState : std::uint8_t {
    queued,  // waits in the schedule: for its time, at a site, for its turn, or held
    loading, // its turn has come, and it is being read back
    handed,  // in a delivery round
    damaged, // its envelope cannot be read any more: kept for people to look at
};

/// A part of the body that has a record of its own.
struct Chunk {
    Place place;
    std::uint32_t bytes = 0; // of body, without the record's own
    bool operator==(const Chunk&) const noexcept = default;
};

struct Entry {
    static constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
    enum Flag : std::uint8_t { delay_notified = 1, status_dirty = 2 };

    MessageId id; // 0: the slot is empty
    std::uint64_t lsn =
        0; // of the status record that says what this entry says, 0 when there is none
    base::WallTime due{};            // of the last deferral
    Place place;                     // of the MSG or MSG_COMMIT record
    std::uint32_t payload_bytes = 0; // of that record
    std::uint32_t content_bytes = 0;
    std::uint32_t arrival_s = 0; // since 1970
    std::uint32_t expiry_s = 0;
    std::uint32_t sender_hash = 0;    // text_hash() of the address
    std::uint32_t recipient_hash = 0; // of the first recipient's
    TextId domain = 0;                // of the first recipient that is pending, in lower case
    TextId tenant = 0;
    TextId account = 0;
    TextId source = 0;
    TextId error = 0;            // of the errors' own table
    std::uint32_t extra = none;  // several recipients, or chunks
    std::uint32_t object = none; // the Message in memory that stands for it, if there is one
    EntryRef next = no_entry;    // in the hash bucket, or of the free ones
    std::uint16_t attempts = 0;  // saturates
    RecipientStatus recipient;   // of the only one
    EntryState state = EntryState::queued;
    std::uint8_t flags = 0;
};
static_assert(sizeof(Entry) == 96, "millions of them: see docs/operating.md before it grows");

struct EntryExtra {
    std::vector<RecipientStatus> status; // empty for a single recipient
    std::vector<TextId> domains;         // one each
    std::vector<Chunk> chunks;
};

} // namespace queue
