#include "dataplane/loadgen/child.h"

#include "dataplane/loadgen/runtime.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <optional>
#include <poll.h>
#include <spawn.h>
#include <stdexcept>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>

namespace dataplane::loadgen {
namespace {

std::vector<char*> as_argv(const std::vector<std::string>& words) {
    std::vector<char*> argv;
    for (const std::string& word : words)
        argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    return argv;
}

struct Started {
    pid_t pid = -1;
    int output = -1; // what it says
};

Started start(const char* program, const std::vector<std::string>& words) {
    std::array<int, 2> pipe_ends{};
    if (pipe2(pipe_ends.data(), O_CLOEXEC) != 0)
        throw std::system_error(errno, std::generic_category(), "pipe");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDOUT_FILENO);
    Started started{.output = pipe_ends[0]};
    const int error =
        posix_spawnp(&started.pid, program, &actions, nullptr, as_argv(words).data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_ends[1]);
    if (error != 0) {
        close(pipe_ends[0]);
        throw std::system_error(error, std::generic_category(), words.front());
    }
    return started;
}

} // namespace

void say(const std::string& line) {
    std::fwrite((line + '\n').data(), 1, line.size() + 1, stdout);
    std::fflush(stdout);
}

Child::Child(const std::vector<std::string>& arguments, const NetSpace* home) {
    std::vector<std::string> words{"millrace-bench"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::optional<InNetSpace> there; // a child begins where the thread is that starts it
    if (home != nullptr) there.emplace(*home);
    const Started started = start("/proc/self/exe", words);
    pid_ = started.pid;
    output_ = started.output;
}

Child::~Child() {
    if (pid_ > 0) {
        kill(pid_, SIGTERM);
        waitpid(pid_, nullptr, 0);
    }
    close(output_);
}

void Child::ask() const {
    kill(pid_, SIGUSR1);
}

std::string Child::line(const std::string& prefix, std::chrono::milliseconds limit) {
    const auto end = std::chrono::steady_clock::now() + limit;
    for (;;) {
        for (std::size_t at; (at = text_.find('\n')) != std::string::npos;) {
            std::string found = text_.substr(0, at);
            text_.erase(0, at + 1);
            if (found.starts_with(prefix)) return found.substr(prefix.size());
        }
        if (take_signals().stop) throw std::runtime_error("interrupted");
        if (std::chrono::steady_clock::now() >= end)
            throw std::runtime_error("one end said nothing for too long");
        pollfd wait{.fd = output_, .events = POLLIN, .revents = 0};
        if (::poll(&wait, 1, 100) <= 0) continue;
        std::array<char, 4096> some{};
        const ssize_t got = read(output_, some.data(), some.size());
        if (got <= 0) throw std::runtime_error("one end has ended early; its reason is above");
        text_.append(some.data(), static_cast<std::size_t>(got));
    }
}

std::string run_tool(const std::vector<std::string>& words) {
    const Started started = start(words.front().c_str(), words);
    std::string said;
    std::array<char, 4096> some{};
    for (ssize_t got; (got = read(started.output, some.data(), some.size())) > 0;)
        said.append(some.data(), static_cast<std::size_t>(got));
    close(started.output);
    int status = 0;
    while (waitpid(started.pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return said;
    std::string shown;
    for (const std::string& word : words)
        shown += (shown.empty() ? "" : " ") + word;
    throw std::runtime_error("'" + shown + "' failed; its reason is above");
}

TemporaryFolder::TemporaryFolder()
    : path((std::filesystem::temp_directory_path() / "millrace-net-XXXXXX").string()) {
    if (mkdtemp(path.data()) == nullptr)
        throw std::system_error(errno, std::generic_category(), path);
}

TemporaryFolder::~TemporaryFolder() {
    std::error_code ignored; // a left-over temporary folder is no reason to fail
    std::filesystem::remove_all(path, ignored);
}

} // namespace dataplane::loadgen
