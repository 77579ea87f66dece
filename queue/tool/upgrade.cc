// upgrade.cc: everything that is queued, written anew: in today's format, or into a pool of another size.
//
// The new pool grows beside the old one under a name of its own, is synced, opened again by the queue's own
// recovery and held against the old one, message by message; only then it takes the name. A crash before
// that leaves the old pool as it was, one after it the new one, and the old one is kept under another name
// until somebody removes it.
#include "queue/log.h"
#include "queue/tool/opened_pool.h"
#include "queue/tool/read_message.h"
#include "queue/tool/verify.h"

#include "dataplane/base/check.h"
#include "queue/disk/crc32c.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <ostream>
#include <unistd.h>

namespace queue::tool {
namespace {

namespace fs = std::filesystem;

// As Recovery does it for a boot: the next numbers, without having to know the last.
constexpr std::uint64_t lsns_per_boot = std::uint64_t{1} << 40;
constexpr std::uint64_t segments_per_boot = std::uint64_t{1} << 32;

/// Appends what is queued to a new log.
class Writer final : public base::TurnEnd {
public:
    Writer(Offline& offline, Disk& disk, const Superblock& superblock,
           std::shared_ptr<const KeyRing> keys)
        : offline_(offline), log_(offline.loop(), disk, *this, superblock, std::move(keys)) {}
    ~Writer() override { log_.stop(); }

    void turn_end() noexcept override { log_.pump(); }

    [[nodiscard]] base::Task<bool> start() {
        log_.segments().freeze(); // nobody counts what lives here, and nothing of it is to be freed
        for (std::uint32_t slot = 0; slot < log_.segments().count(); ++slot)
            log_.segments().add_free(slot);
        auto started = co_await log_.start();
        co_return started.has_value();
    }

    [[nodiscard]] std::uint32_t payload_bytes_max() const noexcept {
        return log_.payload_bytes_max();
    }

    [[nodiscard]] base::Task<bool> append(RecordType type, MessageId id,
                                          std::span<const std::byte> payload) {
        const auto bytes = static_cast<std::uint32_t>(payload.size());
        for (;;) {
            const Room room = log_.make_room(bytes, AppendClass::mail);
            if (room == Room::now) break;
            if (room != Room::wait) co_return false;
            static_cast<void>(
                co_await log_.room_wait().wait(offline_.loop(), base::Deadline::never()));
        }
        RecordWriter writer = log_.begin(type, id, bytes);
        writer.append(payload);
        writer.finish(nullptr);
        co_return true;
    }

    [[nodiscard]] base::Task<bool> close() {
        const bool synced = co_await log_.sync(base::Deadline::never());
        if (!synced) co_return false;
        const bool closed = co_await log_.close(base::Deadline::never());
        co_return closed;
    }

private:
    Offline& offline_;
    Log log_;
};

[[nodiscard]] std::expected<Superblock, std::string> new_superblock(const Superblock& old,
                                                                    const UpgradeOptions& options) {
    Superblock made;
    made.pool = old.pool; // it is the same spool
    made.shard = old.shard;
    made.epoch = old.epoch + 1;
    made.generation = old.generation;
    made.lsn_base = old.lsn_base + lsns_per_boot;
    made.segment_seq_base = old.segment_seq_base + segments_per_boot;
    made.segment_bytes = options.segment_bytes != 0
                             ? options.segment_bytes / segment_granule * segment_granule
                             : old.segment_bytes;
    made.pool_bytes = options.pool_bytes != 0 ? options.pool_bytes : old.pool_bytes;
    made.pool_bytes = made.pool_bytes / segment_granule * segment_granule;
    if (made.segment_bytes < segment_bytes_min || made.segment_bytes > segment_bytes_max)
        return std::unexpected("--segment-size must be 256KiB to 1GiB");
    const std::uint64_t count = made.pool_bytes / made.segment_bytes;
    if (count < segment_count_min || count > segment_count_max) {
        return std::unexpected("a pool must hold " + std::to_string(segment_count_min) + " to " +
                               std::to_string(segment_count_max) +
                               " segments: choose another --pool-size or --segment-size");
    }
    made.segment_count = static_cast<std::uint32_t>(count);
    return made;
}

/// Version 1 knew no checksum of the envelope alone.
void bring_up_to_date(RecordType type, std::vector<std::byte>& payload) {
    auto prefix = decode_message_prefix(type, payload);
    if (!prefix || prefix->envelope_crc != 0) return;
    prefix->envelope_crc =
        crc32c(0, std::span{payload}.subspan(message_prefix_bytes, prefix->envelope_bytes));
    encode_message_prefix(std::span{payload}.first<message_prefix_bytes>(), *prefix);
}

class Rewrite {
public:
    Rewrite(const OpenedPool& pool, Writer& writer)
        : pool_(pool), writer_(writer), source_(pool.source()) {}

