#include "dataplane/net/stack/tcb.h"

#include "dataplane/base/frame_pool.h"
#include "dataplane/net/stack/engine.h"

#include <memory>
#include <new>

namespace dataplane::net::stack {

Tcb::Tcb(Engine& owner, tcp::Environment& environment, std::uint32_t number) noexcept
    : index(number), connection(environment), engine(owner) {}

Tcb::~Tcb() {
    if (info == nullptr) return;
    std::destroy_at(info);
    base::release_frame(info, sizeof(base::StreamInfo));
}

base::StreamInfo& Tcb::stream_info() {
    if (info == nullptr) {
        info = new (base::allocate_frame(sizeof(base::StreamInfo))) base::StreamInfo{};
        info->local = {key.local, key.local_port};
        info->peer = info->client = {key.remote, key.remote_port};
    }
    return *info;
}

void Tcb::retire() noexcept {
    engine.give_back(*this);
}

} // namespace dataplane::net::stack
