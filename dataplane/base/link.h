// link.h: the intrusive doubly linked list under every wait and every put-off piece of work.
//
// Scope      A Link is an element or, after make_head(), the list itself: circular, so that an
//            element leaves its list without knowing which list it is in.
// Owns       Nothing. Whoever embeds a Link unlinks it before it dies.
#pragma once

namespace dataplane::base::detail {

struct Link {
    Link* next = nullptr;
    Link* prev = nullptr;

    void make_head() noexcept { next = prev = this; }
    [[nodiscard]] bool alone() const noexcept { return next == this; }
    [[nodiscard]] bool linked() const noexcept { return next != nullptr; }
    void unlink() noexcept {
        if (next == nullptr) return;
        next->prev = prev;
        prev->next = next;
        next = prev = nullptr;
    }
    /// Joins the list at its end when `position` is its head.
    void link_before(Link& position) noexcept {
        next = &position;
        prev = position.prev;
        position.prev->next = this;
        position.prev = this;
    }
};

} // namespace dataplane::base::detail
