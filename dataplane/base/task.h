// task.h: Task<T>, the coroutine every dialogue is written as.
//
// Scope      A lazy coroutine with one awaiter: it starts when awaited and hands its value to whoever
//            awaits it. Loop::spawn starts one that nobody awaits.
// Owns       The frame, from frame_pool.h. Destroying a suspended Task destroys everything in it.
// Threading  Bound to the shard it was started on.
// Failure    Errors are values (std::expected). An exception that escapes a task ends the process:
//            exceptions are for start-up, and tasks run after it.
//
// A child that finishes without suspending returns to its parent by returning false from
// await_suspend, not by symmetric transfer: builds without tail calls (debug, sanitizers) would
// otherwise grow the stack with each such await in a loop.
#pragma once

#include "dataplane/base/check.h"
#include "dataplane/base/frame_pool.h"

#include <coroutine>
#include <cstddef>
#include <optional>
#include <utility>

namespace dataplane::base {

template <class T>
class Task;

namespace detail {

struct TaskPromiseBase {
    std::coroutine_handle<> continuation;
    bool starting = false; // still inside the parent's await_suspend

    struct FinalAwaiter {
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        template <class Promise>
        std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) noexcept {
            const TaskPromiseBase& promise = self.promise();
            if (promise.starting || !promise.continuation) return std::noop_coroutine();
            return promise.continuation;
        }
        void await_resume() const noexcept {}
    };

    static void* operator new(std::size_t bytes) { return allocate_frame(bytes); }
    static void operator delete(void* frame, std::size_t bytes) { release_frame(frame, bytes); }

    [[nodiscard]] std::suspend_always initial_suspend() const noexcept { return {}; }
    [[nodiscard]] FinalAwaiter final_suspend() const noexcept { return {}; }
    [[noreturn]] void unhandled_exception() const noexcept {
        check_failed("no exception escapes a Task", __FILE__, __LINE__);
    }
};

template <class T>
struct TaskPromise : TaskPromiseBase {
    std::optional<T> value;
    Task<T> get_return_object() noexcept;
    template <class U>
    void return_value(U&& result) {
        value.emplace(std::forward<U>(result));
    }
    T take() {
        CHECK(value.has_value());
        return std::move(*value);
    }
};

template <>
struct TaskPromise<void> : TaskPromiseBase {
    Task<void> get_return_object() noexcept;
    void return_void() const noexcept {}
    void take() const noexcept {}
};

} // namespace detail

template <class T = void>
class [[nodiscard]] Task {
public:
    using promise_type = detail::TaskPromise<T>;
    using Handle = std::coroutine_handle<promise_type>;

    Task() = default;
    explicit Task(Handle handle) noexcept : handle_(handle) {}
    Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Task& operator=(Task&& other) noexcept {
        if (this != &other) {
            reset();
            handle_ = std::exchange(other.handle_, nullptr);
        }
        return *this;
    }
    Task(const Task&) = delete;
    Task& operator=(const Task&) = delete;
    ~Task() { reset(); }

    [[nodiscard]] bool done() const noexcept { return !handle_ || handle_.done(); }

    auto operator co_await() && noexcept {
        struct Awaiter {
            Handle handle;
            [[nodiscard]] bool await_ready() const noexcept { return false; }
            bool await_suspend(std::coroutine_handle<> parent) {
                promise_type& promise = handle.promise();
                promise.continuation = parent;
                promise.starting = true;
                handle.resume();
                if (handle.done()) return false;
                promise.starting = false;
                return true;
            }
            T await_resume() { return handle.promise().take(); }
        };
        CHECK(handle_);
        return Awaiter{handle_};
    }

    /// Starts a task that nobody awaits: for Loop::spawn and tests.
    void start() {
        CHECK(handle_ && !handle_.done());
        handle_.resume();
    }
    /// The value of a finished task: for tests.
    T result() {
        CHECK(done());
        return handle_.promise().take();
    }

private:
    void reset() noexcept {
        if (handle_) handle_.destroy();
        handle_ = nullptr;
    }
    Handle handle_;
};

namespace detail {

template <class T>
Task<T> TaskPromise<T>::get_return_object() noexcept {
    return Task<T>{std::coroutine_handle<TaskPromise<T>>::from_promise(*this)};
}
inline Task<void> TaskPromise<void>::get_return_object() noexcept {
    return Task<void>{std::coroutine_handle<TaskPromise<void>>::from_promise(*this)};
}

} // namespace detail

} // namespace dataplane::base
