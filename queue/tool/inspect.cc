// inspect.cc: what a pool holds, for people and as JSON.
#include "queue/tool/message_json.h"
#include "queue/tool/opened_pool.h"

#include <algorithm>
#include <array>
#include <iomanip>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>

namespace queue::tool {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::size_t domains_shown = 20;

[[nodiscard]] Json superblock_json(const PoolFile& file, const PoolGeometry& geometry) {
    const Superblock& block = geometry.superblock;
    return {{"pool", hex(block.pool)},
            {"path", file.path()},
            {"format", format_major},
            {"shard", block.shard},
            {"copies_valid", geometry.copies_valid},
            {"pieced_together", geometry.from_segments},
            {"generation", block.generation},
            {"epoch", block.epoch},
            {"clean", block.clean},
            {"encrypted", block.encrypted},
            {"pool_bytes", block.pool_bytes},
            {"file_bytes", file.size_bytes()},
            {"segment_bytes", block.segment_bytes},
            {"segment_count", block.segment_count},
            {"segment_floor", block.segment_floor},
            {"checkpoint_segment", block.checkpoint.segment_seq},
            {"checkpoint_covers", block.checkpoint.covered}};
}

[[nodiscard]] Json segment_json(const StoredSegment& segment) {
    Json records = Json::object();
    for (const auto& [type, count] : segment.records)
        records[name_of_record(type)] = count;
    return {
        {"slot", segment.slot},
        {"segment", segment.seq},
        {"bad", segment.bad},
        {"readable", segment.readable},
        {"encrypted", segment.encrypted},
        {"headers", segment.headers},
        {"frames", segment.frames},
        {"frame_bytes", segment.frame_bytes},
        {"record_bytes", segment.record_bytes},
        {"live_records", segment.live_records},
        {"live_bytes", segment.live_bytes},
        {"dead_bytes", segment.record_bytes - std::min(segment.record_bytes, segment.live_bytes)},
        {"damaged_places", segment.damaged_places},
        {"records", std::move(records)}};
}

[[nodiscard]] Json damage_json(const std::vector<DamagedPlace>& damage) {
    Json list = Json::array();
    for (const DamagedPlace& place : damage) {
        Json row{
            {"slot", place.slot},   {"segment", place.segment_seq},       {"offset", place.offset},
            {"bytes", place.bytes}, {"acknowledged", place.acknowledged}, {"what", place.what}};
        if (place.id.value != 0) row["message"] = place.id.to_string();
        list.push_back(std::move(row));
    }
    return list;
}

[[nodiscard]] Json mirror_json(const MirrorStanding& mirror) {
    Json json{{"state", to_string(mirror.state)}, {"meaning", mirror.text}};
    if (mirror.half.record) {
        json["pair"] = hex(mirror.half.record->pair);
        json["generation"] = mirror.half.record->generation;
        json["clean"] = mirror.half.record->clean;
    }
    return json;
}

/// Of what is queued: recipients by state, messages by domain and by tenant.
struct Counts {
    std::uint64_t messages = 0, deferred = 0, content_bytes = 0;
    std::map<std::string, std::uint64_t> states, domains, tenants;
};

[[nodiscard]] Counts count(const LiveView& live) {
    Counts counts;
    const MessageIndex& index = live.index();
    for (EntryRef ref = 0; ref < index.slot_count(); ++ref) {
        const Entry& entry = index[ref];
        if (entry.id.value == 0) continue;
        ++counts.messages;
        counts.content_bytes += entry.content_bytes;
        if (entry.due > live.now()) ++counts.deferred;
        const auto status = index.status(entry);
        const auto domains = index.domains(entry);
        for (std::size_t i = 0; i < status.size(); ++i) {
            ++counts.states[std::string{name_of(status[i].state)}];
            if (status[i].state == RecipientState::pending)
                ++counts.domains[std::string{index.texts().text(domains[i])}];
        }
        ++counts.tenants[std::string{index.texts().text(entry.tenant)}];
    }
    return counts;
}

[[nodiscard]] Json queued_json(const Counts& counts) {
    return {{"messages", counts.messages},           {"deferred", counts.deferred},
            {"content_bytes", counts.content_bytes}, {"recipients_by_state", counts.states},
            {"pending_by_domain", counts.domains},   {"messages_by_tenant", counts.tenants}};
}

void print_counts(std::ostream& out, const char* title,
                  const std::map<std::string, std::uint64_t>& counts) {
    std::vector<std::pair<std::string, std::uint64_t>> rows{counts.begin(), counts.end()};
    std::ranges::stable_sort(rows, std::ranges::greater{},
                             &std::pair<std::string, std::uint64_t>::second);
    out << title << '\n';
    for (std::size_t i = 0; i < rows.size() && i < domains_shown; ++i) {
        out << "  " << std::setw(12) << rows[i].second << "  "
            << (rows[i].first.empty() ? "(none)" : rows[i].first) << '\n';
    }
    if (rows.size() > domains_shown)
        out << "  and " << rows.size() - domains_shown << " more: see --json\n";
}

void print_summary(std::ostream& out, const OpenedPool& pool) {
    const Superblock& block = pool.geometry.superblock;
    out << "pool        " << hex(block.pool) << " of shard " << block.shard << '\n';
    if (!pool.mirror.text.empty()) {
        out << "mirror      ";
        if (pool.mirror.half.record)
            out << "pair " << hex(pool.mirror.half.record->pair) << ", generation "
                << pool.mirror.half.record->generation << ": ";
        out << pool.mirror.text << '\n';
    }
    if (pool.geometry.from_segments) {
        out << "superblock  lost; what follows is pieced together from segment headers\n";
    } else {
        out << "superblock  " << pool.geometry.copies_valid << " of " << superblock_copies
            << " copies valid, generation " << block.generation << ", epoch " << block.epoch
            << (block.clean ? ", closed in good order\n" : ", not closed: a crash, or in use\n");
    }
    std::uint64_t used = 0, bad = 0, live = 0, records = 0;
    for (const StoredSegment& segment : pool.catalogue.segments()) {
        if (segment.bad) ++bad;
        if (segment.live_records != 0) ++used;
        live += segment.live_bytes;
        records += segment.record_bytes;
    }
    out << "size        " << human(block.pool_bytes) << ": " << block.segment_count
        << " segments of " << human(block.segment_bytes) << ", " << used << " with queued mail, "
        << bad << " bad\n"
        << "records     " << human(records) << ", of which " << human(live) << " live\n";
    if (block.checkpoint.valid()) {
        out << "checkpoint  in segment " << block.checkpoint.segment_seq << ": "
            << (pool.catalogue.checkpoint()
                    ? std::to_string(pool.catalogue.checkpoint()->entries) + " messages\n"
                    : "cannot be read\n");
    }
    if (pool.catalogue.locked_records() != 0) {
        out << "encryption  " << pool.catalogue.locked_records()
            << " records do not open with the keys at hand: give the right ones with --key\n";
    } else if (block.encrypted) {
        out << "encryption  on, and everything opens\n";
    }
    const auto acknowledged =
        std::ranges::count_if(pool.catalogue.damage(), &DamagedPlace::acknowledged);
    out << "damage      " << pool.catalogue.damage().size() << " places, " << acknowledged
        << " of them acknowledged data\n";
    for (const DamagedPlace& place : pool.catalogue.damage()) {
        out << "  slot " << place.slot << " at " << place.offset << ", " << place.bytes
            << " bytes: " << place.what;
        if (place.id.value != 0) out << " (message " << place.id.to_string() << ")";
        out << (place.acknowledged ? "\n" : "; perhaps only a write that a crash cut short\n");
    }
    if (pool.live == nullptr) {
        out << "queue       " << pool.why_dead << '\n';
        return;
    }
    const Counts counts = count(*pool.live);
    out << "queue       " << counts.messages << " messages, " << counts.deferred << " deferred, "
        << human(counts.content_bytes) << " of content\n";
    print_counts(out, "recipients by state", counts.states);
    print_counts(out, "pending recipients by domain", counts.domains);
    print_counts(out, "messages by tenant", counts.tenants);
}

void print_segments(std::ostream& out, const Catalogue& catalogue) {
    out << "  slot          segment   frames  records       written          live  damaged\n";
    for (const StoredSegment& segment : catalogue.segments()) {
        std::uint64_t records = 0;
        for (const auto& [type, count] : segment.records)
            records += count;
        out << std::setw(6) << segment.slot << std::setw(17) << segment.seq << std::setw(9)
            << segment.frames << std::setw(9) << records << std::setw(14)
            << human(segment.frame_bytes) << std::setw(14) << human(segment.live_bytes)
            << std::setw(9) << segment.damaged_places
            << (segment.bad        ? "  bad"
                : segment.readable ? ""
                                   : "  not all of it can be read")
            << '\n';
    }
}

[[nodiscard]] bool queued(const OpenedPool& pool, MessageId id, const StoredMessage& stored) {
    return pool.live != nullptr ? pool.live->has(id) : !stored.finished();
}

/// One message, or one line for each that is queued.
void print_messages(std::ostream& out, const OpenedPool& pool) {
    MessageSource source = pool.source();
    for (const MessageId id : pool.catalogue.ids()) {
        const StoredMessage stored = pool.as_recovered(id, *pool.catalogue.find(id));
        if (!queued(pool, id, stored)) continue;
        const ReadMessage message = source.read(id, stored, false);
        out << id.to_string() << "  " << message.prefix.content_bytes << " bytes  ";
        if (message.envelope_good) {
            out << '<' << message.envelope.sender() << "> to " << message.envelope.recipient_count()
                << ", first <"
                << (message.envelope.recipient_count() > 0 ? message.envelope.recipient(0).address
                                                           : std::string_view{})
                << '>';
        }
        if (!stored.last_error.empty()) out << "  " << stored.last_error;
        if (!message.problem.empty()) out << "  DAMAGED: " << message.problem;
        out << '\n';
    }
}

} // namespace

