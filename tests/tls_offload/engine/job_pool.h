// job_pool.h: how many ASYNC jobs this thread's pool can still start: fewer than before is a leak.
#pragma once

#include "dataplane/base/check.h"

#include <cstddef>
#include <openssl/async.h>
#include <vector>

namespace tests {

/// Takes every job of the pool while it lives: paused ones, which it ends.
class AllJobs {
public:
    AllJobs() : wait_(ASYNC_WAIT_CTX_new()) {
        for (;;) {
            ASYNC_JOB* job = nullptr;
            if (ASYNC_start_job(&job, wait_, &result_, pause_once, nullptr, 0) != ASYNC_PAUSE)
                break;
            jobs_.push_back(job);
        }
    }
    ~AllJobs() {
        for (ASYNC_JOB* job : jobs_)
            CHECK(ASYNC_start_job(&job, wait_, &result_, pause_once, nullptr, 0) == ASYNC_FINISH);
        ASYNC_WAIT_CTX_free(wait_);
    }
    AllJobs(const AllJobs&) = delete;
    AllJobs& operator=(const AllJobs&) = delete;
    [[nodiscard]] std::size_t count() const noexcept { return jobs_.size(); }

private:
    static int pause_once(void*) {
        ASYNC_pause_job();
        return 1;
    }
    ASYNC_WAIT_CTX* wait_;
    std::vector<ASYNC_JOB*> jobs_;
    int result_ = 0;
};

inline std::size_t startable_jobs() {
    return AllJobs{}.count();
}

} // namespace tests
