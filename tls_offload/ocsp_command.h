// ocsp_command.h: runs the operator's command that fetches OCSP responses.
//
// Scope      Which certificate is due, and one child process at a time. The command writes the file
//            it is given; that the file has changed is noticed like any other change.
// Owns       The child it has started. Internal to tls_offload.
// Threading  One thread, not a shard.
// Failure    A sentence for the log; the certificate is due again after `retry`.
#pragma once

#include "tls_offload/certificate.h"

#include <chrono>
#include <map>
#include <string>
#include <sys/types.h>
#include <vector>

namespace tls_offload {

class OcspCommand {
public:
    using Time = std::chrono::steady_clock::time_point;
    OcspCommand(std::chrono::seconds retry, std::chrono::seconds limit) noexcept
        : retry_(retry), limit_(limit) {}
    ~OcspCommand();
    OcspCommand(const OcspCommand&) = delete;
    OcspCommand& operator=(const OcspCommand&) = delete;

    /// Starts what is due, and looks after what runs. Returns what went wrong, or "".
    [[nodiscard]] std::string step(const std::string& command,
                                   const std::vector<CertificateMaterial>& certificates, Time now,
                                   base::WallTime wall_now);

private:
    std::chrono::seconds retry_, limit_;
    std::map<std::string, Time> tried_; // by OCSP file; as many as there are certificates
    pid_t child_ = -1;
    std::string file_; // that the child fetches
    Time started_{};
};

} // namespace tls_offload
