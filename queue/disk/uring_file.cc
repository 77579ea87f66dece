#include "queue/disk/uring_file.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <new>
#include <optional>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace queue {
namespace {

constexpr std::size_t zero_bytes = 1U << 20;
constexpr std::chrono::milliseconds lock_retry{10};
// A write of this size does not wait for the turn's end: a turn that fills three batches takes a millisecond, in
// which the disk would have nothing to do, and the turn after it nothing to fill. Smaller ones share an entry
// into the kernel.
constexpr std::size_t prompt_bytes = 256U << 10;

class Descriptor {
public:
    explicit Descriptor(int descriptor) noexcept : descriptor_(descriptor) {}
    Descriptor(Descriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
    Descriptor& operator=(Descriptor&&) = delete;
    ~Descriptor() {
        if (descriptor_ >= 0) ::close(descriptor_);
    }
    [[nodiscard]] int get() const noexcept { return descriptor_; }
    [[nodiscard]] int release() noexcept { return std::exchange(descriptor_, -1); }

private:
    int descriptor_;
};

using Opened = std::expected<Descriptor, UringFileError>;
using Checked = std::expected<void, UringFileError>;

[[nodiscard]] std::unexpected<UringFileError> fail(UringFileError::Kind kind, std::string text) {
    return std::unexpected(UringFileError{kind, std::move(text)});
}

[[nodiscard]] std::unexpected<UringFileError> fail_errno(const std::string& what,
                                                         const std::string& path) {
    const int error = errno;
    const bool space = error == ENOSPC || error == EDQUOT || error == EFBIG;
    return fail(space ? UringFileError::Kind::no_space : UringFileError::Kind::io,
                what + " " + path + ": " + std::strerror(error));
}

[[nodiscard]] std::unexpected<UringFileError> fail_unsuitable(const std::string& path,
                                                              const std::string& why) {
    return fail(
        UringFileError::Kind::unsuitable,
        path + ": " + why +
            ". Put the spool on a file system on a real disk (ext4 or XFS), not on tmpfs or a "
            "network share.");
}

[[nodiscard]] Opened open_direct(const std::string& path, int flags) {
    Descriptor file{::open(path.c_str(), flags | O_RDWR | O_DIRECT | O_CLOEXEC, 0600)};
    if (file.get() >= 0) return file;
    if (errno == EINVAL) return fail_unsuitable(path, "the file system does not support O_DIRECT");
    return fail_errno("cannot open", path);
}

[[nodiscard]] Checked lock_file(const Descriptor& file, const std::string& path,
                                std::chrono::milliseconds wait) {
    while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) return fail_errno("cannot lock", path);
        if (wait <= std::chrono::milliseconds::zero()) {
            return fail(UringFileError::Kind::locked,
                        path + ": another process is using this spool");
        }
        std::this_thread::sleep_for(lock_retry);
        wait -= lock_retry;
    }
    return {};
}

/// The pool that has this name once the lock is ours: whoever had it before may have put another in its place.
[[nodiscard]] Opened open_locked(const std::string& path, std::chrono::milliseconds wait) {
    for (;;) {
        auto file = open_direct(path, 0);
        if (!file) return file;
        if (auto locked = lock_file(*file, path, wait); !locked)
            return std::unexpected(locked.error());
        struct stat ours{}, named{};
        if (::fstat(file->get(), &ours) != 0 || ::stat(path.c_str(), &named) != 0)
            return fail_errno("cannot examine", path);
        if (ours.st_dev == named.st_dev && ours.st_ino == named.st_ino) return file;
    }
}

/// What the file system says against it, which the owner is told when it is no reason to refuse.
[[nodiscard]] Checked check_pool(const Descriptor& file, const std::string& path,
                                 PoolJudgement& judgement) {
    judgement = judge(examine(file.get()));
    if (judgement.verdict != PoolVerdict::refused) return {};
    return fail(UringFileError::Kind::unsuitable, path + ": " + judgement.why);
}

