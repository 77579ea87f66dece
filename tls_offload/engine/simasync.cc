// simasync.cc: the simulated accelerator as a loadable OpenSSL engine, with the control commands of QAT_Engine.
//
// Scope      RSA private operations that pause their ASYNC job and finish later, in random order, from a seed.
//            By default a thread of its own completes them and signals a descriptor, which is what
//            `openssl speed -engine PATH/libmillrace_simasync.so -async_jobs 8 rsa2048` waits for. With
//            ENABLE_EXTERNAL_POLLING whoever sends POLL completes them: so qat_engine.cc is tested.
//            Outside of an ASYNC job the operation is plain software.
// Owns       Nothing of an operation: it lives on its job's stack until it is done.
// Threading  Any; one lock.
// Failure    On order only: see the SIM_ commands.
#include "tls_offload/engine/sim_faults.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <openssl/async.h>
#include <openssl/engine.h>
#include <openssl/rsa.h>
#include <sys/eventfd.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

namespace offload = tls_offload::offload;
using SteadyTime = std::chrono::steady_clock::time_point;

enum Command : unsigned {
    enable_external_polling = ENGINE_CMD_BASE,
    poll_now,
    set_instance_for_thread,
    get_num_crypto_instances,
    get_num_requests_in_flight,
    enable_sw_fallback,
    heartbeat_poll,
    sim_instances,
    sim_ring,
    sim_delay_us,
    sim_wrong,
    sim_failed,
    sim_lost,
    sim_dead,
};

const ENGINE_CMD_DEFN commands[] = {
    {enable_external_polling, "ENABLE_EXTERNAL_POLLING", "the application polls",
     ENGINE_CMD_FLAG_NO_INPUT},
    {poll_now, "POLL", "completes what is due", ENGINE_CMD_FLAG_INTERNAL},
    {set_instance_for_thread, "SET_INSTANCE_FOR_THREAD", "binds the calling thread",
     ENGINE_CMD_FLAG_NUMERIC},
    {get_num_crypto_instances, "GET_NUM_CRYPTO_INSTANCES", "how many threads may bind",
     ENGINE_CMD_FLAG_INTERNAL},
    {get_num_requests_in_flight, "GET_NUM_REQUESTS_IN_FLIGHT", "where the count is kept",
     ENGINE_CMD_FLAG_INTERNAL},
    {enable_sw_fallback, "ENABLE_SW_FALLBACK", "accepted and without effect",
     ENGINE_CMD_FLAG_NO_INPUT},
    {heartbeat_poll, "HEARTBEAT_POLL", "1 while alive", ENGINE_CMD_FLAG_INTERNAL},
    {sim_instances, "SIM_INSTANCES", "instances to pretend", ENGINE_CMD_FLAG_NUMERIC},
    {sim_ring, "SIM_RING", "operations until the ring is full", ENGINE_CMD_FLAG_NUMERIC},
    {sim_delay_us, "SIM_DELAY_US", "longest delay in microseconds", ENGINE_CMD_FLAG_NUMERIC},
    {sim_wrong, "SIM_WRONG", "wrong results in a thousand", ENGINE_CMD_FLAG_NUMERIC},
    {sim_failed, "SIM_FAILED", "failures in a thousand", ENGINE_CMD_FLAG_NUMERIC},
    {sim_lost, "SIM_LOST", "lost completions in a thousand", ENGINE_CMD_FLAG_NUMERIC},
    {sim_dead, "SIM_DEAD", "1: nothing completes, 0: it goes on", ENGINE_CMD_FLAG_NUMERIC},
    {0, nullptr, nullptr, 0},
};

struct Waiting { // on the stack of its ASYNC job
    SteadyTime due;
    offload::SimFate fate = offload::SimFate::good;
    ASYNC_WAIT_CTX* wait = nullptr;
    int descriptor = -1;    // when nobody has set a callback
    std::thread::id thread; // of the job: an instance completes only its own thread's
    std::atomic<bool> done{false};
};

