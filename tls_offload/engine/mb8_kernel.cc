#include "tls_offload/engine/mb8_kernel.h"

#include "tls_offload/engine/key_state.h"

#include <array>
#include <dlfcn.h>
#include <openssl/bn.h>

namespace tls_offload::offload {
namespace {

// The library's C interface, as its reference documents it: eight pointers each, a null one for a lane that is
// not used, and in the status four bits for each lane, 0 for success.
using LaneBytesIn = const unsigned char*;
using LaneBytesOut = unsigned char*;
using LaneNumber = const BIGNUM*;
using SignEight = std::uint32_t (*)(const LaneBytesIn from[8], const LaneBytesOut to[8],
                                    const LaneNumber p[8], const LaneNumber q[8],
                                    const LaneNumber dp[8], const LaneNumber dq[8],
                                    const LaneNumber qinv[8], int rsa_bits);
using Applicable = int (*)(std::uint64_t cpu_features); // 0: those of this CPU
constexpr unsigned status_bits = 4, status_mask = 0xf;
static_assert(lanes == 8);

class Mb8Kernel final : public Kernel {
public:
    explicit Mb8Kernel(SignEight sign) noexcept : sign_(sign) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "crypto_mb"; }
    [[nodiscard]] std::size_t width() const noexcept override { return lanes; }

    void run(std::span<Job* const> jobs) noexcept override {
        const unsigned bits = jobs.front()->bits;
        const bool known_size = bits == 2048 || bits == 3072 || bits == 4096;
        if (jobs.size() < lanes_worth_it || !known_size) {
            for (Job* job : jobs)
                run_scalar(*job);
            return;
        }
        std::array<LaneBytesIn, lanes> from{};
        std::array<LaneBytesOut, lanes> to{};
        std::array<LaneNumber, lanes> p{}, q{}, dp{}, dq{}, qinv{};
        for (std::size_t lane = 0; lane < jobs.size(); ++lane) {
            const Job& job = *jobs[lane];
            from[lane] = reinterpret_cast<const unsigned char*>(job.block.data());
            to[lane] = reinterpret_cast<unsigned char*>(jobs[lane]->signature.data());
            RSA_get0_factors(job.key, &p[lane], &q[lane]);
            RSA_get0_crt_params(job.key, &dp[lane], &dq[lane], &qinv[lane]);
        }
        const std::uint32_t status = sign_(from.data(), to.data(), p.data(), q.data(), dp.data(),
                                           dq.data(), qinv.data(), static_cast<int>(bits));
        for (std::size_t lane = 0; lane < jobs.size(); ++lane) {
            Job& job = *jobs[lane];
            if ((status >> (lane * status_bits) & status_mask) != 0) {
                job.outcome = Outcome::failed;
                continue;
            }
            const bool right = verify_block(*job.key, std::span{job.block}.first(job.bytes()),
                                            std::span{job.signature}.first(job.bytes()));
            job.outcome = right ? Outcome::signed_verified : Outcome::wrong;
        }
    }

private:
    SignEight sign_;
};

} // namespace

std::expected<std::shared_ptr<const Mb8Library>, std::string>
Mb8Library::open(const std::string& file) {
    void* library = nullptr;
    if (!file.empty()) {
        library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    } else {
        for (const char* name : {"libcrypto_mb.so.12", "libcrypto_mb.so.11", "libcrypto_mb.so"}) {
            library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
            if (library != nullptr) break;
        }
    }
    if (library == nullptr)
        return std::unexpected("libcrypto_mb is not installed (" + std::string{dlerror()} + ")");
    void* sign = dlsym(library, "mbx_rsa_private_crt_ssl_mb8");
    const auto applicable =
        reinterpret_cast<Applicable>(dlsym(library, "mbx_is_crypto_mb_applicable"));
    std::string why;
    if (sign == nullptr || applicable == nullptr) {
        why = "libcrypto_mb lacks what is needed of it: it was built without OpenSSL's numbers, or "
              "is too old";
    } else if (applicable(0) == 0) {
        why = "this CPU lacks the instructions that libcrypto_mb needs (AVX-512 IFMA, or AVX-IFMA)";
    }
    if (!why.empty()) {
        dlclose(library);
        return std::unexpected(std::move(why));
    }
    return std::shared_ptr<const Mb8Library>(new Mb8Library(sign));
}

std::unique_ptr<Kernel> Mb8Library::make_kernel() const {
    return std::make_unique<Mb8Kernel>(reinterpret_cast<SignEight>(sign_));
}

} // namespace tls_offload::offload
