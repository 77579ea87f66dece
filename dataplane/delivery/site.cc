#include "dataplane/delivery/site.h"

#include "dataplane/delivery/limits.h"

#include <algorithm>

namespace dataplane::delivery {

ReadyQueue::Tenant& ReadyQueue::tenant(std::string_view name) {
    const auto known = tenants_.find(name);
    if (known != tenants_.end()) return *known->second;
    return *tenants_.emplace(std::string{name}, std::make_unique<Tenant>()).first->second;
}

void ReadyQueue::push(Job& job, std::string_view tenant_name) {
    Tenant& owner = tenant(tenant_name);
    job.next = nullptr;
    ++size_;
    if (owner.first != nullptr) {
        owner.last->next = &job;
        owner.last = &job;
        return;
    }
    owner.first = owner.last = &job;
    owner.next = nullptr;
    (last_ != nullptr ? last_->next : first_) = &owner;
    last_ = &owner;
}

void ReadyQueue::push_front(Job& job, std::string_view tenant_name) {
    Tenant& owner = tenant(tenant_name);
    const bool listed = owner.first != nullptr;
    job.next = owner.first;
    owner.first = &job;
    if (owner.last == nullptr) owner.last = &job;
    ++size_;
    if (listed) return; // its turn comes with the jobs it has
    owner.next = first_;
    first_ = &owner;
    if (last_ == nullptr) last_ = &owner;
}

Job* ReadyQueue::pop() noexcept {
    Tenant* owner = first_;
    if (owner == nullptr) return nullptr;
    first_ = owner->next;
    if (first_ == nullptr) last_ = nullptr;

    Job* job = owner->first;
    owner->first = job->next;
    job->next = nullptr;
    --size_;
    if (owner->first == nullptr) {
        owner->last = nullptr;
        return job;
    }
    owner->next = nullptr;
    (last_ != nullptr ? last_->next : first_) = owner;
    last_ = owner;
    return job;
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
