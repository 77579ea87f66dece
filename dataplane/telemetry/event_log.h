// event_log.h: writes the shards' events as JSON lines, away from the shards.
//
// Scope      One ring per shard, one writer thread, one file. Rotation is the operator's: rename the
//            file, then reopen().
// Owns       The rings, the thread, the file.
// Threading  add_shard() before start(). Each EventSink belongs to its shard; the rest to main.
// Failure    start() throws std::system_error when the file cannot be opened. Later write errors lose
//            events, never mail: they are counted in lost_count() and the writer goes on.
#pragma once

#include "dataplane/base/spsc_ring.h"
#include "dataplane/telemetry/event.h"
#include "dataplane/telemetry/stats.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace dataplane::telemetry {

/// Appends the event as one JSON object and a newline, in KumoMTA's field names.
void append_json(const Event& event, std::string_view node, std::string& out);

class EventLog {
public:
    EventLog(std::string path, std::string node);
    ~EventLog(); // writes what the rings still hold
    EventLog(const EventLog&) = delete;
    EventLog& operator=(const EventLog&) = delete;

    EventSink& add_shard(Stats& stats);
    void start();
    void reopen() noexcept { reopen_.store(true, std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t lost_count() const noexcept {
        return lost_.load(std::memory_order_relaxed);
    }

private:
    class Ring;
    void run();
    void write_out(std::string& buffer, std::uint64_t events);
    [[nodiscard]] int open_file() const;

    std::string path_, node_;
    std::vector<std::unique_ptr<Ring>> rings_;
    int file_ = -1;
    std::atomic<bool> stop_{false}, reopen_{false};
    std::atomic<std::uint64_t> lost_{0};
    std::thread thread_;
};

} // namespace dataplane::telemetry
