#include "queue/record_reader.h"

#include "queue/core.h"
#include "queue/disk/crc32c.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <cstring>

namespace queue {

class RecordReader::Hold {
public:
    Hold(RecordReader& reader, Job& job) noexcept : reader_(reader), job_(job) {}
    ~Hold() {
        if (job_.done) {
            reader_.give_back(job_);
        } else {
            job_.abandoned = true;
        }
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

private:
    RecordReader& reader_;
    Job& job_;
};

RecordReader::~RecordReader() = default;

RecordReader::Job& RecordReader::take_job() {
    if (free_.empty()) {
        jobs_.push_back(std::make_unique<Job>());
        free_.push_back(jobs_.back().get());
    }
    Job& job = *free_.back();
    free_.pop_back();
    job.abandoned = false;
    return job;
}

void RecordReader::give_back(Job& job) noexcept {
    for (std::size_t i = 0; i < job.slab_count; ++i)
        job.slabs[i].reset();
    job.slab_count = 0;
    free_.push_back(&job);
}

base::Task<SpoolResult<base::SlabChain>> RecordReader::read(MessageId id, Place place,
                                                            std::uint32_t payload_bytes,
                                                            std::uint32_t from, std::uint32_t bytes,
                                                            base::Deadline deadline, Check check) {
    CHECK(from + bytes <= payload_bytes);
    const std::uint32_t skew = place.offset % block_bytes;
    const std::uint32_t record_bytes =
        core_.log().segments().record_bytes_in(place.slot, payload_bytes);
    const std::uint32_t read_bytes =
        check == Check::payload ? record_bytes : record_header_bytes + from + bytes;
    const std::size_t slab_count = (skew + read_bytes + large_slab_bytes - 1) / large_slab_bytes;
    CHECK(slab_count <= slabs_max);
    while (core_.large_slabs().free_count() <
           slab_count) { // all at once, so that two never starve each other
        const base::Wake woken = co_await core_.read_wait().wait(core_.loop(), deadline);
        if (woken == base::Wake::cancelled) co_return std::unexpected(SpoolError::cancelled);
        if (woken == base::Wake::timed_out) co_return std::unexpected(SpoolError::overloaded);
    }
    Job& job = take_job();
    job.id = id;
    job.place = place;
    job.payload_bytes = payload_bytes;
    job.record_bytes = record_bytes;
    job.skew = skew;
    job.read_bytes = read_bytes;
    job.check = check;
    for (std::size_t i = 0; i < slab_count; ++i)
        job.slabs[i] = core_.large_slabs().take();
    job.slab_count = slab_count;
    start(job, 0);

    const Hold hold{*this, job};
    unsigned copies = core_.disk().copies();
    for (unsigned copy = 1;; ++copy) {
        while (!job.done) {
            const base::Wake woken = co_await job.wait.wait(core_.loop(), deadline);
            if (job.done || woken == base::Wake::event) continue;
            co_return std::unexpected(woken == base::Wake::cancelled ? SpoolError::cancelled
                                                                     : SpoolError::timed_out);
        }
        if (job.result && copy > 1) core_.count_mended();
        if (job.result || SEEDED_DEFECT(mirror_one_half_read)) break;
        const unsigned copies_now = core_.disk().copies();
        if (copies_now < copies) {
            // The half that was asked first may be the one that was left behind: begin again.
            copies = copies_now;
            copy = 0;
        } else if (copy >= copies_now) {
            break;
        }
        start(job, copy);
    }
    if (!job.result) co_return std::unexpected(job.result.error());
    base::SlabChain chain;
    for_range(job, record_header_bytes + from, bytes,
              [&](std::size_t slab, std::uint32_t offset, std::uint32_t length) {
                  chain.push({job.slabs[slab], offset, length});
              });
    co_return chain;
}

template <class Visit>
void RecordReader::for_range(const Job& job, std::uint32_t from, std::uint32_t bytes,
                             Visit&& visit) {
    std::uint32_t at = job.skew + from;
    while (bytes > 0) {
        const std::uint32_t offset = at % large_slab_bytes;
        const std::uint32_t length = std::min(bytes, large_slab_bytes - offset);
        visit(at / large_slab_bytes, offset, length);
        at += length;
        bytes -= length;
    }
}

void RecordReader::start(Job& job, unsigned copy) {
    job.done = false;
    job.result = {};
    std::uint64_t from =
        core_.log().segments().begin_of(job.place.slot) + job.place.offset - job.skew;
    std::uint32_t left = job.skew + job.read_bytes;
    left = static_cast<std::uint32_t>((left + block_bytes - 1) / block_bytes * block_bytes);
    job.parts_open = job.slab_count;
    for (std::size_t i = 0; i < job.slab_count; ++i) {
        const std::uint32_t bytes = std::min(left, large_slab_bytes);
        job.parts[i] = read_part(job, copy, i, from, bytes);
        from += bytes;
        left -= bytes;
    }
    for (std::size_t i = 0; i < job.slab_count; ++i)
        job.parts[i].start();
}

base::Task<void> RecordReader::read_part(Job& job, unsigned copy, std::size_t part,
                                         std::uint64_t from, std::uint32_t bytes) {
    const std::span<std::byte> to{job.slabs[part].data(), bytes};
    Disk& disk = core_.disk();
    base::Task<std::expected<void, DiskError>> reading =
        copy == 0 ? disk.read(from, to) : disk.read_copy(copy, from, to);
    auto read = co_await std::move(reading);
    if (!read) job.result = std::unexpected(SpoolError::read_failed);
    if (--job.parts_open == 0) end(job);
}

void RecordReader::end(Job& job) {
    if (!job.result) {
        core_.count_read_error();
    } else {
        job.result = check(job);
    }
    job.done = true;
    job.wait.wake_all();
    if (job.abandoned) give_back(job);
}

SpoolResult<> RecordReader::check(const Job& job) noexcept {
    std::array<std::byte, record_header_bytes> header_bytes;
    std::size_t copied = 0;
    for_range(job, 0, record_header_bytes,
              [&](std::size_t slab, std::uint32_t offset, std::uint32_t length) {
                  std::memcpy(header_bytes.data() + copied, job.slabs[slab].data() + offset,
                              length);
                  copied += length;
              });
    const Log& log = core_.log();
    const RecordSeeds seeds =
        record_seeds(log.seed(), log.segments().seq_of(job.place.slot), job.place.offset);
    auto header = decode_record_header(header_bytes, job.record_bytes, seeds);
    if (!header || header->id != job.id || header->payload_bytes != job.payload_bytes)
        return std::unexpected(SpoolError::damaged);
    if (job.check == Check::header) {
        if (!decrypt(job, *header)) return std::unexpected(SpoolError::forged);
        return {};
    }
    std::uint32_t crc = seeds.payload;
    for_range(job, record_header_bytes, header->stored_bytes(),
              [&](std::size_t slab, std::uint32_t offset, std::uint32_t length) {
                  crc = crc32c(crc, {job.slabs[slab].data() + offset, length});
              });
    if (crc != header->payload_crc) return std::unexpected(SpoolError::damaged);
    if (!decrypt(job, *header)) return std::unexpected(SpoolError::forged);
    return {};
}

/// What was read of the payload, in place. False when it is not what its segment says or does not open.
bool RecordReader::decrypt(const Job& job, const RecordHeader& header) noexcept {
    const SegmentTable& segments = core_.log().segments();
    if (header.encrypted() != segments.encrypted(job.place.slot)) return false;
    if (!header.encrypted()) return true;
    const std::optional<DataKey>& key = segments.key_of(job.place.slot);
    if (!key) return false;
    RecordCipher& cipher = core_.log().cipher();
    cipher.begin_open({*key, segments.seq_of(job.place.slot), job.place.offset, header});
    const bool whole = job.check == Check::payload;
    for_range(job, record_header_bytes,
              whole ? job.payload_bytes : job.read_bytes - record_header_bytes,
              [&](std::size_t slab, std::uint32_t offset, std::uint32_t length) {
                  std::byte* const bytes = job.slabs[slab].data() + offset;
                  cipher.open({bytes, length}, bytes);
              });
    if (!whole) return true;
    std::array<std::byte, record_tag_bytes> tag;
    std::size_t copied = 0;
    for_range(job, record_header_bytes + job.payload_bytes, record_tag_bytes,
              [&](std::size_t slab, std::uint32_t offset, std::uint32_t length) {
                  std::memcpy(tag.data() + copied, job.slabs[slab].data() + offset, length);
                  copied += length;
              });
    return cipher.end_open(tag);
}

} // namespace queue
