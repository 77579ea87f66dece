#include "queue/tool/opened_pool.h"

#include <array>
#include <cstdio>
#include <ctime>
#include <ostream>

namespace queue::tool {

std::expected<OpenedPool, std::string> open_pool(const PoolFiles& files, PoolFile::Lock lock,
                                                 const Console& console) {
    std::shared_ptr<const KeyRing> keys;
    if (!files.key.empty()) {
        auto loaded = KeyRing::load(files.key);
        if (!loaded) return std::unexpected(loaded.error());
        keys = std::move(*loaded);
    }
    auto file = PoolFile::open(files.pool, lock);
    if (!file) return std::unexpected(file.error());
    MirrorStanding mirror = standing_of(**file);
    if (!files.mirror.empty()) {
        const auto other = PoolFile::open(files.mirror, lock);
        if (!other) return std::unexpected(other.error());
        mirror = standing_of(**file, **other);
    }
    auto geometry = read_geometry(**file);
    if (!geometry) return std::unexpected(geometry.error());
    Progress progress;
    if (console.terminal) {
        progress = [&console](std::uint32_t done, std::uint32_t total) {
            console.err << "\rreading segment " << done << " of " << total << std::flush;
            if (done == total) console.err << "\r\033[K" << std::flush;
        };
    }
    const Superblock& superblock = geometry->superblock;
    auto unlock = std::make_unique<Unlock>(superblock, keys);
    Catalogue catalogue = Catalogue::read(**file, superblock, *unlock, progress);
    OpenedPool pool{.file = std::move(*file),
                    .mirror = std::move(mirror),
                    .geometry = *geometry,
                    .unlock = std::move(unlock),
                    .catalogue = std::move(catalogue),
                    .live = nullptr,
                    .why_dead = {}};
    if (geometry->from_segments) {
        pool.why_dead = "the superblock is lost: no two copies agree";
    } else if (auto live = LiveView::open(*pool.file, superblock, keys)) {
        pool.live = std::move(*live);
        pool.live->count_live(pool.catalogue.segments());
    } else {
        pool.why_dead = live.error();
    }
    return pool;
}

std::string_view name_of(RecipientState state) noexcept {
    switch (state) {
    case RecipientState::pending:
        return "pending";
    case RecipientState::delivered:
        return "delivered";
    case RecipientState::bounced:
        return "bounced";
    case RecipientState::expired:
        return "expired";
    case RecipientState::removed:
        return "removed";
    }
    return "unknown";
}

std::string name_of_record(std::uint16_t type) {
    if (!known(type)) return "type " + std::to_string(type);
    switch (static_cast<RecordType>(type)) {
    case RecordType::message:
        return "message";
    case RecordType::body_chunk:
        return "body_chunk";
    case RecordType::message_commit:
        return "message_commit";
    case RecordType::status:
        return "status";
    case RecordType::tomb:
        return "tomb";
    case RecordType::abort:
        return "abort";
    case RecordType::checkpoint_part:
        return "checkpoint_part";
    case RecordType::checkpoint_end:
        return "checkpoint_end";
    case RecordType::watermark:
        return "watermark";
    case RecordType::batch_failed:
        return "batch_failed";
    }
    return "type " + std::to_string(type);
}

std::string utc(base::WallTime time) {
    if (time == base::WallTime{}) return {};
    const auto seconds =
        static_cast<std::time_t>(time.time_since_epoch() / std::chrono::milliseconds{1000});
    std::tm parts{};
    if (gmtime_r(&seconds, &parts) == nullptr) return {};
    std::array<char, 32> text{};
    const std::size_t length =
        std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return {text.data(), length};
}

std::string hex(const PoolId& pool) {
    std::string text;
    for (const std::byte byte : pool) {
        std::array<char, 3> digits{};
        std::snprintf(digits.data(), digits.size(), "%02x", std::to_integer<unsigned>(byte));
        text += digits.data();
    }
    return text;
}

std::string human(std::uint64_t bytes) {
    constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    for (; value >= 1024 && unit + 1 < units.size(); ++unit)
        value /= 1024;
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text.data();
}

} // namespace queue::tool
