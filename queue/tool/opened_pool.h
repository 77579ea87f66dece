// opened_pool.h: a pool as all commands but attach begin with it: opened, its geometry known, read.
#pragma once

#include "queue/tool/catalogue.h"
#include "queue/tool/commands.h"
#include "queue/tool/live_view.h"
#include "queue/tool/mirror_half.h"
#include "queue/tool/pool_file.h"
#include "queue/tool/read_message.h"

#include <expected>
#include <memory>
#include <string>
#include <string_view>

namespace queue::tool {

struct OpenedPool {
    std::unique_ptr<PoolFile> file;
    MirrorStanding mirror;
    PoolGeometry geometry;
    std::unique_ptr<Unlock> unlock;
    Catalogue catalogue;
    std::unique_ptr<LiveView> live; // null: see why_dead
    std::string why_dead;           // why the relay could not open it
    /// With the state that recovery gives it: of its STATUS records and the checkpoint the newest.
    [[nodiscard]] StoredMessage as_recovered(MessageId id, StoredMessage stored) const {
        if (live != nullptr) live->bring_up_to_date(id, stored);
        return stored;
    }
    [[nodiscard]] MessageSource source() const {
        return MessageSource{*file, geometry.superblock, *unlock};
    }
};

struct PoolFiles {
    std::string pool;
    std::string mirror; // the other half; empty: not at hand
    std::string key;    // a key file, or env:NAME; empty: none
};
[[nodiscard]] std::expected<OpenedPool, std::string>
open_pool(const PoolFiles& files, PoolFile::Lock lock, const Console& console);

[[nodiscard]] std::string_view name_of(RecipientState state) noexcept;
[[nodiscard]] std::string name_of_record(std::uint16_t type);
/// "2026-11-22T09:00:00Z"; empty for 1970.
[[nodiscard]] std::string utc(base::WallTime time);
[[nodiscard]] std::string hex(const PoolId& pool);
/// "12.3 MiB"
[[nodiscard]] std::string human(std::uint64_t bytes);

} // namespace queue::tool
