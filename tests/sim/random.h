// random.h: the dice of the simulation: a seed, and a stream of its own for every actor.
//
// Scope      splitmix64, and the few draws the simulation makes. Actors do not share a stream, so that one
//            more draw of one of them does not change all others.
#pragma once

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <iterator>

namespace tests::sim {

class Random {
public:
    Random(std::uint64_t seed, std::uint64_t stream) noexcept
        : state_(seed * 0x9e3779b97f4a7c15ULL + stream) {
        state_ = next() ^ stream << 32;
    }
    std::uint64_t next() noexcept {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15ULL;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
        return z ^ z >> 31;
    }
    /// 0 to count - 1.
    std::uint64_t below(std::uint64_t count) noexcept { return next() % count; }
    /// Both ends included.
    std::uint64_t between(std::uint64_t low, std::uint64_t high) noexcept {
        return low + below(high - low + 1);
    }
    bool chance(unsigned percent) noexcept { return below(100) < percent; }
    template <class Value>
    Value pick(std::initializer_list<Value> values) noexcept {
        return *std::next(values.begin(), static_cast<std::ptrdiff_t>(below(values.size())));
    }
    std::chrono::milliseconds time(std::chrono::milliseconds low,
                                   std::chrono::milliseconds high) noexcept {
        return std::chrono::milliseconds{static_cast<std::int64_t>(between(
            static_cast<std::uint64_t>(low.count()), static_cast<std::uint64_t>(high.count())))};
    }

private:
    std::uint64_t state_;
};

} // namespace tests::sim