[[nodiscard]] Checked write_zeros(const Descriptor& file, const std::string& path,
                                  const UringFileOptions& options) {
    struct Free {
        void operator()(std::byte* memory) const noexcept {
            ::operator delete(memory, std::align_val_t{block_bytes});
        }
    };
    const std::unique_ptr<std::byte, Free> zeros{
        static_cast<std::byte*>(::operator new(zero_bytes, std::align_val_t{block_bytes}))};
    std::memset(zeros.get(), 0, zero_bytes);
    std::uint64_t done = 0;
    while (done < options.pool_bytes) {
        const auto part = std::min<std::uint64_t>(zero_bytes, options.pool_bytes - done);
        const ssize_t written = ::pwrite(file.get(), zeros.get(), part, static_cast<off_t>(done));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return fail_errno("cannot write", path);
        if (written % static_cast<ssize_t>(block_bytes) != 0) {
            return fail(UringFileError::Kind::no_space, "cannot write " + path + ": short write");
        }
        done += static_cast<std::uint64_t>(written);
        if (options.progress) options.progress(done, options.pool_bytes);
    }
    return {};
}

[[nodiscard]] std::string folder_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : path.substr(0, slash);
}

[[nodiscard]] Checked sync_folder(const std::string& path) {
    const std::string name = folder_of(path);
    const Descriptor folder{::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (folder.get() < 0) return fail_errno("cannot open", name);
    if (::fsync(folder.get()) != 0) return fail_errno("cannot sync", name);
    return {};
}

[[nodiscard]] Checked check_space(const std::string& path, std::uint64_t pool_bytes) {
    struct statvfs system{};
    const std::string name = folder_of(path);
    if (::statvfs(name.c_str(), &system) != 0) return fail_errno("cannot examine", name);
    const std::uint64_t free = std::uint64_t{system.f_bavail} * system.f_frsize;
    if (free >= pool_bytes) return {};
    return fail(UringFileError::Kind::no_space,
                path + ": a pool of " + std::to_string(pool_bytes >> 20) + " MiB does not fit, " +
                    std::to_string(free >> 20) +
                    " MiB are free; make room, or lower server.spool_size");
}

/// Under another name until all of it is on disk: a pool that exists is a whole pool.
[[nodiscard]] Opened create(const std::string& path, const UringFileOptions& options,
                            PoolJudgement& judgement) {
    const std::string unfinished = path + ".creating";
    auto file = open_direct(unfinished, O_CREAT);
    if (!file) return file;
    if (auto locked = lock_file(*file, unfinished, options.lock_wait); !locked)
        return std::unexpected(locked.error());
    Checked step = check_pool(*file, path, judgement);
    if (step && ::ftruncate(file->get(), 0) != 0) step = fail_errno("cannot empty", unfinished);
    if (step) step = check_space(path, options.pool_bytes);
    // Contiguous where the file system can; the zeros then turn it into written extents, because a
    // write into an unwritten one is a journal commit and not a plain overwrite.
    if (step)
        static_cast<void>(::fallocate(file->get(), 0, 0, static_cast<off_t>(options.pool_bytes)));
    if (step) step = write_zeros(*file, unfinished, options);
    if (step && ::fsync(file->get()) != 0) step = fail_errno("cannot sync", unfinished);
    if (step && ::rename(unfinished.c_str(), path.c_str()) != 0)
        step = fail_errno("cannot name", path);
    if (step) step = sync_folder(path);
    if (step) step = check_pool(*file, path, judgement); // its extents are there now
    if (!step) {
        static_cast<void>(::unlink(unfinished.c_str()));
        return std::unexpected(step.error());
    }
    return file;
}

} // namespace

/// One operation, in the frame of the coroutine that waits for it.
class UringFile::Operation final : public base::UringOp {
public:
    Operation(UringFile& file) noexcept : file_(file) {}
    ~Operation() override {
        // Whoever destroys the task early is about to free the memory the kernel is working on.
        while (in_flight_)
            file_.ring_.poll();
    }
    template <class Prepare>
    void stage(Prepare&& prepare) {
        io_uring_sqe* entry = file_.ring_.stage();
        prepare(entry);
        file_.ring_.bind(entry, *this);
        in_flight_ = true;
    }
    void complete(int result, std::uint32_t) noexcept override {
        in_flight_ = false;
        result_ = result;
        done_.wake_all();
    }
    [[nodiscard]] bool in_flight() const noexcept { return in_flight_; }
    [[nodiscard]] auto wait() noexcept { return done_.wait(file_.loop_, base::Deadline::never()); }
    [[nodiscard]] std::expected<void, DiskError> result(std::size_t bytes) const noexcept {
        if (result_ == -ENOSPC || result_ == -EDQUOT) return std::unexpected(DiskError::no_space);
        if (result_ == -ETIMEDOUT) return std::unexpected(DiskError::timed_out);
        if (result_ < 0) return std::unexpected(DiskError::io);
        if (static_cast<std::size_t>(result_) != bytes)
            return std::unexpected(DiskError::short_transfer);
        return {};
    }

private:
    UringFile& file_;
    bool in_flight_ = false;
    int result_ = 0;
    base::WaitQueue done_{"spool disk"};
};

