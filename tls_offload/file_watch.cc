#include "tls_offload/file_watch.h"

#include <array>
#include <filesystem>
#include <set>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace tls_offload {
namespace {

namespace fs = std::filesystem;

constexpr std::uint32_t events = IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM |
                                 IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF;
constexpr int links_max = 16; // of one path, one behind the other

std::int64_t in_ns(const timespec& time) {
    return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
}

/// The folder of a path and of everything that symbolic links on the way make of it.
void collect(fs::path path, std::set<std::string>& folders) {
    std::error_code error;
    for (int links = 0; links < links_max; ++links) {
        folders.insert(path.parent_path().empty() ? "." : path.parent_path().string());
        // A link among the folders, such as certbot's live/NAME or Kubernetes' ..data.
        const fs::path whole = fs::weakly_canonical(path, error);
        if (!error && !whole.parent_path().empty()) folders.insert(whole.parent_path().string());
        for (fs::path above = path.parent_path(); above.has_relative_path();
             above = above.parent_path()) {
            if (fs::is_symlink(fs::symlink_status(above, error)))
                folders.insert(above.parent_path().string());
        }
        if (!fs::is_symlink(fs::symlink_status(path, error))) return;
        const fs::path target = fs::read_symlink(path, error);
        if (error) return;
        path = target.is_absolute() ? target : path.parent_path() / target;
    }
}

} // namespace

FileMarks marks_of(const std::vector<std::string>& files) {
    FileMarks marks;
    for (const std::string& file : files) {
        struct stat status{};
        FileMark& mark = marks[file];
        if (stat(file.c_str(), &status) != 0) continue;
        mark = {status.st_dev, status.st_ino, static_cast<std::uint64_t>(status.st_size),
                in_ns(status.st_mtim), in_ns(status.st_ctim)};
    }
    return marks;
}

FileWatch::FileWatch() : descriptor_(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {}

FileWatch::~FileWatch() {
    if (descriptor_ >= 0) close(descriptor_);
}

void FileWatch::watch(const std::vector<std::string>& files) {
    if (descriptor_ < 0) return;
    std::set<std::string> wanted;
    for (const std::string& file : files)
        collect(file, wanted);
    for (auto each = folders_.begin(); each != folders_.end();) {
        if (wanted.contains(each->first)) {
            ++each;
            continue;
        }
        static_cast<void>(inotify_rm_watch(descriptor_, each->second));
        each = folders_.erase(each);
    }
    for (const std::string& folder : wanted) {
        // Again for those that are watched: a folder of this name may be another one by now.
        const int watch = inotify_add_watch(descriptor_, folder.c_str(), events | IN_ONLYDIR);
        if (watch >= 0) {
            folders_[folder] = watch;
        } else {
            folders_.erase(folder);
        }
    }
}

bool FileWatch::drain() noexcept {
    bool any = false;
    alignas(inotify_event) std::array<char, 4096> events_read;
    while (read(descriptor_, events_read.data(), events_read.size()) > 0)
        any = true;
    return any;
}

} // namespace tls_offload
