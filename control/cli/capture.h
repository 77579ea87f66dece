// capture.h: `millracectl capture`: frames of our own TCP/IP, written to a pcapng file.
//
// Scope      Starts a capture on every shard, fetches what they catch while it runs, and puts it
//            behind the headers of a pcapng file, in the order of time as far as one reply goes.
//            The shards make the packets' blocks (dataplane/policy/net_commands.h).
// Owns       The file, mode 0600: there is mail in it.
// Threading  One. SIGINT ends it early, and the file is whole.
// Failure    Exit codes of output.h. What was caught until then stays in the file.
#pragma once

#include "control/cli/admin_client.h"

#include <cstdint>
#include <string>

namespace control::cli {

struct CaptureOptions {
    std::string connection; // "LOCAL,REMOTE", each IP:PORT
    std::string address;
    std::uint32_t port = 0; // 0: any
    std::string out;        // "-" is standard output
    std::uint32_t seconds = 10;
    std::string bytes = "16MiB"; // of the file
};

int capture(const AdminClient& client, const CaptureOptions& options);

} // namespace control::cli
