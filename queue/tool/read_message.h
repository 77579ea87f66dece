// read_message.h: one message's envelope and content from where the catalogue found them.
//
// Scope      Checks every record again while it reads it, puts chunks together, and says what is missing.
//            What can be read of a damaged message is given all the same.
// Threading  One thread; blocks.
#pragma once

#include "queue/envelope.h"
#include "queue/tool/catalogue.h"

#include <cstdint>
#include <string>

namespace queue::tool {

struct ReadMessage {
    Envelope envelope;
    MessagePrefix prefix;
    bool envelope_good = false;
    bool content_good = false; // all of it, and every checksum right
    std::string content;       // prelude and body, as it is sent; what there is of it
    std::string problem;       // for people; empty when all is well
    [[nodiscard]] bool good() const noexcept { return envelope_good && content_good; }
};

class MessageSource {
public:
    MessageSource(const PoolFile& pool, const Superblock& superblock, Unlock& unlock);

    /// \param content  whether the content's bytes are wanted; it is checked in any case
    [[nodiscard]] ReadMessage read(MessageId id, const StoredMessage& message, bool content = true);

    /// The payload of a record, when it is of this message and checks out; damaged ones with `even_damaged`.
    [[nodiscard]] std::optional<std::vector<std::byte>>
    payload(MessageId id, const StoredRecord& record, bool even_damaged = false);
    /// The newest copy of each chunk that checks out, by index.
    [[nodiscard]] static std::vector<const StoredChunk*> newest_chunks(const StoredMessage& message,
                                                                       std::uint32_t count);

private:
    const PoolFile& pool_;
    Unlock& unlock_;
    std::uint32_t seed_;
    SegmentTable geometry_;
};

} // namespace queue::tool
