#include "dataplane/base/mailbox.h"

#include <cerrno>
#include <cstdint>
#include <sys/eventfd.h>
#include <system_error>
#include <unistd.h>

namespace dataplane::base {

Wakeup::Wakeup() : descriptor_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Wakeup::~Wakeup() { close(descriptor_); }

void Wakeup::signal() noexcept {
    // Orders the message before the look at asleep_; the shard does the two in the other order.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!asleep_.load(std::memory_order_relaxed)) return;
    const std::uint64_t one = 1;
    static_cast<void>(!write(descriptor_, &one, sizeof one)); // full means it is signalled already
}

} // namespace dataplane::base
