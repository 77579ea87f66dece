#include "control/cli/offload.h"

#include "control/cli/output.h"

#include <cstdint>
#include <cstdio>
#include <iomanip>
#include <iostream>
#include <string>
#include <utility>

namespace control::cli {
namespace {

std::uint64_t number(const Json& from, const std::string& key) {
    return from.value(key, std::uint64_t{0});
}

/// "3.2", or "-" when there is nothing to divide by.
std::string ratio(std::uint64_t sum, std::uint64_t count) {
    if (count == 0) return "-";
    char text[32];
    std::snprintf(text, sizeof text, "%.1f", static_cast<double>(sum) / static_cast<double>(count));
    return text;
}

void print_shard(const Json& shard) {
    std::cout << "shard " << text(shard, "shard") << "  in flight " << text(shard, "in_flight")
              << '\n';
    for (const Json& backend : shard.value("backends", Json::array())) {
        std::cout << "  " << std::left << std::setw(10) << text(backend, "name") << std::setw(9)
                  << text(backend, "state") << std::right << "  in flight "
                  << text(backend, "in_flight") << "  done " << text(backend, "done") << "  errors "
                  << text(backend, "errors") << "  wrong " << text(backend, "wrong") << '\n';
    }
    const Json counters = shard.value("counters", Json::object());
    std::cout << "  done " << number(counters, "completed") << "  mean wait "
              << ratio(number(counters, "wait_us"), number(counters, "completed"))
              << " us  mean batch "
              << ratio(number(counters, "batched"), number(counters, "batches")) << '\n';
    std::string trouble;
    for (const auto& [key, label] :
         {std::pair{"fallbacks", "done by another backend"},
          std::pair{"verify_failures", "wrong, caught"},
          std::pair{"device_errors", "failed by a backend"}, std::pair{"lost", "not answered"},
          std::pair{"late", "answered too late"}, std::pair{"ring_full", "ring full"},
          std::pair{"downs", "went down"}, std::pair{"readmissions", "came back"},
          std::pair{"failed", "failed for good"}, std::pair{"cancelled", "cancelled"},
          std::pair{"refused", "refused"}}) {
        if (number(counters, key) == 0) continue;
        trouble += (trouble.empty() ? "  " : ", ") + std::string{label} + " " +
                   std::to_string(number(counters, key));
    }
    if (!trouble.empty()) std::cout << trouble << '\n';
}

} // namespace

int offload(const AdminClient& client, bool json) {
    const auto reply = client.post("/api/admin/offload", Json::object());
    if (!reply) return complain(reply.error().text);
    if (json) {
        print(*reply);
        return exit_ok;
    }
    for (const Json& shard : reply->value("shards", Json::array()))
        print_shard(shard);
    return exit_ok;
}

} // namespace control::cli