struct Device {
    std::mutex lock;
    std::condition_variable more;
    std::vector<Waiting*> waiting;
    offload::SimFaults faults{.delay_min = std::chrono::microseconds{10},
                              .delay_max = std::chrono::microseconds{200}};
    offload::SimDice dice{1};
    std::size_t ring = 1024;
    int instances = 4;
    int in_flight = 0;
    bool external = false;
    bool dead = false;
    bool stop = false;
    std::thread thread; // without external polling, from the first operation on
};

Device* device = nullptr;

void complete_one(Waiting& one) {
    if (one.descriptor >= 0) {
        const std::uint64_t count = 1;
        one.done.store(true, std::memory_order_release);
        static_cast<void>(!write(one.descriptor, &count, sizeof count));
        return;
    }
    ASYNC_callback_fn callback = nullptr;
    void* context = nullptr;
    ASYNC_WAIT_CTX_get_callback(one.wait, &callback, &context);
    one.done.store(true, std::memory_order_release);
    if (callback != nullptr) callback(context);
}

/// \pre  the lock is held
void complete_due(SteadyTime now, bool own_thread_only) {
    if (device->dead) return;
    for (std::size_t i = 0; i < device->waiting.size();) {
        Waiting& one = *device->waiting[i];
        if (one.due > now || one.fate == offload::SimFate::lost ||
            (own_thread_only && one.thread != std::this_thread::get_id())) {
            ++i;
            continue;
        }
        device->waiting[i] = device->waiting.back();
        device->waiting.pop_back();
        --device->in_flight;
        complete_one(one);
    }
}

void complete_for_ever() {
    std::unique_lock held(device->lock);
    while (!device->stop) {
        if (device->waiting.empty()) {
            device->more.wait(held);
        } else {
            device->more.wait_for(held, std::chrono::microseconds{20});
        }
        complete_due(std::chrono::steady_clock::now(), false);
    }
}

void close_descriptor(ASYNC_WAIT_CTX*, const void*, OSSL_ASYNC_FD descriptor, void*) {
    close(descriptor);
}

/// The descriptor that the job's waiter selects on; made once for each wait context.
int descriptor_of(ASYNC_WAIT_CTX* wait) {
    OSSL_ASYNC_FD descriptor = -1;
    void* data = nullptr;
    if (ASYNC_WAIT_CTX_get_fd(wait, device, &descriptor, &data) == 1) return descriptor;
    descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (descriptor < 0) return -1;
    if (ASYNC_WAIT_CTX_set_wait_fd(wait, device, descriptor, nullptr, close_descriptor) == 1)
        return descriptor;
    close(descriptor);
    return -1;
}

using PrivateOperation = int (*)(int, const unsigned char*, unsigned char*, RSA*, int);

int later(PrivateOperation software, int bytes, const unsigned char* from, unsigned char* to,
          RSA* rsa, int padding) {
    ASYNC_JOB* job = ASYNC_get_current_job();
    if (job == nullptr || device == nullptr) return software(bytes, from, to, rsa, padding);
    Waiting self;
    self.wait = ASYNC_get_wait_ctx(job);
    self.thread = std::this_thread::get_id();
    ASYNC_callback_fn callback = nullptr;
    void* context = nullptr;
    ASYNC_WAIT_CTX_get_callback(self.wait, &callback, &context);
    if (callback == nullptr) {
        self.descriptor = descriptor_of(self.wait);
        if (self.descriptor < 0) return software(bytes, from, to, rsa, padding);
    }
    for (;;) {
        std::unique_lock held(device->lock);
        // Who waits for a descriptor cannot be told to come again: the ring is long enough for him.
        if (device->waiting.size() < device->ring || callback == nullptr) {
            self.due = std::chrono::steady_clock::now() + device->dice.delay(device->faults);
            self.fate = device->dice.fate(device->faults);
            device->waiting.push_back(&self);
            ++device->in_flight;
            if (!device->external && !device->thread.joinable())
                device->thread = std::thread(complete_for_ever);
            device->more.notify_one();
            break;
        }
        held.unlock();
        ASYNC_WAIT_CTX_set_status(self.wait, ASYNC_STATUS_EAGAIN);
        ASYNC_pause_job();
    }
    ASYNC_WAIT_CTX_set_status(self.wait, ASYNC_STATUS_OK);
    do
        ASYNC_pause_job(); // a resumption that we did not ask for is not the end
    while (!self.done.load(std::memory_order_acquire));
    if (self.descriptor >= 0) {
        std::uint64_t count = 0;
        static_cast<void>(!read(self.descriptor, &count, sizeof count));
    }
    if (self.fate == offload::SimFate::failed) return -1;
    const int made = software(bytes, from, to, rsa, padding);
    if (self.fate == offload::SimFate::wrong && made > 0) to[made / 2] ^= 0x10;
    return made;
}

