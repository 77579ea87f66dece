#include "dataplane/delivery/site.h"

#include "dataplane/delivery/limits.h"

#include <algorithm>

namespace dataplane::delivery {

std::uint32_t ReadyQueue::cost_of(std::uint64_t bytes) noexcept {
    constexpr std::uint64_t unit = 4096, most = 64;
    return static_cast<std::uint32_t>(std::min(1 + bytes / unit, most));
}

ReadyQueue::Tenant& ReadyQueue::tenant(const Job& job, std::string_view name) {
    auto& tenants = tenants_[job.fresh ? 0 : 1];
    const auto known = tenants.find(name);
    if (known != tenants.end()) return *known->second;
    return *tenants.emplace(std::string{name}, std::make_unique<Tenant>()).first->second;
}

void ReadyQueue::push(Job& job, std::string_view tenant_name) {
    Tenant& owner = tenant(job, tenant_name);
    Ring& own = ring(job);
    job.next = nullptr;
    ++own.size;
    if (owner.first != nullptr) {
        owner.last->next = &job;
        owner.last = &job;
        return;
    }
    owner.first = owner.last = &job;
    owner.next = nullptr;
    (own.last != nullptr ? own.last->next : own.first) = &owner;
    own.last = &owner;
}

void ReadyQueue::push_front(Job& job, std::string_view tenant_name) {
    Tenant& owner = tenant(job, tenant_name);
    Ring& own = ring(job);
    const bool listed = owner.first != nullptr;
    job.next = owner.first;
    owner.first = &job;
    if (owner.last == nullptr) owner.last = &job;
    ++own.size;
    if (listed) return; // its turn comes with the jobs it has
    owner.next = own.first;
    own.first = &owner;
    if (own.last == nullptr) own.last = &owner;
}

Job* ReadyQueue::pop() noexcept {
    constexpr unsigned turns = 4, retry_turn = 3;
    turn_ = (turn_ + 1) % turns;
    const std::size_t wanted = turn_ == retry_turn ? 1 : 0;
    return pop(rings_[rings_[wanted].size > 0 ? wanted : 1 - wanted]);
}

Job* ReadyQueue::pop(Ring& ring) noexcept {
    constexpr std::uint32_t quantum = 1; // so small mail goes one by one
    if (ring.first == nullptr) return nullptr;
    while (ring.first->deficit < ring.first->first->cost) {
        Tenant* waits = ring.first;
        waits->deficit += quantum;
        if (waits->next == nullptr) continue; // alone
        ring.first = waits->next;
        waits->next = nullptr;
        ring.last->next = waits;
        ring.last = waits;
    }
    Tenant* owner = ring.first;
    Job* job = owner->first;
    owner->deficit -= job->cost;
    owner->first = job->next;
    job->next = nullptr;
    --ring.size;
    if (owner->first == nullptr) { // what it has left of its turn is lost
        owner->last = nullptr;
        owner->deficit = 0;
        ring.first = owner->next;
        if (ring.first == nullptr) ring.last = nullptr;
        owner->next = nullptr;
    }
    return job;
}

Lane::~Lane() {
    if (slots) want(SiteLedger::Entry::Want::nothing);
    if (parking != queue::no_site) queue.leave(parking);
}

Site::HostNote* Site::note(const base::SocketAddress& address) noexcept {
    const auto found = std::ranges::find(notes, address, &HostNote::address);
    return found == notes.end() ? nullptr : &*found;
}

Site::HostNote& Site::make_note(const base::SocketAddress& address) {
    if (HostNote* known = note(address)) return *known;
    if (notes.size() >= host_notes_max) notes.erase(notes.begin());
    notes.push_back({address});
    return notes.back();
}

} // namespace dataplane::delivery
