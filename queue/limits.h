// limits.h: every bound of the spool in one place, with its reason.
//
// What the queue's users must know (inline_content_bytes_max, prelude_bytes_max) stands in queue.h.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace queue {

// One write. 1 MiB is where devices reach their full rate, and what RocksDB groups at most as well.
inline constexpr std::uint32_t batch_bytes_max = 1U << 20;
// Buffers: one that is open, or left to mend with, and the others under way. A device here wrote no faster with more
// than eight (fio).
inline constexpr std::size_t batch_buffer_count = 10;
// An unfilled batch is held back while this many writes are in flight: what comes meanwhile joins it.
inline constexpr unsigned natural_writes_in_flight = 2;
// The three above, where a queue has others: for tests. Less than a block is no batch, and with one buffer a refused
// batch would have nowhere to be written again.
struct WriteBounds {
    std::uint32_t batch_bytes = batch_bytes_max; // a larger record is a write by itself
    std::size_t buffers = batch_buffer_count;
    unsigned natural_in_flight = natural_writes_in_flight;
};
// While this many messages are on their way in (their content comes, or their signatures are being made), a batch is
// held back until this long after the last write, so that more of them share a commit; but not one that is worth a
// write already. A client by itself never waits, nor does anybody while commits are rare.
inline constexpr std::size_t commit_siblings = 8;
inline constexpr std::chrono::milliseconds commit_gap{2};
inline constexpr std::uint32_t commit_worth_bytes = 256U << 10;
// A status or completion record waits this long for company before it is written alone.
inline constexpr std::chrono::milliseconds lazy_flush{5};
// After this much silence the last batches' durability is written down, so that recovery can tell
// rot from a torn tail.
inline constexpr std::chrono::milliseconds watermark_idle{100};
// The second refused write in a row, of those that began after the first was refused, says that it is the device and
// not the place or the moment.
inline constexpr unsigned failures_in_a_row_max = 2;

inline constexpr std::uint32_t segment_bytes_min = 256U << 10;
inline constexpr std::uint32_t segment_bytes_max = 1U << 30;
inline constexpr std::uint32_t segment_granule = 64U << 10;
inline constexpr std::uint32_t segment_count_min = 8;
inline constexpr std::uint32_t segment_count_max = 16384; // the bitmap of bad slots in a superblock
// Free segments that new mail cannot begin on: 5 %, at least this many.
inline constexpr std::uint32_t accept_reserve_min = 4;
inline constexpr std::uint32_t accept_reserve_percent = 5;
// When the spool fills (pressure.h; docs/operating.md). Each level is left this much below where it is
// reached, and the levels of segments are as far apart.
inline constexpr unsigned pressure_step_percent = 5;
inline constexpr unsigned pressure_used_percent = 80;
inline constexpr std::chrono::seconds pressure_time_min{600};
// A pool that is emptier than that is never called full soon: a small one fills and empties in minutes.
inline constexpr unsigned pressure_time_used_min = 50;
inline constexpr std::chrono::seconds pressure_rate_over{60};
inline constexpr std::chrono::milliseconds pressure_sample_min{250};
// A write that has not come back after this: commits are answered 451, connections 421.
inline constexpr std::chrono::seconds stuck_write{10};
// Free segments that only status, completion and collection may take, beside those of the next checkpoint: one to
// copy a full segment into, one because the copy's frames fall differently.
inline constexpr std::uint32_t essential_margin = 2;
// The last free segments are for a checkpoint, which gives others back, and so many more for going on after a crash:
// the log takes one of them only when a checkpoint has just been written and gave none back.
inline constexpr std::uint32_t restart_margin = 1;
// Collection starts when so many more than the accept reserve are left.
inline constexpr std::uint32_t collect_margin = 2;

inline constexpr std::uint32_t small_slab_bytes = 4096;
inline constexpr std::uint32_t large_slab_bytes = 32768;
// Most mail is a few KiB: two small slabs hold it, and only larger mail takes large ones.
inline constexpr std::size_t small_slabs_per_message = 2;
// Above this share of memory in use a new message's content is not kept after its commit.
inline constexpr unsigned resident_keep_percent = 75;

inline constexpr std::size_t envelope_bytes_max = 400U << 10; // about 3,000 recipients
inline constexpr std::size_t envelope_text_bytes_max = 65535; // one field's length on disk
inline constexpr std::size_t last_error_bytes_max = 512;
// Different last errors kept in memory at a time; those beyond are cut to this many bytes: "451 4.7.1".
inline constexpr std::size_t error_texts_max = 65536;
inline constexpr std::size_t error_code_bytes = 9;
inline constexpr std::size_t recipients_max = 65535;

// Messages that are read back for delivery at a time. Enough to keep a device busy; new mail, which
// seldom needs it, has some to itself.
inline constexpr std::size_t loads_in_flight_max = 64;
inline constexpr std::size_t loads_for_fresh_min = 16;
// Up to this size a message is read back with its content, memory permitting; of others the head first.
inline constexpr std::uint32_t load_whole_bytes_max = 96U << 10;
inline constexpr std::uint32_t load_head_bytes = 8192;
// A message that the device did not give back is asked for again after this.
inline constexpr std::chrono::seconds load_retry{60};
// Entries of the schedule looked at in one turn.
inline constexpr std::uint32_t schedule_steps_per_turn_max = 2048;

// Messages given to the sink, records of ends and statuses, index slots walked and the like in one turn.
inline constexpr std::size_t handouts_per_turn_max = 1024;
inline constexpr std::size_t marks_per_turn_max = 8192;
inline constexpr std::size_t index_slots_per_turn_max = 8192;
// A checkpoint's part: what one turn encodes.
inline constexpr std::uint32_t checkpoint_entries_per_part = 2048;
inline constexpr std::size_t checkpoint_part_bytes_max = 128U << 10;
// An entry of a checkpoint has 97 bytes with one recipient, and names that it may share with others. So much room is
// kept for it before one has been written, which tells.
inline constexpr std::uint64_t checkpoint_entry_bytes = 160;
inline constexpr std::uint64_t checkpoint_end_bytes = 16U << 10;
// A checkpoint is not worth it before the log has grown by this many times its own size.
inline constexpr std::uint64_t checkpoint_log_factor = 20;
// From this many segments on checkpoints and collected mail have segments apart, so that a start need not
// read the one to find the other.
inline constexpr std::uint32_t side_segments_apart_min = 64;
inline constexpr std::size_t recovery_reads_in_flight = 16;
// Scrub: all queued mail is read once in this time, at this pace at least, so much at once, and the records of
// so many are looked up in one walk over the index.
inline constexpr std::chrono::hours scrub_interval{24};
inline constexpr std::uint64_t scrub_bytes_per_s_min = 1U << 20;
inline constexpr std::uint32_t scrub_window_bytes = 256U << 10;
inline constexpr std::size_t scrub_records_max = 65536;
inline constexpr std::uint32_t collect_window_bytes = 1U << 20; // read at once by the collector
// Segments whose survivors one walk over the index looks for.
inline constexpr std::size_t collect_segments_max = 8;
// How long a checkpoint or a copy waits for a segment before it is given up.
inline constexpr std::chrono::seconds side_segment_wait{1};
// Per cent of a segment that may be alive for it to be collected: early on, and when space is short. What
// is fuller costs more writing than it wins, and empties by itself in time.
inline constexpr unsigned collect_fill_early = 20;
inline constexpr unsigned collect_fill_max = 90;

} // namespace queue
