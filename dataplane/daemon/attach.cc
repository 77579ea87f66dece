#include "dataplane/daemon/attach.h"

#include "queue/superblock_choice.h"

#include <filesystem>

namespace dataplane::daemon {
namespace {

constexpr std::uint32_t shards_max = 256; // a message's id has 8 bits for its shard

} // namespace

std::expected<policy::PolicyPtr, std::string>
deliver_only(const policy::Policy& node, const std::string& pool, const std::string& key) {
    const auto superblock = queue::read_superblock(pool);
    if (!superblock) return std::unexpected(superblock.error());
    if (superblock->shard >= shards_max) {
        return std::unexpected(pool + " belongs to shard " + std::to_string(superblock->shard) +
                               ", and no relay has so many");
    }
    auto mine = std::make_shared<policy::Policy>(node);
    mine->listeners.clear();
    policy::StartUp& start_up = mine->start_up;
    // A pool belongs to the shard that made it, and this process has no other.
    start_up.shards = superblock->shard + 1;
    start_up.cpus.clear();
    start_up.busy_poll = false;
    start_up.ports.clear(); // the node's relay has them: this one goes through the kernel
    if (!key.empty()) start_up.spool_key = key;
    start_up.spool_bytes_per_shard = superblock->pool_bytes;
    // The statistics page and the events of the node's relay are not touched.
    const std::string name = "attached-" + std::filesystem::path(pool).filename().string() + "-" +
                             std::to_string(superblock->shard);
    start_up.run_dir += "/" + name;
    if (!start_up.event_log.empty()) start_up.event_log += "." + name;
    return mine;
}

} // namespace dataplane::daemon
