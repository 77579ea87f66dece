// ref.h: a reference-counted pointer for objects of one shard.
//
// Scope      Ref<T> where T derives from RefCounted<T>; when the last reference goes, T::retire() says
//            what happens (usually: back to a free list).
// Threading  Bound to one shard: counts are plain integers.
#pragma once

#include "dataplane/base/check.h"

#include <cstdint>
#include <utility>

namespace dataplane::base {

template <class T>
class Ref;

template <class T>
class RefCounted {
public:
    RefCounted() = default;
    RefCounted(const RefCounted&) = delete;
    RefCounted& operator=(const RefCounted&) = delete;
    [[nodiscard]] std::uint32_t reference_count() const noexcept { return references_; }

protected:
    ~RefCounted() = default;

private:
    friend class Ref<T>;
    std::uint32_t references_ = 0;
};

template <class T>
class Ref {
public:
    Ref() noexcept = default;
    explicit Ref(T* object) noexcept : object_(object) {
        if (object_ != nullptr) ++object_->RefCounted<T>::references_;
    }
    Ref(const Ref& other) noexcept : Ref(other.object_) {}
    Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Ref& operator=(Ref other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~Ref() { reset(); }
    void reset() noexcept {
        T* object = std::exchange(object_, nullptr);
        if (object != nullptr && --object->RefCounted<T>::references_ == 0) object->retire();
    }
    [[nodiscard]] T* get() const noexcept { return object_; }
    T& operator*() const noexcept { return *object_; }
    T* operator->() const noexcept { return object_; }
    [[nodiscard]] explicit operator bool() const noexcept { return object_ != nullptr; }
    friend bool operator==(const Ref& a, const Ref& b) noexcept { return a.object_ == b.object_; }

private:
    T* object_ = nullptr;
};

} // namespace dataplane::base
