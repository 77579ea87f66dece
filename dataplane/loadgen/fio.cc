#include "dataplane/loadgen/fio.h"

#include "dataplane/loadgen/child.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

namespace dataplane::loadgen {
namespace {

double mean(const std::vector<double>& values) {
    if (values.empty()) return 0;
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// How many huge pages the kernel has put by and nobody has or was promised.
std::uint64_t huge_pages_free() {
    const auto number = [](const char* name) {
        std::ifstream in(std::string{"/sys/kernel/mm/hugepages/hugepages-2048kB/"} + name);
        std::uint64_t count = 0;
        in >> count;
        return count;
    };
    const std::uint64_t free = number("free_hugepages");
    return free - std::min(free, number("resv_hugepages"));
}

} // namespace

bool Fio::installed() {
    return std::system("fio --version >/dev/null 2>&1") == 0; // NOLINT: our own words only
}

void Fio::run(std::uint64_t block_bytes, std::chrono::milliseconds slice) {
    for (std::size_t i = 0; i < depths.size(); ++i)
        slices_[i].push_back(slice_of(block_bytes, depths[i], slice));
}

Fio::Best Fio::best() const {
    Best best;
    for (std::size_t i = 0; i < depths.size(); ++i) {
        const double rate = mean(slices_[i]);
        if (rate > best.bytes_per_s) best = {rate, depths[i], slices_[i]};
    }
    return best;
}

double Fio::slice_of(std::uint64_t block_bytes, unsigned depth, std::chrono::milliseconds slice) {
    if (memory_ == 0 && huge_pages_free() < 2 * depths.back()) ++memory_; // it does not fail well
    for (;; ++memory_) {
        try {
            return bytes_per_s(block_bytes, depth, slice);
        } catch (const std::runtime_error&) {
            if (memory_ + 1 == memories.size()) throw;
        }
    }
}

double Fio::bytes_per_s(std::uint64_t block_bytes, unsigned depth,
                        std::chrono::milliseconds slice) const {
    const TemporaryFolder folder;
    const std::string output = folder.path + "/fio.json";
    run_tool({"fio", "--name=dsync", "--filename=" + file_, "--rw=write", "--overwrite=1",
              "--bs=" + std::to_string(block_bytes), "--direct=1", "--sync=dsync",
              "--ioengine=io_uring", "--iodepth=" + std::to_string(depth), "--time_based",
              "--runtime=" + std::to_string(slice.count()) + "ms",
              "--cpus_allowed=" + std::to_string(cpu_), "--output-format=json",
              "--output=" + output, memories[memory_].option});
    std::ifstream in(output);
    const nlohmann::json found = nlohmann::json::parse(in, nullptr, false);
    if (found.is_discarded()) throw std::runtime_error("fio's answer cannot be read");
    return found.at("jobs").at(0).at("write").at("bw_bytes").get<double>();
}

} // namespace dataplane::loadgen
