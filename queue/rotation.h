// rotation.h: gives the segments of earlier boots' keys to the operator's first key.
//
// Scope      After a start with a new first key: every segment whose key an older one wraps gets new header
//            blocks. Mail itself is not touched. When nothing is left the old key may be thrown away.
// Owns       The list of what is left.
// Threading  Bound to one shard.
// Failure    A header that cannot be written ends it until the next start; its other copy still holds, under
//            the old key.
//
// The two copies of a header are written one after the other, each durably, so that whatever a crash or a
// refused write leaves, one of them is whole; which of two keys it names is no matter while both are given.
#pragma once

#include "dataplane/base/task.h"
#include "queue/log.h"

#include <cstdint>
#include <deque>
#include <memory>

namespace queue {

class KeyRotation {
public:
    KeyRotation(Log& log, Disk& disk, std::shared_ptr<const KeyRing> keys) noexcept
        : log_(log), disk_(disk), keys_(std::move(keys)) {}
    KeyRotation(const KeyRotation&) = delete;
    KeyRotation& operator=(const KeyRotation&) = delete;

    /// At start: a segment whose key the first one does not wrap.
    void add(std::uint32_t slot, std::uint64_t segment_seq);
    /// Once it is known what lives.
    void start();
    void stop() noexcept { task_ = {}; }
    /// Segments that still need an older key.
    [[nodiscard]] std::size_t left() const noexcept { return left_.size(); }

private:
    struct Segment {
        std::uint32_t slot = 0;
        std::uint64_t seq = 0;
    };
    base::Task<void> run();
    base::Task<bool> wrap_again(Segment segment);
    base::Task<bool> write_header(Segment segment);
    [[nodiscard]] bool there(Segment segment) const noexcept;

    Log& log_;
    Disk& disk_;
    std::shared_ptr<const KeyRing> keys_;
    std::deque<Segment> left_;
    base::Task<void> task_;
};

} // namespace queue
