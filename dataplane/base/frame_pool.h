// frame_pool.h: memory for coroutine frames, recycled so that a warm shard never calls malloc.
//
// Owns       Free lists by size class, one set per thread; they are returned at thread exit.
// Threading  A frame goes to the free list of the thread that destroys it. Shards never trade frames,
//            so in practice it is the thread that made it.
// Failure    Out of memory ends the process, as operator new does.
#pragma once

#include <cstddef>

namespace dataplane::base {

/// AddressSanitizer must see each frame's life, so its builds do not recycle them.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool frames_are_pooled = false;
#else
inline constexpr bool frames_are_pooled = true;
#endif

[[nodiscard]] void* allocate_frame(std::size_t bytes);
void release_frame(void* frame, std::size_t bytes) noexcept;

} // namespace dataplane::base
