// qat_engine.h: Intel's QAT engine for OpenSSL as a backend, found at run time.
//
// Scope      Loads an engine with the control commands of QAT_Engine, has it polled from the shard's loop
//            (external polling, one instance for each shard's thread, heartbeat), and uses its RSA method on
//            keys of ours alone: it becomes nobody's default. An operation is an OpenSSL ASYNC job, because
//            that is how the engine gives up the thread while the device works.
// Owns       The engine, for the life of the process: an instance that is given back cannot be had again
//            before the process ends, so it is never unloaded.
// Threading  open() on main; each backend on its shard, from its first call on.
// Failure    open() says in a sentence what is missing. A ring that is full, a device that is lost: as
//            backend.h has it. Engine commands take OpenSSL's global engine lock: see docs/offload.md.
#pragma once

#include "tls_offload/engine/backend.h"

#include <expected>
#include <memory>
#include <string>

struct engine_st; // OpenSSL's ENGINE

namespace tls_offload::offload {

struct QatEngineOptions {
    std::string id = "qatengine";
    std::string file;    // a path; empty: OpenSSL's own folder of engines
    unsigned shards = 1; // each needs an instance of its own
    std::size_t operations = qat_operations_max;
    base::Duration stuck_after = std::chrono::milliseconds{20};
};

class QatEngine {
public:
    [[nodiscard]] static std::expected<std::unique_ptr<QatEngine>, std::string>
    open(const QatEngineOptions& options);

    [[nodiscard]] std::unique_ptr<Backend> backend(unsigned shard);
    [[nodiscard]] unsigned instance_count() const noexcept { return instances_; }
    /// For tests with an engine that has commands of its own.
    [[nodiscard]] engine_st* handle() const noexcept { return engine_; }

private:
    class ShardBackend;
    QatEngine(engine_st* engine, const QatEngineOptions& options, unsigned instances) noexcept
        : engine_(engine), options_(options), instances_(instances) {}

    engine_st* engine_;
    QatEngineOptions options_;
    unsigned instances_;
};

} // namespace tls_offload::offload
