// journal.h: everything that a spool does to its disk, written down in order, so that any crash of that
// run can be made again afterwards.
//
// Scope      A Disk in front of another, the file it writes, and that file's reader. What to make of it is
//            tests/queue/crash_images.h's. A daemon writes one when it is started with --spool-journal.
// Owns       The journal file.
// Threading  The shard's. Writing it blocks and doubles the bytes: for tests, never for mail.
// Failure    Throws std::system_error: a journal with holes would prove nothing.
//
// Format: entries of 40 bytes in the machine's byte order (entry_magic tells), each write's followed by its
// bytes. The first is `opened`.
#pragma once

#include "dataplane/base/loop.h"
#include "queue/disk/disk.h"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace queue {

enum class JournalKind : std::uint8_t {
    opened,      // `offset` is the disk's size; all of it reads as zeros
    write_begun, // its bytes follow
    write_ended,
    flush_begun,
    flush_ended,
    accepted,  // the message `number` was acknowledged to its client
    delivered, // ... and to us by the host it was for, or it was given up
};

struct JournalEntry {
    static constexpr std::uint32_t entry_magic = 0x4C4E'524A; // "JRNL"

    std::uint32_t magic = entry_magic;
    JournalKind kind = JournalKind::opened;
    bool durable = false;   // write_begun
    bool succeeded = false; // write_ended, flush_ended
    std::uint8_t unused = 0;
    std::uint64_t number = 0; // of the write or flush, from 1; of the message
    std::int64_t time_ms = 0; // wall
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
};
static_assert(sizeof(JournalEntry) == 40);

class Journal final : public Disk {
public:
    /// \param below  all zeros now: its pool was just created
    Journal(base::Loop& loop, Disk& below, const std::string& path);
    ~Journal() override;
    Journal(const Journal&) = delete;
    Journal& operator=(const Journal&) = delete;

    /// Puts what became of a message into its place between the disk's operations.
    void mark(JournalKind what, std::uint64_t message);

    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return below_.size_bytes(); }
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    read(std::uint64_t offset, std::span<std::byte> bytes) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>> flush() override;

private:
    void put(JournalEntry entry, std::span<const std::byte> bytes = {});

    base::Loop& loop_;
    Disk& below_;
    std::string path_;
    std::FILE* file_;
    std::uint64_t next_ = 1;
};

struct JournalRecord {
    JournalEntry entry;
    std::vector<std::byte> bytes;
};
/// The journal up to its end, or to where it was cut. Throws when the file is none.
[[nodiscard]] std::vector<JournalRecord> read_journal(const std::string& path);

} // namespace queue
