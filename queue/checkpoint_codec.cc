// checkpoint_codec.cc: the bytes of a checkpoint's end and of its parts; docs/spool-format.md has the table.
#include "dataplane/base/check.h"
#include "dataplane/base/slab.h"
#include "queue/checkpoint.h"
#include "queue/checkpoint_encoder.h"

#include <algorithm>
#include <cstring>

namespace queue {
namespace {

constexpr std::uint32_t slots_bytes = segment_count_max / 8;

template <class T>
[[nodiscard]] bool take(std::span<const std::byte>& bytes, T& value) noexcept {
    if (bytes.size() < sizeof value) return false;
    std::memcpy(&value, bytes.data(), sizeof value);
    bytes = bytes.subspan(sizeof value);
    return true;
}

template <class T>
void put(std::vector<std::byte>& bytes, T value) {
    const std::size_t at = bytes.size();
    bytes.resize(at + sizeof value);
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

void put_part(std::vector<std::byte>& bytes, const CheckpointPart& part) {
    put(bytes, part.segment_seq);
    put(bytes, part.slot);
    put(bytes, part.offset);
    put(bytes, part.payload_bytes);
}

[[nodiscard]] bool take_part(std::span<const std::byte>& bytes, CheckpointPart& part) noexcept {
    return take(bytes, part.segment_seq) && take(bytes, part.slot) && take(bytes, part.offset) &&
           take(bytes, part.payload_bytes);
}

constexpr std::size_t part_bytes = 20;

} // namespace

std::vector<std::byte> encode_checkpoint_end(const CheckpointEnd& end) {
    std::vector<std::byte> bytes;
    put(bytes, end.from.segment_seq);
    put(bytes, end.from.lsn);
    put(bytes, end.entries);
    put(bytes, static_cast<std::uint32_t>(end.also.size()));
    put(bytes, static_cast<std::uint32_t>(end.parts.size()));
    for (const std::uint64_t seq : end.also)
        put(bytes, seq);
    for (const CheckpointPart& part : end.parts)
        put_part(bytes, part);
    const std::size_t bitmap = bytes.size();
    bytes.resize(bitmap + slots_bytes);
    for (const std::uint32_t slot : end.free)
        bytes[bitmap + slot / 8] |= static_cast<std::byte>(1U << (slot % 8));
    return bytes;
}

std::expected<CheckpointEnd, CodecError> decode_checkpoint_end(std::span<const std::byte> payload) {
    CheckpointEnd end;
    std::uint32_t also = 0;
    std::uint32_t parts = 0;
    if (!take(payload, end.from.segment_seq) || !take(payload, end.from.lsn) ||
        !take(payload, end.entries) || !take(payload, also) || !take(payload, parts)) {
        return std::unexpected(CodecError::truncated);
    }
    if (payload.size() != std::uint64_t{also} * 8 + std::uint64_t{parts} * part_bytes + slots_bytes)
        return std::unexpected(CodecError::malformed);
    end.also.resize(also);
    for (std::uint64_t& seq : end.also)
        static_cast<void>(take(payload, seq));
    end.parts.resize(parts);
    for (CheckpointPart& part : end.parts)
        static_cast<void>(take_part(payload, part));
    for (std::uint32_t slot = 0; slot < segment_count_max; ++slot) {
        if ((static_cast<unsigned>(payload[slot / 8]) >> (slot % 8) & 1) != 0)
            end.free.push_back(slot);
    }
    return end;
}

// A part: entries (4), texts (4), the texts (2 bytes of length each), the entries.

std::uint32_t CheckpointEncoder::text(std::uint64_t key, std::string_view value) {
    const auto [at, added] = numbers_.emplace(key, static_cast<std::uint32_t>(numbers_.size()));
    if (added) {
        const std::string_view bounded = value.substr(0, envelope_text_bytes_max);
        put(texts_, static_cast<std::uint16_t>(bounded.size()));
        const auto bytes = base::as_bytes(bounded);
        texts_.insert(texts_.end(), bytes.begin(), bytes.end());
    }
    return at->second;
}

void CheckpointEncoder::add(const MessageIndex& index, const SegmentTable& segments,
                            const Entry& entry) {
    const auto name = [&](TextId id) { return text(id, index.texts().text(id)); };
    const std::uint64_t error_key = std::uint64_t{1} << 32 | entry.error;
    const auto status = index.status(entry);
    const auto domains = index.domains(entry);
    const auto chunks = index.chunks(entry);
    put(entries_, entry.id.value);
    put(entries_, entry.lsn);
    put(entries_, std::int64_t{entry.due.time_since_epoch().count()});
    put_part(entries_, {segments.seq_of(entry.place.slot), entry.place.slot, entry.place.offset,
                        entry.payload_bytes});
    put(entries_, entry.content_bytes);
    put(entries_, entry.arrival_s);
    put(entries_, entry.expiry_s);
    put(entries_, entry.sender_hash);
    put(entries_, entry.recipient_hash);
    put(entries_, name(entry.tenant));
    put(entries_, name(entry.account));
    put(entries_, name(entry.source));
    put(entries_, text(error_key, index.error(entry)));
    put(entries_, entry.attempts);
    put(entries_, static_cast<std::uint16_t>(status.size()));
    put(entries_, static_cast<std::uint16_t>(chunks.size()));
    put(entries_, static_cast<std::uint8_t>(entry.flags & Entry::delay_notified));
    put(entries_, std::uint8_t{0});
    for (std::size_t i = 0; i < status.size(); ++i) {
        put(entries_, name(domains[i]));
        put(entries_, static_cast<std::uint8_t>(status[i].state));
        put(entries_, status[i].attempts);
        put(entries_, status[i].last_code);
    }
    for (const Chunk& chunk : chunks)
        put_part(entries_, {segments.seq_of(chunk.place.slot), chunk.place.slot, chunk.place.offset,
                            chunk.bytes});
    ++count_;
}

std::vector<std::byte> CheckpointEncoder::finish() {
    std::vector<std::byte> payload;
    payload.reserve(bytes());
    put(payload, count_);
    put(payload, static_cast<std::uint32_t>(numbers_.size()));
    payload.insert(payload.end(), texts_.begin(), texts_.end());
    payload.insert(payload.end(), entries_.begin(), entries_.end());
    numbers_.clear();
    texts_.clear();
    entries_.clear();
    count_ = 0;
    return payload;
}

std::expected<CheckpointReader, CodecError>
CheckpointReader::open(std::span<const std::byte> payload) {
    CheckpointReader reader;
    std::uint32_t texts = 0;
    if (!take(payload, reader.left_) || !take(payload, texts))
        return std::unexpected(CodecError::truncated);
    if (texts > payload.size() / 2) return std::unexpected(CodecError::malformed);
    reader.texts_.reserve(texts);
    for (std::uint32_t i = 0; i < texts; ++i) {
        std::uint16_t length = 0;
        if (!take(payload, length) || length > payload.size())
            return std::unexpected(CodecError::truncated);
        reader.texts_.push_back(base::as_text(payload.first(length)));
        payload = payload.subspan(length);
    }
    reader.rest_ = payload;
    return reader;
}

bool CheckpointReader::next(CheckpointEntry& entry) {
    if (left_ == 0 || !good_) return false;
    good_ = false;
    const auto name = [&](std::string_view& value) {
        std::uint32_t number = 0;
        if (!take(rest_, number) || number >= texts_.size()) return false;
        value = texts_[number];
        return true;
    };
    std::int64_t due = 0;
    std::uint16_t recipients = 0;
    std::uint16_t chunks = 0;
    std::uint8_t unused = 0;
    if (!take(rest_, entry.id.value) || !take(rest_, entry.lsn) || !take(rest_, due) ||
        !take_part(rest_, entry.place) || !take(rest_, entry.content_bytes) ||
        !take(rest_, entry.arrival_s) || !take(rest_, entry.expiry_s) ||
        !take(rest_, entry.sender_hash) || !take(rest_, entry.recipient_hash) ||
        !name(entry.tenant) || !name(entry.account) || !name(entry.source) || !name(entry.error) ||
        !take(rest_, entry.attempts) || !take(rest_, recipients) || !take(rest_, chunks) ||
        !take(rest_, entry.flags) || !take(rest_, unused)) {
        return false;
    }
    if (entry.id.value == 0 || recipients == 0) return false;
    entry.due = base::WallTime{std::chrono::milliseconds{due}};
    entry.status.clear();
    entry.domains.clear();
    entry.chunks.clear();
    for (std::uint16_t i = 0; i < recipients; ++i) {
        std::string_view domain;
        std::uint8_t state = 0;
        RecipientStatus status;
        if (!name(domain) || !take(rest_, state) || !take(rest_, status.attempts) ||
            !take(rest_, status.last_code) ||
            state > static_cast<std::uint8_t>(RecipientState::removed)) {
            return false;
        }
        status.state = static_cast<RecipientState>(state);
        entry.status.push_back(status);
        entry.domains.push_back(domain);
    }
    for (std::uint16_t i = 0; i < chunks; ++i) {
        CheckpointPart chunk;
        if (!take_part(rest_, chunk)) return false;
        entry.chunks.push_back(chunk);
    }
    --left_;
    good_ = true;
    return true;
}

} // namespace queue