std::expected<std::unique_ptr<UringFile>, UringFileError>
UringFile::open(base::Loop& loop, base::Uring& ring, const std::string& path,
                const UringFileOptions& options) {
    CHECK(options.pool_bytes > 0);
    CHECK(options.pool_bytes % zero_bytes == 0);
    struct stat status{};
    const bool exists = ::stat(path.c_str(), &status) == 0;
    if (!exists && errno != ENOENT) return fail_errno("cannot examine", path);
    if (exists && !S_ISREG(status.st_mode))
        return fail(UringFileError::Kind::io, path + ": not a regular file");

    PoolJudgement judgement;
    auto file = exists ? open_locked(path, options.lock_wait) : create(path, options, judgement);
    if (!file) return std::unexpected(file.error());
    if (exists) {
        if (auto checked = check_pool(*file, path, judgement); !checked)
            return std::unexpected(checked.error());
        // The name may be newer than the last power cut: make it last before trusting what is behind it.
        if (auto synced = sync_folder(path); !synced) return std::unexpected(synced.error());
    }
    if (::fstat(file->get(), &status) != 0) return fail_errno("cannot examine", path);
    const std::uint64_t size =
        exists ? static_cast<std::uint64_t>(status.st_size) / block_bytes * block_bytes
               : options.pool_bytes;
    return std::unique_ptr<UringFile>{
        new UringFile{loop, ring, file->release(), size, !exists, std::move(judgement)}};
}

UringFile::~UringFile() {
    flusher_.reset(); // its coordinator may be at it
    ::close(descriptor_);
}

base::Task<std::expected<void, DiskError>>
UringFile::write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) {
    CHECK(offset % block_bytes == 0);
    CHECK(bytes.size() % block_bytes == 0);
    CHECK(offset + bytes.size() <=
          bytes_); // growing the file would cost a journal commit per write
    Operation operation{*this};
    operation.stage([&](io_uring_sqe* entry) {
        io_uring_prep_write(entry, descriptor_, bytes.data(), static_cast<unsigned>(bytes.size()),
                            offset);
        if (durable == Durable::yes) entry->rw_flags = RWF_DSYNC;
    });
    if (bytes.size() >= prompt_bytes) ring_.submit();
    while (operation.in_flight())
        static_cast<void>(co_await operation.wait());
    co_return operation.result(bytes.size());
}

base::Task<std::expected<void, DiskError>> UringFile::read(std::uint64_t offset,
                                                           std::span<std::byte> bytes) {
    CHECK(offset % block_bytes == 0);
    CHECK(bytes.size() % block_bytes == 0);
    Operation operation{*this};
    operation.stage([&](io_uring_sqe* entry) {
        io_uring_prep_read(entry, descriptor_, bytes.data(), static_cast<unsigned>(bytes.size()),
                           offset);
    });
    while (operation.in_flight())
        static_cast<void>(co_await operation.wait());
    co_return operation.result(bytes.size());
}

base::Task<std::expected<void, DiskError>> UringFile::flush() {
    if (flusher_ != nullptr) {
        auto flushed = co_await flusher_->flush();
        co_return flushed;
    }
    Operation operation{*this};
    operation.stage([&](io_uring_sqe* entry) {
        io_uring_prep_fsync(entry, descriptor_, IORING_FSYNC_DATASYNC);
    });
    while (operation.in_flight())
        static_cast<void>(co_await operation.wait());
    co_return operation.result(0);
}

} // namespace queue
