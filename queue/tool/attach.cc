// attach.cc: a dead node's pool to a process that delivers it and nothing else.
//
// The work is millraced's: `millraced --attach` runs one shard, the pool's own, without listeners, on the
// policy of this node, writes every status back into the pool, and ends when the pool is empty. Here it is
// made sure beforehand that this can work, and told how much there is.
#include "queue/tool/commands.h"
#include "queue/tool/opened_pool.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>
#include <ostream>
#include <unistd.h>

namespace queue::tool {
namespace {

namespace fs = std::filesystem;

/// millraced beside this program, or as the PATH has it.
[[nodiscard]] std::string find_daemon() {
    std::error_code error;
    const fs::path self = fs::read_symlink("/proc/self/exe", error);
    if (!error) {
        const fs::path beside = self.parent_path() / "millraced";
        if (::access(beside.c_str(), X_OK) == 0) return beside.string();
    }
    return "millraced";
}

} // namespace

int attach(const AttachOptions& options, const Console& console) {
    const auto refuse = [&console](const std::string& text) {
        console.err << "millrace-spool: " << text << '\n';
        return exit_no_pool;
    };
    const std::string snapshot = options.state_dir + "/policy.snapshot";
    if (!fs::exists(snapshot)) {
        return refuse(snapshot +
                      " is missing: name the state_dir of a relay that runs on this node, "
                      "whose policy is to be used");
    }
    {
        auto pool = open_pool({options.pool, options.mirror, options.key},
                              PoolFile::Lock::exclusive, console);
        if (!pool) return refuse(pool.error());
        using State = MirrorStanding::State;
        if (pool->mirror.state == State::stale || pool->mirror.state == State::undecided)
            return refuse(options.pool + ": " + pool->mirror.text);
        if (!pool->mirror.text.empty())
            console.err << "millrace-spool: " << options.pool << ": " << pool->mirror.text << '\n';
        if (pool->live == nullptr)
            return refuse(options.pool + ": " + pool->why_dead + "; export saves what can be read");
        console.out << options.pool << ": pool of shard " << pool->geometry.superblock.shard << ", "
                    << pool->live->index().size() << " messages queued, "
                    << pool->live->report().records_damaged << " records damaged\n"
                    << std::flush;
    } // and the lock goes to millraced
    if (options.dry_run) return exit_ok;
    const std::string daemon = options.daemon.empty() ? find_daemon() : options.daemon;
    std::vector<const char*> arguments{daemon.c_str(), "--state-dir", options.state_dir.c_str(),
                                       "--attach", options.pool.c_str()};
    if (!options.key.empty()) {
        arguments.push_back("--attach-key");
        arguments.push_back(options.key.c_str());
    }
    arguments.push_back(nullptr);
    ::execvp(daemon.c_str(), const_cast<char* const*>(arguments.data()));
    return refuse("cannot run " + daemon + ": " + std::strerror(errno) +
                  "; name it with --daemon PATH");
}

} // namespace queue::tool
