// child.h: other processes of a measurement: our own program again, and the tools of the machine.
//
// Scope      Start, lines they say, end; a temporary folder for what they share.
// Owns       A process each, which ends with its owner.
// Threading  One thread.
// Failure    Throws std::runtime_error or std::system_error with a text for a person.
#pragma once

#include "dataplane/loadgen/net_space.h"

#include <chrono>
#include <string>
#include <sys/types.h>
#include <vector>

namespace dataplane::loadgen {

/// One line to whoever reads our standard output, at once.
void say(const std::string& line);

/// This program with other arguments, whose standard output we read line by line.
class Child {
public:
    /// \param home  where its network is; null: where ours is
    explicit Child(const std::vector<std::string>& arguments, const NetSpace* home = nullptr);
    ~Child();
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    [[nodiscard]] pid_t pid() const noexcept { return pid_; }
    /// SIGUSR1; what it has to report comes as a line.
    void ask() const;
    /// The next line that begins with `prefix`, without it.
    [[nodiscard]] std::string line(const std::string& prefix, std::chrono::milliseconds limit);

private:
    pid_t pid_ = -1;
    int output_ = -1;
    std::string text_;
};

/// Runs a tool to its end and returns what it said; throws, naming the command, when that is no success.
std::string run_tool(const std::vector<std::string>& words);

struct TemporaryFolder {
    std::string path;
    TemporaryFolder();
    ~TemporaryFolder();
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
};

} // namespace dataplane::loadgen