int private_encrypt(int bytes, const unsigned char* from, unsigned char* to, RSA* rsa,
                    int padding) {
    return later(RSA_meth_get_priv_enc(RSA_PKCS1_OpenSSL()), bytes, from, to, rsa, padding);
}
int private_decrypt(int bytes, const unsigned char* from, unsigned char* to, RSA* rsa,
                    int padding) {
    return later(RSA_meth_get_priv_dec(RSA_PKCS1_OpenSSL()), bytes, from, to, rsa, padding);
}

int control(ENGINE*, int which, long number, void* data, void (*)()) {
    const std::lock_guard held(device->lock);
    const auto thousandth = static_cast<unsigned>(number);
    switch (static_cast<unsigned>(which)) {
    case enable_external_polling:
        device->external = true;
        return 1;
    case poll_now:
        complete_due(std::chrono::steady_clock::now(), true);
        if (data != nullptr) *static_cast<int*>(data) = 1;
        return 1;
    case set_instance_for_thread:
        return number >= 0 && number < device->instances ? 1 : 0;
    case get_num_crypto_instances:
        *static_cast<int*>(data) = device->instances;
        return 1;
    case get_num_requests_in_flight:
        *static_cast<int**>(data) = &device->in_flight;
        return 1;
    case enable_sw_fallback:
        return 1;
    case heartbeat_poll:
        *static_cast<int*>(data) = device->dead ? 0 : 1;
        return 1;
    case sim_instances:
        device->instances = static_cast<int>(number);
        return 1;
    case sim_ring:
        device->ring = static_cast<std::size_t>(number);
        return 1;
    case sim_delay_us:
        device->faults.delay_max = std::max(
            device->faults.delay_min, offload::base::Duration{std::chrono::microseconds{number}});
        return 1;
    case sim_wrong:
        device->faults.wrong = thousandth;
        return 1;
    case sim_failed:
        device->faults.failed = thousandth;
        return 1;
    case sim_lost:
        device->faults.lost = thousandth;
        if (number == 0) { // what was lost is found again
            for (Waiting* one : device->waiting) {
                if (one->fate == offload::SimFate::lost) one->fate = offload::SimFate::good;
            }
        }
        return 1;
    case sim_dead:
        device->dead = number != 0;
        return 1;
    default:
        return 0;
    }
}

RSA_METHOD* method = nullptr;

int destroy(ENGINE*) {
    {
        const std::lock_guard held(device->lock);
        device->stop = true;
        device->more.notify_one();
    }
    if (device->thread.joinable()) device->thread.join();
    delete device;
    device = nullptr;
    RSA_meth_free(method);
    method = nullptr;
    return 1;
}

int start(ENGINE*) {
    return device->instances > 0 ? 1 : 0;
}

int bind(ENGINE* engine, const char*) {
    device = new Device;
    method = RSA_meth_dup(RSA_PKCS1_OpenSSL());
    return method != nullptr && RSA_meth_set1_name(method, "millrace simulated accelerator") == 1 &&
           RSA_meth_set_priv_enc(method, private_encrypt) == 1 &&
           RSA_meth_set_priv_dec(method, private_decrypt) == 1 &&
           ENGINE_set_id(engine, "simasync") == 1 &&
           ENGINE_set_name(engine, "Millrace simulated accelerator") == 1 &&
           ENGINE_set_RSA(engine, method) == 1 && ENGINE_set_init_function(engine, start) == 1 &&
           ENGINE_set_destroy_function(engine, destroy) == 1 &&
           ENGINE_set_ctrl_function(engine, control) == 1 &&
           ENGINE_set_cmd_defns(engine, commands) == 1;
}

} // namespace

extern "C" {
IMPLEMENT_DYNAMIC_CHECK_FN()
IMPLEMENT_DYNAMIC_BIND_FN(bind)
}
