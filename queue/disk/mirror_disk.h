// mirror_disk.h: one Disk made of two, each with everything: durability = "mirror".
//
// Scope      Writes go to both and succeed when both have; reads come from the source, and from the other
//            when the source refuses. A half that refuses a write while the other takes it is left behind: that
//            is written down on the one that goes on (mirror_record.h) before the write counts. A half that
//            was left behind is given everything again in the background, and then counts again. A half that does not
//            answer is left behind like one that refuses, once the other could have gone on without it for
//            answer_limit; it is given nothing before all that it still has to answer has returned, for a late write
//            would land over it. A half that is the only one that counts is waited for. After an end that
//            was not clean two that count are made alike: where the start asks for it (make_alike) at once, and
//            everywhere in the background. What is copied is judged first (mirror_content.h).
// Owns       The copying, its memory, the records, and what is under way on both halves (mirror_operation.h). The two
//            disks are the caller's.
// Threading  Bound to one shard.
// Failure    A write fails when both halves refuse it, or when the one that took it cannot write down that it
//            is alone. open(): a sentence with the remedy. Destroying it waits for a device that hangs: see hung().
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/wait.h"
#include "queue/disk/block_memory.h"
#include "queue/disk/disk.h"
#include "queue/disk/mirror_content.h"
#include "queue/disk/mirror_operation.h"
#include "queue/disk/mirror_record.h"

#include <array>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace queue {

struct MirrorSide {
    Disk* disk = nullptr; // null: cannot be opened
    bool created = false;
};

enum class MirrorState : std::uint8_t { whole = 1, copying = 2, degraded = 3 };
[[nodiscard]] std::string_view to_string(MirrorState state) noexcept;

