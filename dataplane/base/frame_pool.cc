#include "dataplane/base/frame_pool.h"

#include <array>
#include <new>

namespace dataplane::base {
namespace {

constexpr std::size_t class_bytes = 32;
constexpr std::size_t class_count = 256; // frames up to 8 KiB; larger ones are rare and go to malloc

struct FreeFrame {
    FreeFrame* next;
};

struct FreeLists {
    std::array<FreeFrame*, class_count> heads{};
    ~FreeLists() {
        for (FreeFrame* head : heads) {
            while (head != nullptr) {
                FreeFrame* next = head->next;
                ::operator delete(head);
                head = next;
            }
        }
    }
};

thread_local FreeLists free_lists;

constexpr std::size_t class_of(std::size_t bytes) {
    return (bytes + class_bytes - 1) / class_bytes;
}

} // namespace

void* allocate_frame(std::size_t bytes) {
    const std::size_t index = class_of(bytes);
    if (!frames_are_pooled || index >= class_count) return ::operator new(bytes);
    if (FreeFrame* frame = free_lists.heads[index]; frame != nullptr) {
        free_lists.heads[index] = frame->next;
        return frame;
    }
    return ::operator new(index * class_bytes);
}

void release_frame(void* frame, std::size_t bytes) noexcept {
    const std::size_t index = class_of(bytes);
    if (!frames_are_pooled || index >= class_count) {
        ::operator delete(frame);
        return;
    }
    auto* free_frame = static_cast<FreeFrame*>(frame);
    free_frame->next = free_lists.heads[index];
    free_lists.heads[index] = free_frame;
}

} // namespace dataplane::base
