#include "dataplane/loadgen/crypto_bench.h"

#include "dataplane/loadgen/crypto_turns.h"
#include "dataplane/message/dkim/inline_signer.h"
#include "tls_offload/bench/engine_bench.h"
#include "tls_offload/bench/tls_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace dataplane::loadgen {
namespace {

namespace bench = tls_offload::bench;
namespace dkim = message::dkim;
using bench::Row;

constexpr double turn_us_max = 1000;

/// Ed25519 is made on the shard: the signature itself, as message_signer.cc has it made.
Row ed25519(double seconds) {
    const auto key = dkim::SigningKey::generate(dkim::Algorithm::ed25519_sha256, 0);
    if (!key) throw std::runtime_error(key.error());
    const dkim::Digest digest{};
    const auto now = [] { return std::chrono::steady_clock::now(); };
    const auto begin = now();
    const auto end = begin + std::chrono::duration<double>(seconds);
    long count = 0;
    for (; now() < end; ++count) {
        if (!dkim::sign_inline(**key, digest)) throw std::runtime_error("Ed25519 does not sign");
    }
    const double us = std::chrono::duration<double, std::micro>(now() - begin).count();
    return {"dkim_ed25519",
            "inline",
            us / static_cast<double>(count),
            bench::ed25519_us((*key)->to_pem(), seconds),
            0,
            0};
}

void take(std::vector<Row>& rows, std::vector<Row>&& more) {
    rows.insert(rows.end(), more.begin(), more.end());
}

std::vector<Row> turns(double seconds) {
    const auto time = std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
    const TurnsSeen apart = measure_turns(true, time);
    const TurnsSeen own = measure_turns(false, time);
    for (const auto& [name, seen] :
         {std::pair{"threads", &apart}, std::pair{"on the shard", &own}}) {
        std::printf("turns, RSA-4096 handshakes, %s: %llu handshakes, %llu turns, %llu over 1 ms\n",
                    name, static_cast<unsigned long long>(seen->handshakes),
                    static_cast<unsigned long long>(seen->turns),
                    static_cast<unsigned long long>(seen->slow_turns));
    }
    return {{"tls_rsa4096_turn_max", "threads", apart.cpu_us_max, own.cpu_us_max, 0, turn_us_max},
            {"tls_rsa4096_turn_max_wall", "threads", apart.wall_us_max, own.wall_us_max, 0, 0}};
}

void print(const Row& row) {
    char goal[32] = "";
    if (row.ratio_max > 0) {
        std::snprintf(goal, sizeof goal, "ratio %.2f", row.ratio_max);
    } else if (row.ours_us_max > 0) {
        std::snprintf(goal, sizeof goal, "%.0f us", row.ours_us_max);
    }
    std::printf("%-30s %-19s %10.2f %10.2f %8.3f  %-11s %s\n", row.name.c_str(),
                row.backend.c_str(), row.ours_us, row.stock_us, row.ratio(), goal,
                !row.has_goal() ? ""
                : row.met()     ? "met"
                                : "MISSED");
}

} // namespace

int run_crypto(const CryptoCommand& command) {
    std::vector<Row> rows;
    std::vector<std::string> notes;
    std::vector<bench::Contention> contention;
    for (const std::string& name : command.cases) {
        std::fprintf(stderr, "== %s\n", name.c_str());
        if (name == "handshake") {
            take(rows, bench::handshakes(command.seconds));
        } else if (name == "bulk") {
            take(rows, bench::bulk(command.seconds));
        } else if (name == "dkim") {
            bench::SignatureRows made = bench::signatures(command.seconds);
            take(rows, std::move(made.rows));
            rows.push_back(ed25519(command.seconds));
            notes.insert(notes.end(), made.left_out.begin(), made.left_out.end());
        } else if (name == "turns") {
            take(rows, turns(command.seconds));
        } else if (name == "contention") {
            contention = bench::contention(command.seconds);
            // A pair of handshake ends, by each of two threads at the same time: ours, and with all in one library.
            rows.push_back({"two_shards_handshake", "-", 2e6 / contention.front().two_per_s,
                            2e6 / contention.back().two_per_s, 0, 0});
        } else {
            throw std::runtime_error("no case is named '" + name +
                                     "': choose from handshake, bulk, dkim, turns, contention");
        }
    }
    std::printf("%-30s %-19s %10s %10s %8s  %s\n", "case", "backend", "ours us", "stock us",
                "ratio", "goal");
    for (const Row& row : rows)
        print(row);
    if (!contention.empty()) {
        std::printf("\n%-36s %12s %12s %8s %16s\n", "handshakes/s, both ends", "one thread",
                    "two threads", "scaling", "waits in 1,000");
        for (const bench::Contention& each : contention) {
            std::printf("%-36s %12.0f %12.0f %8.2f %16.2f\n", each.name.c_str(), each.one_per_s,
                        each.two_per_s, each.scaling(), each.waits_per_1000);
        }
    }
    for (const std::string& note : notes)
        std::printf("left out: %s\n", note.c_str());
    if (command.json_file.empty()) return 0;
    nlohmann::json list = nlohmann::json::array();
    for (const Row& row : rows) {
        nlohmann::json made{{"case", row.name},
                            {"backend", row.backend},
                            {"ours_us", row.ours_us},
                            {"stock_us", row.stock_us},
                            {"ratio", row.ratio()}};
        if (row.ratio_max > 0) made["ratio_max"] = row.ratio_max;
        if (row.ours_us_max > 0) made["ours_us_max"] = row.ours_us_max;
        if (row.has_goal()) made["met"] = row.met();
        list.push_back(std::move(made));
    }
    std::ofstream out(command.json_file);
    out << list.dump(1) << '\n';
    if (!out.flush()) throw std::runtime_error("cannot write " + command.json_file);
    return 0;
}

} // namespace dataplane::loadgen
