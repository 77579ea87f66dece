// mirror_half.h: whether a pool file is half of a mirror, and whether its mail can be believed.
//
// Scope      Reads a file's records of its mirror, and settles two halves as the relay would at its start. Which of
//            spool_dir and mirror_dir a half is, the records do not say.
// Threading  One thread.
#pragma once

#include "queue/disk/mirror_record.h"
#include "queue/tool/pool_file.h"

#include <string>
#include <string_view>

namespace queue::tool {

struct MirrorStanding {
    enum class State : std::uint8_t {
        none,   // not half of a mirror
        paired, // had everything when its record was written; the other may have gone on without it
        alone,  // the other has missed mail
        stale,  // this one has missed mail
        unreadable, // it is half of a mirror, and its records are damaged
        undecided,  // of two files: the relay would refuse to start
    };
    State state = State::none;
    MirrorHalf half;
    std::string text; // for people: what it means and what to do; empty: not half of a mirror
    [[nodiscard]] bool believed() const noexcept { return state != State::stale; }
};

[[nodiscard]] std::string_view to_string(MirrorStanding::State state) noexcept;

[[nodiscard]] MirrorStanding standing_of(const PoolFile& pool);
/// With the other half at hand what only both can tell is told, too.
[[nodiscard]] MirrorStanding standing_of(const PoolFile& pool, const PoolFile& other);

} // namespace queue::tool
