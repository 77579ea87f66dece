// crew.h: spawns the simulated world's own tasks and knows how many are alive, so that whatever else lives
// on the loop after the relay has stopped is the relay's, and a leak.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/task.h"

#include <cstddef>
#include <utility>

namespace tests::sim {

namespace base = dataplane::base;

class Crew {
public:
    explicit Crew(base::Loop& loop) noexcept : loop_(loop) {}
    void spawn(base::Task<void> task) {
        loop_.spawn(watched(std::move(task), Mark{alive_}), "sim");
    }
    [[nodiscard]] std::size_t alive() const noexcept { return alive_; }

private:
    struct Mark {
        explicit Mark(std::size_t& count) noexcept : alive(&count) { ++*alive; }
        Mark(Mark&& other) noexcept : alive(std::exchange(other.alive, nullptr)) {}
        Mark& operator=(Mark&&) = delete;
        ~Mark() {
            if (alive != nullptr) --*alive;
        }
        std::size_t* alive;
    };
    static base::Task<void> watched(base::Task<void> task, [[maybe_unused]] Mark mark) {
        co_await std::move(task);
    }

    base::Loop& loop_;
    std::size_t alive_ = 0;
};

} // namespace tests::sim
