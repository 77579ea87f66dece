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
// Buffers: the writes in flight, the open batch, and some that wait for a slow device.
inline constexpr std::size_t batch_buffer_count = 6;
// An unfilled batch is held back while this many writes are in flight: what comes meanwhile joins it.
inline constexpr unsigned natural_writes_in_flight = 2;
// A status or completion record waits this long for company before it is written alone.
inline constexpr std::chrono::milliseconds lazy_flush{5};
// After this much silence the last batches' durability is written down, so that recovery can tell
// rot from a torn tail.
inline constexpr std::chrono::milliseconds watermark_idle{100};
// The second refused write in a row says that it is the device and not the place.
inline constexpr unsigned failures_in_a_row_max = 2;

inline constexpr std::uint32_t segment_bytes_min = 256U << 10;
inline constexpr std::uint32_t segment_bytes_max = 1U << 30;
inline constexpr std::uint32_t segment_granule = 64U << 10;
inline constexpr std::uint32_t segment_count_min = 8;
inline constexpr std::uint32_t segment_count_max = 16384; // the bitmap of bad slots in a superblock
// Free segments that new mail cannot begin on: 5 %, at least this many.
inline constexpr std::uint32_t accept_reserve_min = 3;
inline constexpr std::uint32_t accept_reserve_percent = 5;
// Free segments that only status, completion and collection may take: one to copy a full segment
// into, one because the copy's frames fall differently.
inline constexpr std::uint32_t essential_reserve = 2;
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
inline constexpr std::size_t recipients_max = 65535;

// Messages given to the sink, index slots walked and the like in one turn.
inline constexpr std::size_t handouts_per_turn_max = 1024;
inline constexpr std::size_t index_slots_per_turn_max = 8192;
inline constexpr std::uint32_t collect_window_bytes = 1U << 20; // read at once by the collector
inline constexpr std::size_t collect_records_max = 256;         // copied before it waits for them

} // namespace queue
