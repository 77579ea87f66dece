#include "dataplane/message/dkim/key_cache.h"

#include "dataplane/message/dkim/limits.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace dataplane::message::dkim {
namespace {

namespace fs = std::filesystem;

struct OpenFile {
    int descriptor;
    ~OpenFile() {
        if (descriptor >= 0) close(descriptor);
    }
};

std::unexpected<std::string> refuse(const std::string& path, std::string why) {
    return std::unexpected(path + ": " + std::move(why));
}

bool is_domain_name(std::string_view name) {
    return !name.empty() && name.size() <= 255 && name.front() != '.' && name.front() != '-' &&
           name.find("..") == std::string_view::npos && std::ranges::all_of(name, [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
                      c == '_';
           });
}

} // namespace

std::expected<KeyFile, std::string> KeyCache::get(const std::string& path) {
    const OpenFile file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)};
    if (file.descriptor < 0) {
        const int error = errno;
        return refuse(path, std::string{"the key cannot be read: "} + std::strerror(error) +
                                (error == ENOENT ? "; make it with: millracectl dkim keygen"
                                                 : "; let the relay's user read it"));
    }
    struct stat status{};
    if (fstat(file.descriptor, &status) != 0 || !S_ISREG(status.st_mode))
        return refuse(path, "is no file; name the file with the key");
    const Stamp stamp{
        status.st_dev,         status.st_ino,         static_cast<std::uint64_t>(status.st_size),
        status.st_mode,        status.st_ctim.tv_sec, status.st_ctim.tv_nsec,
        status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
    if (const auto known = entries_.find(path);
        known != entries_.end() && known->second.stamp == stamp) {
        known->second.round = round_;
        return known->second.file;
    }
    if (stamp.bytes > key_file_bytes_max) return refuse(path, "is too large for a key");
    std::string text(stamp.bytes, '\0');
    const ssize_t got = read(file.descriptor, text.data(), text.size());
    if (got != static_cast<ssize_t>(text.size()))
        return refuse(path, "could not be read whole; try again");
    auto key = SigningKey::parse(text);
    OPENSSL_cleanse(text.data(), text.size());
    if (!key) return refuse(path, std::move(key.error()));
    KeyFile made{std::move(*key), (status.st_mode & (S_IRWXG | S_IRWXO)) != 0};
    entries_[path] = {stamp, made, round_};
    return made;
}

void KeyCache::begin_round() {
    std::erase_if(entries_, [&](const auto& each) { return each.second.round != round_; });
    ++round_;
}

std::string key_path(std::string_view pattern, std::string_view domain, std::string_view selector) {
    std::string path;
    for (std::size_t i = 0; i < pattern.size(); ++i) {
        const std::string_view here = pattern.substr(i, 2);
        if (here == "%d" || here == "%s") {
            path.append(here == "%d" ? domain : selector);
            ++i;
        } else {
            path.push_back(pattern[i]);
        }
    }
    return path;
}

std::expected<std::vector<std::string>, std::string> domains_of(const std::string& pattern,
                                                                std::string_view selector) {
    const std::size_t at = pattern.find("%d");
    const std::size_t folder_end = pattern.rfind('/', at);
    const std::size_t part_end = std::min(pattern.find('/', at), pattern.size());
    const std::string folder = folder_end == std::string::npos
                                   ? "."
                                   : key_path(pattern.substr(0, folder_end + 1), "", selector);
    const std::size_t part_begin = folder_end == std::string::npos ? 0 : folder_end + 1;
    const std::string before = key_path(pattern.substr(part_begin, at - part_begin), "", selector);
    const std::string behind = key_path(pattern.substr(at + 2, part_end - at - 2), "", selector);

    std::vector<std::string> domains;
    std::error_code error;
    fs::directory_iterator entry(folder, error);
    if (error)
        return refuse(folder, "the folder with the keys cannot be read: " + error.message() +
                                  "; make it, or let the relay's user read it");
    for (; entry != fs::directory_iterator(); entry.increment(error)) {
        const std::string name = entry->path().filename().string();
        if (name.size() <= before.size() + behind.size() || !name.starts_with(before) ||
            !name.ends_with(behind))
            continue;
        std::string domain =
            name.substr(before.size(), name.size() - before.size() - behind.size());
        std::error_code missing;
        if (!is_domain_name(domain) || !fs::exists(key_path(pattern, domain, selector), missing))
            continue;
        if (domains.size() == folder_keys_max)
            return refuse(folder, "has more than " + std::to_string(folder_keys_max) +
                                      " keys; spread them over several folders and tables");
        domains.push_back(std::move(domain));
    }
    if (error) return refuse(folder, "cannot be read to its end: " + error.message());
    std::ranges::sort(domains);
    return domains;
}

} // namespace dataplane::message::dkim
