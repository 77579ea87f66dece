// fio.h: what fio gets out of a file with durable writes, a slice of time after the other.
//
// Scope      DSYNC writes of one size, O_DIRECT, one job, several depths in turn. Slices, because a disk that
//            others share is not the same from one second to the next: what is compared with fio takes turns
//            with it. Its memory is the best that it gets: huge pages, or else registered with the kernel, because
//            pinning and passing on 256 small pages for each MiB takes twice the CPU time.
// Owns       The figures. Writes over the file, which must be there.
// Threading  One thread, which waits for fio.
// Failure    Throws std::runtime_error with fio's own words.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace dataplane::loadgen {

class Fio {
public:
    /// Whether it is to be had at all.
    [[nodiscard]] static bool installed();
    Fio(std::string file, int cpu) : file_(std::move(file)), cpu_(cpu) {}

    /// One slice with each depth.
    void run(std::uint64_t block_bytes, std::chrono::milliseconds slice);

    struct Best {
        double bytes_per_s = 0; // mean of its slices
        unsigned depth = 0;     // writes in flight
        std::vector<double> slices;
    };
    /// The depth with which it wrote most in all.
    [[nodiscard]] Best best() const;
    /// What it had at last: "huge pages", "registered" or "plain".
    [[nodiscard]] const char* memory() const noexcept { return memories[memory_].name; }

private:
    static constexpr std::array<unsigned, 4> depths{1, 2, 4, 8};
    struct Memory {
        const char* name;
        const char* option;
    };
    static constexpr std::array<Memory, 3> memories{{{"huge pages", "--iomem=mmaphuge"},
                                                     {"registered", "--fixedbufs"},
                                                     {"plain", "--iomem=malloc"}}};
    /// Goes on with the next best memory where this one is not to be had (any more).
    [[nodiscard]] double slice_of(std::uint64_t block_bytes, unsigned depth,
                                  std::chrono::milliseconds slice);
    [[nodiscard]] double bytes_per_s(std::uint64_t block_bytes, unsigned depth,
                                     std::chrono::milliseconds slice) const;

    std::string file_;
    int cpu_;
    std::size_t memory_ = 0;
    std::array<std::vector<double>, depths.size()> slices_;
};

} // namespace dataplane::loadgen
