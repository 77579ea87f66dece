#include "queue/disk/faulty_disk.h"

#include <charconv>
#include <limits>
#include <optional>

namespace queue {
namespace {

constexpr std::uint64_t for_good = std::numeric_limits<std::uint64_t>::max();

[[nodiscard]] std::optional<std::uint64_t> number_in(std::string_view text) noexcept {
    std::uint64_t number = 0;
    const char* const end = text.data() + text.size();
    const auto [read_to, error] = std::from_chars(text.data(), end, number);
    if (error != std::errc{} || read_to != end || number == 0) return std::nullopt;
    return number;
}

[[nodiscard]] std::optional<DiskFault> parse_fault(std::string_view text) noexcept {
    const auto cut = [&text](char at) {
        const std::size_t end = text.find(at);
        const std::string_view part = text.substr(0, end);
        text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
        return part;
    };
    DiskFault fault;
    const std::string_view operation = cut(':');
    const std::string_view error = cut(':');
    if (operation == "write") {
        fault.operation = DiskFault::Operation::write;
    } else if (operation == "flush") {
        fault.operation = DiskFault::Operation::flush;
    } else if (operation == "read") {
        fault.operation = DiskFault::Operation::read;
    } else {
        return std::nullopt;
    }
    if (error == "io") {
        fault.error = DiskError::io;
    } else if (error == "short") {
        fault.error = DiskError::short_transfer;
    } else if (error == "space") {
        fault.error = DiskError::no_space;
    } else if (error == "hang") {
        fault.error = DiskError::timed_out;
    } else {
        return std::nullopt;
    }
    const bool several = text.find('+') != std::string_view::npos;
    const auto first = number_in(cut('+'));
    if (!first) return std::nullopt;
    fault.first = *first;
    if (!several) return fault;
    if (text.empty()) {
        fault.count = for_good;
        return fault;
    }
    const auto count = number_in(text);
    if (!count) return std::nullopt;
    fault.count = *count;
    return fault;
}

} // namespace

std::expected<std::vector<DiskFault>, std::string> parse_faults(std::string_view text) {
    std::vector<DiskFault> faults;
    while (!text.empty()) {
        const std::size_t end = text.find(',');
        const std::string_view one = text.substr(0, end);
        const auto fault = parse_fault(one);
        if (!fault)
            return std::unexpected("\"" + std::string(one) +
                                   "\" is no fault: write, flush or read, then io, short, space "
                                   "or hang, then a number: write:io:100+3");
        faults.push_back(*fault);
        text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
    }
    return faults;
}

bool FaultyDisk::hangs(const DiskFault* fault) noexcept {
    return fault != nullptr && fault->error == DiskError::timed_out;
}

const DiskFault* FaultyDisk::due(DiskFault::Operation operation,
                                 std::uint64_t number) const noexcept {
    for (const DiskFault& fault : faults_) {
        if (fault.operation == operation && number >= fault.first &&
            number - fault.first < fault.count)
            return &fault;
    }
    return nullptr;
}

base::Task<std::expected<void, DiskError>>
FaultyDisk::write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) {
    const DiskFault* const fault = due(DiskFault::Operation::write, ++writes_);
    if (hangs(fault)) co_await std::suspend_always{}; // nobody resumes it
    if (fault != nullptr && fault->error == DiskError::short_transfer) {
        const std::size_t half = bytes.size() / 2 / block_bytes * block_bytes;
        auto written = co_await below_.write(offset, bytes.first(half), durable);
        static_cast<void>(written);
    }
    if (fault != nullptr) co_return std::unexpected(fault->error);
    auto written = co_await below_.write(offset, bytes, durable);
    co_return written;
}

base::Task<std::expected<void, DiskError>> FaultyDisk::read(std::uint64_t offset,
                                                            std::span<std::byte> bytes) {
    const DiskFault* const fault = due(DiskFault::Operation::read, ++reads_);
    if (hangs(fault)) co_await std::suspend_always{};
    if (fault != nullptr) co_return std::unexpected(fault->error);
    auto read = co_await below_.read(offset, bytes);
    co_return read;
}

base::Task<std::expected<void, DiskError>> FaultyDisk::flush() {
    const DiskFault* const fault = due(DiskFault::Operation::flush, ++flushes_);
    if (hangs(fault)) co_await std::suspend_always{};
    auto flushed = co_await below_.flush();
    if (fault != nullptr) co_return std::unexpected(fault->error);
    co_return flushed;
}

} // namespace queue
