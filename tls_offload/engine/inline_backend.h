// inline_backend.h: private-key operations on the shard itself: the last of every chain.
//
// Scope      Runs a kernel in poll(), as much per call as keeps a turn short.
// Owns       Its jobs, inline_jobs_max of them.
// Threading  The shard's.
// Failure    Fails an operation only when OpenSSL does.
#pragma once

#include "tls_offload/engine/backend.h"
#include "tls_offload/engine/kernel.h"

#include <memory>

namespace tls_offload::offload {

inline constexpr std::size_t inline_jobs_max = 16;

/// \param kernel  null: OpenSSL's own   \param name  a literal; what reports call it
[[nodiscard]] std::unique_ptr<Backend> make_inline_backend(std::unique_ptr<Kernel> kernel = nullptr,
                                                           std::string_view name = "inline");

} // namespace tls_offload::offload
