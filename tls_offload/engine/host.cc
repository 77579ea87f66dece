#include "tls_offload/engine/host.h"

#include "tls_offload/engine/inline_backend.h"
#include "tls_offload/engine/mb8_kernel.h"
#include "tls_offload/engine/qat_engine.h"
#include "tls_offload/engine/worker_pool.h"

#include <algorithm>
#include <array>
#include <utility>

namespace tls_offload::offload {
namespace {

unsigned spare_of(const HostOptions& options) noexcept {
    return options.processors > options.shards ? options.processors - options.shards : 0;
}

/// Workers wanted: what the configuration says, or a share of the cores that have no shard.
unsigned workers_of(const HostOptions& options) noexcept {
    const unsigned wanted =
        options.workers != 0 ? options.workers : std::min(spare_of(options), 2 * options.shards);
    return std::min(wanted, workers_max);
}

unsigned helpers_of(const HostOptions& options) noexcept {
    return options.workers == 0 && options.shards_sleep ? std::min(options.shards, workers_max) : 0;
}

std::string workers_text(const HostOptions& options, unsigned workers) {
    std::string text = std::to_string(workers) + (workers == 1 ? " worker" : " workers");
    for (std::size_t i = 0; i < options.cores.size() && i < workers; ++i)
        text += (i == 0 ? " on core " : ", ") + std::to_string(options.cores[i]);
    return text;
}

} // namespace

std::string_view to_string(Choice choice) noexcept {
    switch (choice) {
    case Choice::best:
        return "auto";
    case Choice::inline_only:
        return "inline";
    case Choice::threads:
        return "threads";
    case Choice::mb8:
        return "mb8";
    case Choice::cryptodev:
        return "cryptodev";
    case Choice::qatengine:
        return "qatengine";
    }
    return "unknown";
}

Host::Host() noexcept = default;
Host::~Host() = default;

std::expected<void, std::string> Host::try_one(Choice choice, const HostOptions& options) {
    const unsigned workers = workers_of(options);
    switch (choice) {
    case Choice::best:
    case Choice::inline_only:
        return {};
    case Choice::threads:
        if (workers == 0)
            return std::unexpected(
                "every processor has a shard; set workers to use them all the same");
        add_workers(options);
        return {};
    case Choice::mb8: {
        auto library = Mb8Library::open(options.mb8_file);
        if (!library) return std::unexpected(library.error());
        if (workers == 0) {
            lanes_ = std::move(*library);
            findings_.push_back({"mb8", true, "eight lanes, on the shards themselves"});
            return {};
        }
        workers_ = std::make_unique<WorkerPool>(
            WorkerPoolOptions{.workers = workers,
                              .shards = options.shards,
                              .cores = options.cores,
                              .kernel = [found = *library] { return found->make_kernel(); },
                              .name = "mb8"});
        findings_.push_back({"mb8", true, "eight lanes, " + workers_text(options, workers)});
        return {};
    }
    case Choice::cryptodev: {
        if (!options.open_cryptodev)
            return std::unexpected("DPDK is not started: there is no [[port]]");
        auto opened = options.open_cryptodev();
        if (!opened) return std::unexpected(opened.error());
        device_ = std::move(*opened);
        findings_.push_back({"cryptodev", true, "one queue pair for each shard"});
        return {};
    }
    case Choice::qatengine: {
        auto opened = QatEngine::open({.file = options.engine_file, .shards = options.shards});
        if (!opened) return std::unexpected(opened.error());
        qat_ = std::move(*opened);
        findings_.push_back(
            {"qatengine", true, std::to_string(qat_->instance_count()) + " crypto instances"});
        return {};
    }
    }
    return {};
}

void Host::add_workers(const HostOptions& options) {
    const unsigned workers = workers_of(options);
    const unsigned helpers = helpers_of(options);
    workers_ = std::make_unique<WorkerPool>(WorkerPoolOptions{
        .workers = workers, .helpers = helpers, .shards = options.shards, .cores = options.cores});
    std::string text = workers_text(options, workers);
    if (helpers != 0) text += ", " + std::to_string(helpers) + " on what shards leave of theirs";
    findings_.push_back({"threads", true, std::move(text)});
}

std::expected<std::unique_ptr<Host>, std::string> Host::start(HostOptions options) {
    std::unique_ptr<Host> host{new Host};
    if (options.choice == Choice::best) {
        for (const Choice each :
             {Choice::cryptodev, Choice::qatengine, Choice::mb8, Choice::threads}) {
            const auto tried = host->try_one(each, options);
            if (tried) break;
            host->findings_.push_back({to_string(each), false, tried.error()});
        }
    } else {
        // Asked for by name: one worker even where each processor has a shard already.
        if (options.choice == Choice::threads && workers_of(options) == 0) options.workers = 1;
        const auto tried = host->try_one(options.choice, options);
        if (!tried) {
            return std::unexpected(
                "[offload] backend = \"" + std::string{to_string(options.choice)} + "\": " +
                tried.error() + "; mend it, or set backend = \"auto\", which takes what there is");
        }
    }
    // A device that dies should not put its work on the shards, where there are cores that can do it.
    if ((host->device_ || host->qat_) && workers_of(options) != 0) {
        host->add_workers(options);
        host->findings_.back().text += ", behind the device";
    }
    host->findings_.push_back({"inline", true,
                               host->findings_.empty() || (!host->device_ && !host->qat_ &&
                                                           !host->workers_ && !host->lanes_)
                                   ? "OpenSSL on the shards themselves"
                                   : "behind the others, on the shards themselves"});
    return host;
}

std::vector<std::unique_ptr<Backend>> Host::chain(unsigned shard, base::Wakeup* wakeup) const {
    std::vector<std::unique_ptr<Backend>> out;
    if (device_) out.push_back(device_(shard));
    if (qat_) out.push_back(qat_->backend(shard));
    if (workers_) out.push_back(workers_->backend(shard, wakeup));
    if (lanes_) out.push_back(make_inline_backend(lanes_->make_kernel(), "mb8"));
    out.push_back(make_inline_backend());
    return out;
}

} // namespace tls_offload::offload
