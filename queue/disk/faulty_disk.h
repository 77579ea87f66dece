// faulty_disk.h: a Disk in front of a real one that fails when it was told to: for tests of the whole relay.
//
// Scope      The n-th write, flush or read fails, once, some times or from then on. What a fault leaves on the
//            medium: of a refused write nothing, of a short one the first half, of a refused flush everything, of one
//            that hangs, which is never answered, nothing.
// Threading  Bound to one shard.
// Failure    parse_faults() returns a sentence.
#pragma once

#include "queue/disk/disk.h"

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

namespace queue {

struct DiskFault {
    enum class Operation : std::uint8_t { write, flush, read };
    Operation operation = Operation::write;
    DiskError error = DiskError::io; // timed_out: hangs
    std::uint64_t first = 1;         // counted from 1, each operation for itself
    std::uint64_t count = 1;
};

/// "write:io:100" fails the hundredth write, "write:short:100+3" three from there, "flush:io:5+" all from the
/// fifth; several with commas between. Errors: io, short, space, hang.
[[nodiscard]] std::expected<std::vector<DiskFault>, std::string>
parse_faults(std::string_view text);

class FaultyDisk final : public Disk {
public:
    FaultyDisk(Disk& below, std::vector<DiskFault> faults)
        : below_(below), faults_(std::move(faults)) {}

    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return below_.size_bytes(); }
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    read(std::uint64_t offset, std::span<std::byte> bytes) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>> flush() override;

private:
    [[nodiscard]] static bool hangs(const DiskFault* fault) noexcept;
    [[nodiscard]] const DiskFault* due(DiskFault::Operation operation,
                                       std::uint64_t number) const noexcept;

    Disk& below_;
    std::vector<DiskFault> faults_;
    std::uint64_t writes_ = 0, flushes_ = 0, reads_ = 0;
};

} // namespace queue
