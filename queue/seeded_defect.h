// seeded_defect.h: mistakes that the tests of the spool must notice.
//
// Scope      Names, and the question whether one is made now. In the product the answer is the constant false,
//            so that nothing of it is left in the code; tests/queue builds this library a second time with
//            MILLRACE_SEEDED_DEFECTS and turns them on one by one. docs/reliability.md says which run of the
//            simulation catches each.
// Threading  The switch is set before anything runs.
#pragma once

#include <cstdint>

namespace queue {

enum class SeededDefect : std::uint8_t {
    none,
    drop_dsync,          // every eighth batch is written without DSYNC
    ack_on_submit,       // success is told when the write has begun
    ignore_short_write,  // a short write counts as a whole one
    swallow_store_error, // a refused write is reported as durable
    forget_salvage,      // statuses and completions of a refused batch are not written again
    forget_failed_batch, // the watermark passes a refused batch
    skip_header_barrier, // a segment's header need not be durable before its first frame
    reuse_generation,    // a boot begins with the segment numbers of the one before
    reuse_lsn,           // a boot begins with the LSNs of the one before
    reuse_epoch,         // a boot has the epoch of the one before
    recycle_too_early,   // a slot is overwritten before the completions that freed it are durable
    retire_too_early,    // and one that has gone bad is not read any more before they are
    recycle_under_copy,  // the collector drops the original before its copy is durable
    swallow_copy_error,  // and also when the copy was refused
    free_out_of_order,   // slots are freed in any order, although no checkpoint covers them
    stale_crc_seed,      // checksums do not depend on the segment's generation
    unchecked_payload,   // a payload's checksum is not compared
    stop_at_first_hole,  // the scan of a segment ends where the first block makes no sense
    truncate_tail,       // what follows a torn frame is left out
    drop_damaged_batch,  // one damaged record takes its frame along
    older_status_wins,   // the last one read counts, not the newest
    status_delta,        // a status is added to what the checkpoint says
    skip_checkpoint_end, // the checkpoint's last record is believed without its checksum
    checkpoint_position_late,  // the log is read from where it is when the checkpoint ends
    checkpoint_passes_pending, // records that the index does not have yet are not waited for
    checkpoint_covers_all,     // completions behind the checkpoint's begin are said to be in it
    superblock_at_once,        // all copies in one write
    retry_failed_flush,        // a flush that failed is tried again and then believed
    forget_abort,              // a refused message whose record was submitted is not marked as such
    forget_reserve,            // new mail may take the last segments
    forget_chunks,             // a finished message's chunks stay alive
    tell_nothing,              // batches that are missing at a start are not counted
    forget_place,              // an ended message's place in the index is not used again
    tomb_before_report,        // a message ends before the report on it is durable (delivery)
    mirror_lazy_half, // acknowledged when one half has it: the other's write is not durable
    mirror_keeps_refused_half, // a half that refused a write counts as before
    mirror_blind_copy,         // one half is copied over the other, whatever is whole on it
    mirror_one_superblock,     // the superblock is chosen from one half
    mirror_first_generation,   // of two generations of a segment that of the first half counts
    mirror_one_half_read, // a record that does not check out is not looked for on the other half
};

#ifdef MILLRACE_SEEDED_DEFECTS
inline SeededDefect seeded_defect = SeededDefect::none;
#define SEEDED_DEFECT(name) (::queue::seeded_defect == ::queue::SeededDefect::name)
#else
#define SEEDED_DEFECT(name) false
#endif

} // namespace queue