struct MirrorOptions {
    std::uint64_t copy_bytes_per_s = 100U << 20; // of copying in the background
    std::chrono::seconds retry{30};              // a half that refused is tried again after this
    // How long a half may take for what the other could go on without: a write or a flush, from when the other has
    // answered; and a read, before the other is asked. A device's own timeouts and repetitions stay below the first.
    std::chrono::milliseconds answer_limit{30'000};
    std::chrono::milliseconds read_limit{5'000};
    bool told = false;   // one half may stand alone: "mirror_alone"
    PoolId fresh_pair{}; // for halves that are joined now
    /// Which pool a superblock's copy says it is of; nothing when it does not check out. Required.
    std::function<std::optional<PoolId>(std::span<const std::byte, block_bytes> block,
                                        std::uint32_t copy)>
        pool_of;
    /// Tells what is whole from what is not; none: the source is always right.
    std::shared_ptr<MirrorContent> content;
    /// What an operator must hear: a half was left behind, copying began or ended.
    std::function<void(MirrorState state, const std::string& text)> report;
};

class MirrorDisk final : public Disk {
public:
    /// When it fails while a device hangs, what that device works on stays for good, and `loop` must not run on.
    [[nodiscard]] static base::Task<std::expected<std::unique_ptr<MirrorDisk>, std::string>>
    open(base::Loop& loop, std::array<MirrorSide, 2> sides, MirrorOptions options);
    ~MirrorDisk() override;

    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return bytes_; }
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    read(std::uint64_t offset, std::span<std::byte> bytes) override;
    [[nodiscard]] base::Task<std::expected<void, DiskError>> flush() override;
    [[nodiscard]] unsigned copies() const noexcept override {
        return readable(1 - source_) ? 2 : 1;
    }
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    read_copy(unsigned copy, std::uint64_t offset, std::span<std::byte> bytes) override;
    /// Does not wait for the rest of the pool, which is copied in the background.
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    make_alike(std::uint64_t offset, std::uint64_t bytes) override;

    /// Nothing is under way any more: the next start need not copy. Nothing may be written after it. Ends also
    /// when a device hangs, and says nothing then.
    [[nodiscard]] base::Task<void> close();
    /// A half has not answered to something yet. After close(): it may never, and memory that its device works on
    /// must outlive this object, which waits for it when it is destroyed.
    [[nodiscard]] bool hung() const noexcept { return operations_.busy(0) || operations_.busy(1); }
    [[nodiscard]] MirrorState state() const noexcept;
    /// Whether this half has everything that was acknowledged.
    [[nodiscard]] bool counts(unsigned side) const noexcept { return readable(side); }
    /// Both count, and may still differ: in what was under way at the last end, or was refused by the source.
    [[nodiscard]] bool reconciling() const noexcept { return reconciling_; }
    [[nodiscard]] std::uint64_t copied_bytes() const noexcept { return copied_; }
    /// Reads that the source refused and the other half answered.
    [[nodiscard]] std::uint64_t rescued_reads() const noexcept { return rescued_reads_; }
    /// Of operations that are under way, and a bounded rest for the next ones.
    [[nodiscard]] std::size_t memory_bytes() const noexcept { return operations_.memory_bytes(); }

private:
    enum class Health : std::uint8_t {
        good,    // has everything that was acknowledged
        behind,  // is being given everything: takes writes, is not read
        refused, // takes nothing
    };
    struct Range {
        std::uint64_t offset = 0;
        std::uint64_t bytes = 0;
    };
    class Writing;
    struct Copying { // a round of it
        std::uint64_t epoch = 0;
        bool both_count = false;
        bool judged = false;    // else everything is copied
        bool one_sided = false; // the other half, which does not count, has what the source has not
        std::optional<unsigned> refused; // what was to be given did not arrive there, or it hangs
    };
    static constexpr std::size_t head_bytes_max = superblock_copies * block_bytes;

    MirrorDisk(base::Loop& loop, std::array<MirrorSide, 2> sides, MirrorOptions options) noexcept;
    static void forsake(std::unique_ptr<MirrorDisk> mirror) noexcept;
    [[nodiscard]] base::Task<std::expected<void, std::string>> begin();
    [[nodiscard]] base::Task<void> read_halves(std::array<MirrorHalf, 2>* halves);
    void read_head(MirrorHalf* half, std::size_t block, const MirrorOperation* read,
                   unsigned side) const;
    [[nodiscard]] base::Task<bool> write_record(unsigned side, MirrorRecord record);
    [[nodiscard]] base::Task<bool> leave_behind(unsigned side);
    [[nodiscard]] base::Task<bool> record_alone();
    [[nodiscard]] base::Task<void> answers(MirrorOperation* operation, base::Duration limit);
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    settle(const MirrorOperation* operation);
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    read_first(std::uint64_t offset, std::span<std::byte> bytes, bool refused_too);
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    write_one(unsigned side, std::uint64_t offset, std::span<const std::byte> bytes);
    [[nodiscard]] base::Task<std::expected<void, DiskError>>
    read_one(unsigned side, std::uint64_t offset, std::span<std::byte> bytes, base::Duration limit);
    [[nodiscard]] base::Task<void> mend();
    [[nodiscard]] base::Task<bool> tell_behind();
    [[nodiscard]] base::Task<bool> copy_all();
    [[nodiscard]] base::Task<void> hold(std::uint64_t offset, std::uint64_t bytes);
    void let_go() noexcept;
    [[nodiscard]] base::Task<Copying> begin_copying();
    [[nodiscard]] base::Task<std::uint64_t> copy_piece(Copying* round, std::uint64_t offset,
                                                       std::uint64_t end);
    [[nodiscard]] base::Task<void> copy_held(Copying* round);
    static void copy_source(MirrorContent::Window& window);
    [[nodiscard]] base::Task<bool> read_blocks(unsigned side, std::uint64_t offset,
                                               std::span<std::byte> bytes, std::vector<bool>* lost);
    [[nodiscard]] base::Task<bool> write_blocks(unsigned side, std::uint64_t offset,
                                                const MirrorContent::Half* half);
    [[nodiscard]] base::Task<bool> end_refused(const Copying* round);
    [[nodiscard]] base::Task<void> join();
    [[nodiscard]] bool overlaps_writes(Range range) const noexcept;
    [[nodiscard]] bool takes_writes(unsigned side) const noexcept {
        return side == source_ || other_ != Health::refused;
    }
    [[nodiscard]] bool readable(unsigned side) const noexcept {
        return side == source_ || other_ == Health::good;
    }
    [[nodiscard]] Disk& disk(unsigned side) noexcept { return *sides_[side].disk; }
    [[nodiscard]] MirrorOperations::Disks only(unsigned side) const noexcept;
    void state_changed() noexcept;
    void fall_back() noexcept;
    [[nodiscard]] std::string unanswered(unsigned side) const;
    void report(MirrorState state, const std::string& text) const;

    base::Loop& loop_;
    std::array<MirrorSide, 2> sides_;
    MirrorOptions options_;
    std::uint64_t bytes_ = 0;
    unsigned source_ = 0;
    Health other_ = Health::good;
    MirrorRecord record_;                     // the source's, as it is on disk or about to be
    std::array<bool, 2> recording_{};         // of each half
    std::array<unsigned, 2> newest_record_{}; // of each half: which block
    bool alone_known_ = true;                 // when the record says alone: it is on disk
    std::uint64_t epoch_ =
        0; // raised when a half is left behind: copying that began before is void
    bool reconciling_ = false; // copies, though the other is good
    bool one_sided_ = false;   // as the last round found it
    bool closed_ = false;
    std::list<Range> writes_; // under way
    Range copying_;           // nothing else is copied or written there meanwhile
    std::uint64_t copied_ = 0;
    std::uint64_t rescued_reads_ = 0;
    BlockMemory record_block_;
    std::array<BlockMemory, 2> copy_memory_; // a window of each half
    std::array<BlockMemory, 2> head_memory_;
    base::WaitQueue changed_{"spool mirror"};
    MirrorOperations operations_;
    MirrorDisk* forsaken_before_ = nullptr; // the list of those that were
    base::Task<void> mend_task_;
};

} // namespace queue
