#include "tls_offload/engine/inline_backend.h"

#include "tls_offload/engine/key_state.h"
#include "tls_offload/engine/lane_batcher.h"

#include <array>
#include <cstring>
#include <vector>

namespace tls_offload::offload {
namespace {

class InlineBackend final : public Backend {
public:
    InlineBackend(std::unique_ptr<Kernel> kernel, std::string_view name)
        : kernel_(std::move(kernel)), batcher_(kernel_->width()),
          // With a kernel of its own it is an accelerator like others, and has OpenSSL's behind it.
          traits_{.name = name, .must_poll = true, .software = kernel_->width() == 1} {
        for (std::uint32_t index = 0; index < held_.size(); ++index) {
            held_[index].job.owner = index;
            free_.push_back(&held_[index]);
        }
    }

    [[nodiscard]] const BackendTraits& traits() const noexcept override { return traits_; }

    [[nodiscard]] Taken submit(const Operation& operation) override {
        if (free_.empty()) return Taken::full;
        RSA* key = local_rsa(*operation.key);
        if (key == nullptr) return Taken::unsupported; // out of memory
        Held& held = *free_.back();
        free_.pop_back();
        held.key = operation.key;
        held.job.key = key;
        held.job.bits = operation.key->bits();
        held.job.token = operation.token;
        std::memcpy(held.job.block.data(), operation.block.data(), operation.block.size());
        staged_.push_back(&held.job);
        return Taken::yes;
    }

    void flush(base::TimePoint now) override {
        for (Job* job : staged_)
            batcher_.add(*job, now);
        staged_.clear();
    }

    std::size_t poll(base::TimePoint now, std::size_t budget, CompletionSink& sink) override {
        std::size_t count = 0;
        for (std::size_t work = 0; work < inline_work_per_poll && count < budget;) {
            const std::span<Job* const> batch = batcher_.take(now);
            if (batch.empty()) break;
            kernel_->run(batch);
            // Eight lanes at once cost about two and a half times one; a larger key four to eight times.
            work += inline_cost(batch.front()->bits) * (batch.size() > 1 ? 2 : 1);
            for (Job* job : batch) {
                ++count;
                sink.completed({.token = job->token,
                                .outcome = job->outcome,
                                .signature = std::span{job->signature}.first(job->bytes())});
                held_[job->owner].key.reset();
                free_.push_back(&held_[job->owner]);
            }
        }
        return count;
    }

    [[nodiscard]] bool pending() const noexcept override { return in_flight() != 0; }
    [[nodiscard]] std::size_t in_flight() const noexcept override {
        return held_.size() - free_.size();
    }

private:
    struct Held {
        Job job;
        KeyRef key;
    };
    static std::size_t inline_cost(unsigned bits) noexcept {
        return bits <= overflow_key_bits_max ? 1 : inline_work_per_poll;
    }

    std::unique_ptr<Kernel> kernel_;
    LaneBatcher batcher_;
    BackendTraits traits_;
    std::array<Held, inline_jobs_max> held_;
    std::vector<Held*> free_;
    std::vector<Job*> staged_;
};

} // namespace

std::unique_ptr<Backend> make_inline_backend(std::unique_ptr<Kernel> kernel,
                                             std::string_view name) {
    if (!kernel) kernel = make_scalar_kernel();
    return std::make_unique<InlineBackend>(std::move(kernel), name);
}

} // namespace tls_offload::offload
