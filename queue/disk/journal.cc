#include "queue/disk/journal.h"

#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace queue {
namespace {

constexpr std::size_t file_buffer_bytes = 4U << 20;
constexpr std::uint64_t entry_bytes_max = 64U << 20; // of one write

} // namespace

Journal::Journal(base::Loop& loop, Disk& below, const std::string& path)
    : loop_(loop), below_(below), path_(path), file_(std::fopen(path.c_str(), "wbe")) {
    if (file_ == nullptr) throw std::system_error(errno, std::generic_category(), path);
    std::setvbuf(file_, nullptr, _IOFBF, file_buffer_bytes);
    put({.kind = JournalKind::opened, .offset = below.size_bytes()});
}

Journal::~Journal() {
    std::fclose(file_);
}

void Journal::put(JournalEntry entry, std::span<const std::byte> bytes) {
    entry.time_ms = loop_.wall_now().time_since_epoch().count();
    entry.bytes = bytes.size();
    if (std::fwrite(&entry, sizeof entry, 1, file_) != 1 ||
        std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) {
        throw std::system_error(errno, std::generic_category(), path_);
    }
}

void Journal::mark(JournalKind what, std::uint64_t message) {
    put({.kind = what, .number = message});
}

base::Task<std::expected<void, DiskError>>
Journal::write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) {
    const std::uint64_t number = next_++;
    put({.kind = JournalKind::write_begun,
         .durable = durable == Durable::yes,
         .number = number,
         .offset = offset},
        bytes);
    auto written = co_await below_.write(offset, bytes, durable);
    put({.kind = JournalKind::write_ended, .succeeded = written.has_value(), .number = number});
    co_return written;
}

base::Task<std::expected<void, DiskError>> Journal::read(std::uint64_t offset,
                                                         std::span<std::byte> bytes) {
    return below_.read(offset, bytes);
}

base::Task<std::expected<void, DiskError>> Journal::flush() {
    const std::uint64_t number = next_++;
    put({.kind = JournalKind::flush_begun, .number = number});
    auto flushed = co_await below_.flush();
    put({.kind = JournalKind::flush_ended, .succeeded = flushed.has_value(), .number = number});
    co_return flushed;
}

std::vector<JournalRecord> read_journal(const std::string& path) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"),
                                                               &std::fclose);
    if (!file) throw std::system_error(errno, std::generic_category(), path);
    std::vector<JournalRecord> records;
    JournalEntry entry;
    while (std::fread(&entry, sizeof entry, 1, file.get()) == 1) {
        if (entry.magic != JournalEntry::entry_magic || entry.bytes > entry_bytes_max ||
            (records.empty() && entry.kind != JournalKind::opened)) {
            throw std::runtime_error(path + ": is not a spool journal of this machine");
        }
        std::vector<std::byte> bytes(entry.bytes);
        if (std::fread(bytes.data(), 1, bytes.size(), file.get()) != bytes.size()) break;
        records.push_back({entry, std::move(bytes)});
    }
    if (records.empty()) throw std::runtime_error(path + ": is empty");
    return records;
}

} // namespace queue