int inspect(const InspectOptions& options, const Console& console) {
    const auto lock = options.lock ? PoolFile::Lock::exclusive : PoolFile::Lock::none;
    auto pool = open_pool({options.pool, options.mirror, options.key}, lock, console);
    if (!pool) {
        console.err << "millrace-spool: " << pool.error() << '\n';
        return exit_no_pool;
    }
    if (!options.lock) {
        console.err
            << "millrace-spool: without the lock: a relay may be writing, and what is shown "
               "may not fit together\n";
    }
    if (options.record) {
        const StoredMessage* found = pool->catalogue.find(*options.record);
        if (found == nullptr) {
            console.err << "millrace-spool: " << options.pool << " holds nothing of message "
                        << options.record->to_string() << '\n';
            return exit_damage;
        }
        MessageSource source = pool->source();
        const StoredMessage stored = pool->as_recovered(*options.record, *found);
        const ReadMessage message = source.read(*options.record, stored, false);
        console.out << dump(message_json(*options.record, stored, message,
                                         queued(*pool, *options.record, stored)))
                    << '\n';
        return exit_ok;
    }
    if (!options.json) {
        print_summary(console.out, *pool);
        if (options.segments) print_segments(console.out, pool->catalogue);
        if (options.messages) print_messages(console.out, *pool);
        return exit_ok;
    }
    Json json{{"superblock", superblock_json(*pool->file, pool->geometry)},
              {"damage", damage_json(pool->catalogue.damage())}};
    if (!pool->mirror.text.empty()) json["mirror"] = mirror_json(pool->mirror);
    if (pool->live != nullptr) {
        json["queued"] = queued_json(count(*pool->live));
    } else {
        json["problem"] = pool->why_dead;
    }
    if (options.segments) {
        Json list = Json::array();
        for (const StoredSegment& segment : pool->catalogue.segments())
            list.push_back(segment_json(segment));
        json["segments"] = std::move(list);
    }
    if (options.messages) {
        MessageSource source = pool->source();
        Json list = Json::array();
        for (const MessageId id : pool->catalogue.ids()) {
            const StoredMessage stored = pool->as_recovered(id, *pool->catalogue.find(id));
            if (!queued(*pool, id, stored)) continue;
            list.push_back(message_json(id, stored, source.read(id, stored, false), true));
        }
        json["messages"] = std::move(list);
    }
    console.out << dump(json) << '\n';
    return exit_ok;
}

} // namespace queue::tool
