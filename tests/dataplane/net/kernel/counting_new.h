// counting_new.h: how often operator new was called in a binary that links counting_new.cc.
#pragma once

#include <cstdint>

namespace dataplane::net::kernel {

[[nodiscard]] std::uint64_t allocation_count() noexcept;

} // namespace dataplane::net::kernel
