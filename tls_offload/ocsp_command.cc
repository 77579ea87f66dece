#include "tls_offload/ocsp_command.h"

#include <array>
#include <csignal>
#include <cstring>
#include <spawn.h>
#include <sys/wait.h>

extern char** environ;

namespace tls_offload {
namespace {

/// Whether half of the response's time is over, or there is none.
bool is_due(const CertificateInfo& info, base::WallTime now) {
    if (info.ocsp != OcspState::good) return true;
    if (info.ocsp_next_update == base::WallTime{}) return false; // it says that it lasts
    return now >= info.ocsp_this_update + (info.ocsp_next_update - info.ocsp_this_update) / 2;
}

} // namespace

OcspCommand::~OcspCommand() {
    if (child_ < 0) return;
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
}

std::string OcspCommand::step(const std::string& command,
                              const std::vector<CertificateMaterial>& certificates, Time now,
                              base::WallTime wall_now) {
    if (child_ >= 0) {
        int status = 0;
        const pid_t ended = waitpid(child_, &status, WNOHANG);
        if (ended == 0) {
            if (now - started_ < limit_) return {};
            kill(child_, SIGKILL);
            waitpid(child_, &status, 0);
            child_ = -1;
            return "no end after " + std::to_string(limit_.count()) + " s, for " + file_;
        }
        child_ = -1;
        if (!WIFEXITED(status)) return "died, for " + file_;
        if (WEXITSTATUS(status) != 0)
            return "status " + std::to_string(WEXITSTATUS(status)) + ", for " + file_;
    }
    if (command.empty()) return {};
    for (const CertificateMaterial& each : certificates) {
        const std::string& file = each.files.ocsp_file;
        if (file.empty() || !is_due(each.info, wall_now)) continue;
        const auto tried = tried_.find(file);
        if (tried != tried_.end() && now - tried->second < retry_) continue;
        tried_[file] = started_ = now;
        file_ = file;
        // posix_spawn copies nothing and changes nothing of these; C has no other type for them.
        std::array<char*, 4> arguments{const_cast<char*>(command.c_str()),
                                       const_cast<char*>(each.files.certificate_file.c_str()),
                                       const_cast<char*>(file.c_str()), nullptr};
        // The daemon blocks its signals for all threads; the command must not inherit that.
        posix_spawnattr_t attributes;
        posix_spawnattr_init(&attributes);
        sigset_t none;
        sigemptyset(&none);
        posix_spawnattr_setsigmask(&attributes, &none);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
        const int failed =
            posix_spawn(&child_, command.c_str(), nullptr, &attributes, arguments.data(), environ);
        posix_spawnattr_destroy(&attributes);
        if (failed == 0) return {};
        child_ = -1;
        return command + ": " + std::strerror(failed);
    }
    return {};
}

} // namespace tls_offload