    [[nodiscard]] base::Task<std::expected<std::uint64_t, std::string>> run() {
        const bool started = co_await writer_.start();
        if (!started) co_return std::unexpected(std::string{"the new pool cannot be written"});
        std::uint64_t count = 0;
        for (const MessageId id : pool_.catalogue.ids()) {
            if (!pool_.live->has(id)) continue;
            auto copied = co_await copy(id, *pool_.catalogue.find(id));
            if (!copied) co_return std::unexpected(copied.error());
            ++count;
        }
        const bool closed = co_await writer_.close();
        if (!closed) co_return std::unexpected(std::string{"the new pool cannot be written"});
        co_return count;
    }

private:
    using Copied = std::expected<void, std::string>;

    [[nodiscard]] base::Task<Copied> put(RecordType type, MessageId id,
                                         std::vector<std::byte> payload) {
        const auto fail = [id](const std::string& why) {
            return std::unexpected("message " + id.to_string() + ": " + why);
        };
        if (payload.size() > writer_.payload_bytes_max())
            co_return fail(
                "a record of it does not fit the new segments; choose a larger --segment-size");
        const bool appended = co_await writer_.append(type, id, payload);
        if (!appended) co_return fail("the new pool is full; choose a larger --pool-size");
        co_return Copied{};
    }

    [[nodiscard]] base::Task<Copied> copy(MessageId id, const StoredMessage& stored) {
        const auto fail = [id](const std::string& why) {
            return std::unexpected("message " + id.to_string() + ": " + why);
        };
        const StoredRecord& record = *stored.record;
        auto payload = source_.payload(id, record);
        if (!payload)
            co_return fail("its record cannot be read; run verify, and export what is left");
        const auto prefix = decode_message_prefix(record.type, *payload);
        if (!prefix) co_return fail("its record contradicts itself");
        // Chunks first, as when the message was accepted.
        for (const StoredChunk* chunk : MessageSource::newest_chunks(stored, prefix->chunk_count)) {
            auto part = chunk != nullptr ? source_.payload(id, chunk->record) : std::nullopt;
            if (!part) co_return fail("a part of its content cannot be read");
            auto copied = co_await put(RecordType::body_chunk, id, std::move(*part));
            if (!copied) co_return copied;
        }
        bring_up_to_date(record.type, *payload);
        auto copied = co_await put(record.type, id, std::move(*payload));
        if (!copied) co_return copied;
        // What the index says, which may be newer than any record that is left.
        const MessageIndex& index = pool_.live->index();
        const Entry& entry = index[index.find(id)];
        const StatusView status{.due = entry.due,
                                .attempts = entry.attempts,
                                .delay_notified = (entry.flags & Entry::delay_notified) != 0,
                                .last_error = index.error(entry)};
        std::vector<std::byte> bytes(encoded_status_bytes(status, index.status(entry).size()));
        encode_status(bytes, status, index.status(entry));
        copied = co_await put(RecordType::status, id, std::move(bytes));
        co_return copied;
    }

