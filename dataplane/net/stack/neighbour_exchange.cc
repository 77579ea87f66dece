#include "dataplane/net/stack/neighbour_exchange.h"

#include <algorithm>

namespace dataplane::net::stack {

class NeighbourExchange::Box final : public base::Inbox {
public:
    bool drain() override {
        bool any = false;
        for (base::SpscRing<News>* ring : from) {
            for (std::size_t left = ring->size(); left > 0; --left) {
                const auto news = ring->pop();
                if (news && stack != nullptr) stack->learn(news->ip, news->mac);
                any = true;
            }
        }
        return any;
    }
    [[nodiscard]] bool pending() const noexcept override {
        return std::ranges::any_of(from, [](const auto* ring) { return ring->size() > 0; });
    }
    Stack* stack = nullptr;
    std::vector<base::SpscRing<News>*> from;
    std::vector<base::SpscRing<News>*> to;
};

NeighbourExchange::NeighbourExchange(unsigned shard_count, std::size_t ring_entries) {
    for (unsigned shard = 0; shard < shard_count; ++shard)
        boxes_.push_back(std::make_unique<Box>());
    for (unsigned from = 0; from < shard_count; ++from) {
        for (unsigned to = 0; to < shard_count; ++to) {
            if (from == to) continue;
            rings_.push_back(std::make_unique<base::SpscRing<News>>(ring_entries));
            boxes_[from]->to.push_back(rings_.back().get());
            boxes_[to]->from.push_back(rings_.back().get());
        }
    }
}

NeighbourExchange::~NeighbourExchange() = default;

void NeighbourExchange::attach(unsigned shard, Stack& stack) {
    Box& box = *boxes_[shard];
    box.stack = &stack;
    stack.on_learned([&box](const base::IpAddress& ip, const MacAddress& mac) {
        for (base::SpscRing<News>* ring : box.to) {
            // A full ring: the other shard asks for itself when it needs to know.
            static_cast<void>(ring->push(News{ip, mac}));
        }
    });
}

base::Inbox& NeighbourExchange::inbox(unsigned shard) noexcept {
    return *boxes_[shard];
}

} // namespace dataplane::net::stack
