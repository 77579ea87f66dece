// file_watch.h: which files have changed since they were read.
//
// Scope      Marks tell one state of a file from the next, through symbolic links. The watch says
//            when looking is worth while: it sits on the folders of the files, and of what links
//            among them point to, because a file replaced by rename is a new one.
// Owns       An inotify descriptor. Internal to tls_offload.
// Threading  One thread; not a shard: marks_of() asks the file system.
// Failure    Folders that cannot be watched are not; the caller looks from time to time anyhow.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace tls_offload {

struct FileMark {
    std::uint64_t device = 0, inode = 0, bytes = 0;
    std::int64_t modified_ns = 0, changed_ns = 0; // changed: also its mode
    bool operator==(const FileMark&) const noexcept = default;
};
using FileMarks = std::map<std::string, FileMark>;
/// A missing file has a blank mark.
[[nodiscard]] FileMarks marks_of(const std::vector<std::string>& files);

class FileWatch {
public:
    FileWatch();
    ~FileWatch();
    FileWatch(const FileWatch&) = delete;
    FileWatch& operator=(const FileWatch&) = delete;

    /// Watches these instead of what was watched before.
    void watch(const std::vector<std::string>& files);
    /// Readable when something has happened; -1 when the system has no inotify to give.
    [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
    /// Takes the events away. Whether there were any.
    [[nodiscard]] bool drain() noexcept;

private:
    int descriptor_;
    std::map<std::string, int> folders_;
};

} // namespace tls_offload