    const OpenedPool& pool_;
    Writer& writer_;
    MessageSource source_;
};

/// The new pool has the same mail, in the same state, with the same bytes.
[[nodiscard]] std::vector<std::string> differences(const OpenedPool& before,
                                                   const OpenedPool& after) {
    std::vector<std::string> found;
    const MessageIndex& old_index = before.live->index();
    const MessageIndex& new_index = after.live->index();
    if (old_index.size() != new_index.size()) {
        found.push_back("the new pool has " + std::to_string(new_index.size()) +
                        " messages, the old one " + std::to_string(old_index.size()));
    }
    MessageSource old_source = before.source();
    MessageSource new_source = after.source();
    for (EntryRef ref = 0; ref < old_index.slot_count(); ++ref) {
        const Entry& entry = old_index[ref];
        if (entry.id.value == 0) continue;
        const std::string name = "message " + entry.id.to_string();
        const EntryRef there = new_index.find(entry.id);
        if (there == no_entry) {
            found.push_back(name + " is missing in the new pool");
            continue;
        }
        const Entry& copy = new_index[there];
        if (!std::ranges::equal(old_index.status(entry), new_index.status(copy)) ||
            entry.due != copy.due || entry.attempts != copy.attempts ||
            entry.expiry_s != copy.expiry_s || entry.sender_hash != copy.sender_hash ||
            old_index.error(entry) != new_index.error(copy)) {
            found.push_back(name + " has another state in the new pool");
        }
        const ReadMessage old_message = old_source.read(entry.id, *before.catalogue.find(entry.id));
        const ReadMessage new_message = new_source.read(entry.id, *after.catalogue.find(entry.id));
        if (!new_message.good() || old_message.content != new_message.content)
            found.push_back(name + " has other content in the new pool");
    }
    return found;
}

[[nodiscard]] std::string aside(const std::string& path) {
    std::string name = path + ".before-upgrade";
    for (int number = 2; fs::exists(name); ++number)
        name = path + ".before-upgrade-" + std::to_string(number);
    return name;
}

/// The name goes from the old pool to the new one in one step; at every moment one of them has it.
[[nodiscard]] std::expected<std::string, std::string>
swap_names(const std::string& unfinished, const std::string& pool, const std::string& target) {
    const auto fail = [](const std::string& what, const std::string& path) {
        return std::unexpected("cannot name " + path + what + std::strerror(errno));
    };
    const std::string kept = aside(pool);
    const bool in_place = target == pool;
    if (in_place && ::link(pool.c_str(), kept.c_str()) != 0) return fail(": ", kept);
    if (::rename(unfinished.c_str(), target.c_str()) != 0) return fail(": ", target);
    if (auto synced = sync_folder_of(target); !synced) return std::unexpected(synced.error());
    // Last, so that the mail always has a name; a crash in between leaves both, which upgrade's output
    // and the page of documentation tell about.
    if (!in_place && ::rename(pool.c_str(), kept.c_str()) != 0) return fail(": ", kept);
    if (auto synced = sync_folder_of(kept); !synced) return std::unexpected(synced.error());
    return kept;
}

} // namespace

int upgrade(const UpgradeOptions& options, const Console& console) {
    const auto refuse = [&console](const std::string& text, int code) {
        console.err << "millrace-spool: " << text << '\n';
        return code;
    };
    const std::string target = options.to.empty() ? options.pool : options.to;
    if (target != options.pool && fs::exists(target))
        return refuse(target + " is there already; name a file that is not", exit_no_pool);
    auto pool = open_pool({options.pool, {}, options.key}, PoolFile::Lock::exclusive, console);
    if (!pool) return refuse(pool.error(), exit_no_pool);
    if (!pool->mirror.believed())
        return refuse(options.pool + ": " + pool->mirror.text, exit_no_pool);
    if (pool->live == nullptr)
        return refuse(options.pool + ": " + pool->why_dead + "; export saves what can be read",
                      exit_no_pool);
    const Verdict before = judge(*pool, console);
    if (!before.problems.empty()) {
        return refuse(options.pool + " is damaged (" + before.problems.front() +
                          "); run verify, and export what can be read",
                      exit_damage);
    }
    auto superblock = new_superblock(pool->geometry.superblock, options);
    if (!superblock) return refuse(superblock.error(), exit_no_pool);

    const std::string unfinished = target + ".upgrading";
    auto file = NewPoolFile::create(unfinished, superblock->pool_bytes);
    if (!file) return refuse(file.error(), exit_damage);
    std::uint64_t count = 0;
    {
        Offline offline{superblock->shard};
        Writer writer{offline, **file, *superblock, pool->unlock->keys()};
        Rewrite rewrite{*pool, writer};
        auto written = offline.run(rewrite.run());
        auto synced = offline.run((*file)->flush());
        if (!written || !synced) {
            static_cast<void>(::unlink(unfinished.c_str()));
            return refuse(written ? "the new pool cannot be synced" : written.error(), exit_damage);
        }
        count = *written;
    }
    file->reset(); // gives its lock back

    auto made = open_pool({unfinished, {}, options.key}, PoolFile::Lock::exclusive, console);
    std::vector<std::string> problems;
    if (!made) {
        problems.push_back(made.error());
    } else if (made->live == nullptr) {
        problems.push_back(made->why_dead);
    } else {
        problems = judge(*made, console).problems;
        for (std::string& difference : differences(*pool, *made))
            problems.push_back(std::move(difference));
    }
    if (!problems.empty()) {
        static_cast<void>(::unlink(unfinished.c_str()));
        return refuse("the new pool did not check out and was removed, " + options.pool +
                          " is as it was: " + problems.front(),
                      exit_damage);
    }
    auto kept = swap_names(unfinished, options.pool, target);
    if (!kept) return refuse(kept.error(), exit_damage);
    console.out
        << target << ": " << count << " messages in a pool of " << human(superblock->pool_bytes)
        << " with segments of " << human(superblock->segment_bytes) << ", format " << format_major
        << "\nthe old pool is kept as " << *kept
        << "; remove it once the relay runs on the new one, and never start a relay on it\n";
    return exit_ok;
}

} // namespace queue::tool
