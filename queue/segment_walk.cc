#include "queue/segment_walk.h"

#include "queue/core.h"

#include <algorithm>
#include <utility>

namespace queue {
namespace {

class Walk {
public:
    Walk(QueueCore& core, std::uint32_t slot) noexcept
        : core_(core), slot_(slot), seq_(core.log().segments().seq_of(slot)),
          end_(core.log().segments().bytes_of(slot)) {}

    [[nodiscard]] base::Task<void> run(BlockMemory& memory, std::vector<LiveRecord>& found) {
        const std::uint64_t begin = core_.log().segments().begin_of(slot_);
        at_ = segment_header_bytes;
        while (at_ < end_) {
            const std::uint32_t from = at_ / block * block;
            const std::span<std::byte> window =
                memory.span().first(std::min<std::size_t>(memory.bytes, end_ - from));
            auto read = co_await core_.disk().read(begin + from, window);
            if (!read)
                co_return; // the index knows what is there, and copying meets the error again
            take(window, from, found);
        }
    }
    /// Records that the index knows, and those of checkpoints, which it does not.
    [[nodiscard]] std::uint32_t accounted() const noexcept { return accounted_; }

private:
    static constexpr auto block = static_cast<std::uint32_t>(block_bytes);

    void take(std::span<const std::byte> window, std::uint32_t from,
              std::vector<LiveRecord>& found) {
        const auto window_end = from + static_cast<std::uint32_t>(window.size());
        while (at_ < window_end) {
            const auto bytes = window.subspan(at_ - from);
            if (at_ >= records_end_) { // between frames
                at_ = (at_ + block - 1) / block * block;
                if (at_ >= window_end) return;
                const auto frame =
                    decode_frame_header(window.subspan(at_ - from), core_.log().seed(), at_);
                const bool ours = frame && frame->segment_seq == seq_ && frame->bytes != 0;
                records_end_ = ours ? at_ + frame->used : 0;
                at_ += ours ? frame_header_bytes : block;
                continue;
            }
            if (bytes.size() < record_header_bytes && window_end < end_)
                return; // with the next window
            const RecordSeeds seeds = record_seeds(core_.log().seed(), seq_, at_);
            const auto header = bytes.size() < record_header_bytes
                                    ? std::unexpected(CodecError::truncated)
                                    : decode_record_header(bytes.first(record_header_bytes),
                                                           records_end_ - at_, seeds);
            if (!header) {
                at_ = std::exchange(records_end_, 0); // what else the frame holds, the index says
                continue;
            }
            ask(*header, found);
            at_ += record_bytes(*header);
        }
    }

    void ask(const RecordHeader& header, std::vector<LiveRecord>& found) {
        const auto type = static_cast<RecordType>(header.type);
        if (type == RecordType::checkpoint_part || type == RecordType::checkpoint_end) ++accounted_;
        const MessageIndex& index = core_.index();
        const EntryRef ref = index.find(header.id);
        if (ref == no_entry) return;
        const Place place{slot_, at_};
        const Entry& entry = index[ref];
        if (entry.place == place) {
            found.push_back({entry.id, ref, place, entry.payload_bytes, LiveRecord::whole_message});
            ++accounted_;
            return;
        }
        const std::span<const Chunk> chunks = index.chunks(entry);
        for (std::size_t i = 0; i < chunks.size(); ++i) {
            if (chunks[i].place != place) continue;
            found.push_back({entry.id, ref, place, chunk_prefix_bytes + chunks[i].bytes, i});
            ++accounted_;
        }
    }

    QueueCore& core_;
    std::uint32_t slot_;
    std::uint64_t seq_;
    std::uint32_t end_;
    std::uint32_t at_ = 0;
    std::uint32_t records_end_ = 0; // of the frame that at_ is in; 0: in none
    std::uint32_t accounted_ = 0;
};

} // namespace

base::Task<std::vector<LiveRecord>> read_live_records(QueueCore& core,
                                                      std::vector<std::uint32_t> slots) {
    BlockMemory window{collect_window_bytes};
    std::vector<LiveRecord> found;
    std::vector<std::uint32_t> hidden; // slots with more alive than their frames told
    for (const std::uint32_t slot : slots) {
        const std::size_t before = found.size();
        Walk walk{core, slot};
        base::Task<void> walking = walk.run(window, found);
        co_await std::move(walking);
        if (walk.accounted() >= core.log().segments().live_records(slot)) continue;
        found.erase(found.begin() + static_cast<std::ptrdiff_t>(before), found.end());
        hidden.push_back(slot);
    }
    if (hidden.empty()) co_return found;
    base::Task<std::vector<LiveRecord>> finding =
        find_live_records(core.loop(), core.index(), std::move(hidden));
    const std::vector<LiveRecord> rest = co_await std::move(finding);
    found.insert(found.end(), rest.begin(), rest.end());
    co_return found;
}

} // namespace queue
