// host.h: which backends this process has, decided once at start, and each shard's chain of them.
//
// Scope      Probes what there is, takes what the configuration asks for or the best, and says what it found
//            and why it took or left each.
// Owns       Workers, libraries and devices; engines and their backends go first.
// Threading  start() and the end on main; chain() on each shard for itself.
// Failure    start() returns a sentence that names the setting when what was asked for cannot be had.
//            `auto` always finds something: software on the shard needs nothing.
#pragma once

#include "dataplane/base/mailbox.h"
#include "tls_offload/engine/backend.h"

#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tls_offload::offload {

class Mb8Library;
class QatEngine;
class WorkerPool;

enum class Choice : std::uint8_t { best, inline_only, threads, mb8, cryptodev, qatengine };
[[nodiscard]] std::string_view to_string(Choice choice) noexcept; // as the configuration has it

/// A device that this room cannot open by itself, because DPDK belongs to another: makes a shard's backend.
using DeviceBackends = std::function<std::unique_ptr<Backend>(unsigned shard)>;
using OpenDevice = std::function<std::expected<DeviceBackends, std::string>()>;

struct HostOptions {
    Choice choice = Choice::best;
    unsigned shards = 1;
    unsigned processors = 1; // of this machine, for us to use
    // 0: as many as there are processors without a shard, two for each shard at most; and helpers, one for each
    // shard, where shards sleep when they have nothing to do.
    unsigned workers = 0;
    bool shards_sleep = true;
    std::vector<int> cores;    // where workers are pinned; empty: they float
    std::string engine_file;   // of qatengine; empty: where OpenSSL looks
    std::string mb8_file;      // of libcrypto_mb; empty: where the loader looks
    OpenDevice open_cryptodev; // empty: DPDK is not started
};

/// What was looked at, in the order of preference, for the start-up log.
struct Finding {
    std::string_view backend;
    bool used = false;
    std::string text; // how it is used, or why it is not
};

class Host {
public:
    [[nodiscard]] static std::expected<std::unique_ptr<Host>, std::string>
    start(HostOptions options);
    ~Host();
    Host(const Host&) = delete;
    Host& operator=(const Host&) = delete;

    /// For Engine's constructor. \param wakeup  rouses the shard; null: it polls
    [[nodiscard]] std::vector<std::unique_ptr<Backend>> chain(unsigned shard,
                                                              base::Wakeup* wakeup) const;
    [[nodiscard]] const std::vector<Finding>& findings() const noexcept { return findings_; }

private:
    Host() noexcept;
    std::expected<void, std::string> try_one(Choice choice, const HostOptions& options);
    void add_workers(const HostOptions& options);

    std::vector<Finding> findings_;
    std::unique_ptr<WorkerPool> workers_;     // of `threads` or `mb8`
    std::shared_ptr<const Mb8Library> lanes_; // on the shard itself, where no core is spare
    std::unique_ptr<QatEngine> qat_;
    DeviceBackends device_;
};

} // namespace tls_offload::offload
