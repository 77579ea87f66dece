#include "dataplane/loadgen/net_bench.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <spawn.h>
#include <stdexcept>
#include <sys/resource.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace dataplane::loadgen {
namespace {

using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;

constexpr std::chrono::milliseconds tick{2};
constexpr auto warm_up = 1s;
constexpr auto start_limit = 30s;
constexpr std::uint16_t port_first = 7400;
constexpr unsigned port_count = 4;
constexpr unsigned source_count =
    32; // together with the ports: enough tuples for TIME_WAIT's minute

double cpu_seconds() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::uint64_t resident_bytes() {
    std::ifstream file("/proc/self/statm");
    std::uint64_t total = 0;
    std::uint64_t resident = 0;
    file >> total >> resident;
    return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

Json snapshot(const NetTally& tally, const base::Loop& loop, base::Duration longest_turn) {
    return {{"exchanges", tally.exchanges},
            {"bytes", tally.bytes},
            {"open", tally.open},
            {"failed", tally.failed},
            {"cpu_s", cpu_seconds()},
            {"resident_bytes", resident_bytes()},
            {"slow_turns", loop.counters().slow_turns},
            {"longest_turn_us", std::chrono::duration<double, std::micro>(longest_turn).count()},
            {"at_s", std::chrono::duration<double>(loop.now().time_since_epoch()).count()}};
}

void say(const std::string& line) {
    std::fwrite((line + '\n').data(), 1, line.size() + 1, stdout);
    std::fflush(stdout);
}

base::SocketAddress parse_address(const std::string& text) {
    const auto address = base::SocketAddress::parse(text);
    if (!address) throw std::runtime_error("'" + text + "' is not ADDRESS:PORT");
    return *address;
}

/// A child whose standard output we read line by line. Ends with its owner.
class Child {
public:
    explicit Child(const std::vector<std::string>& arguments) {
        std::array<int, 2> pipe_ends{};
        if (pipe2(pipe_ends.data(), O_CLOEXEC) != 0)
            throw std::system_error(errno, std::generic_category(), "pipe");
        output_ = pipe_ends[0];
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDOUT_FILENO);
        std::vector<char*> words{const_cast<char*>("millrace-bench")};
        for (const std::string& argument : arguments)
            words.push_back(const_cast<char*>(argument.c_str()));
        words.push_back(nullptr);
        const int error =
            posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, words.data(), environ);
        posix_spawn_file_actions_destroy(&actions);
        close(pipe_ends[1]);
        if (error != 0) throw std::system_error(error, std::generic_category(), "posix_spawn");
    }
    ~Child() {
        if (pid_ > 0) {
            kill(pid_, SIGTERM);
            waitpid(pid_, nullptr, 0);
        }
        close(output_);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    void ask() const { kill(pid_, SIGUSR1); }
    /// The next line that begins with `prefix`, without it.
    std::string line(const std::string& prefix, std::chrono::milliseconds limit) {
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

private:
    pid_t pid_ = -1;
    int output_ = -1;
    std::string text_;
};

struct Folder {
    std::string path = (std::filesystem::temp_directory_path() / "millrace-net-XXXXXX").string();
    Folder() {
        if (mkdtemp(path.data()) == nullptr)
            throw std::system_error(errno, std::generic_category(), path);
    }
    ~Folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
};

std::size_t connections_for(NetCase which) {
    switch (which) {
    case NetCase::short_connections:
        return 64;
    case NetCase::request:
        return 256;
    case NetCase::bulk:
        return 1;
    case NetCase::idle:
        return 1'000'000;
    case NetCase::echo:
    case NetCase::half_close:
        break;
    }
    return 1;
}

/// What to tell each end about its stack.
std::vector<std::string> stack_options(const NetCommand& command, bool own, bool server,
                                       const std::string& folder, std::size_t connections) {
    if (!own) return {};
    const std::string role = server ? "server" : "client";
    std::vector<std::string> options{
        "--device",
        "net_memif0,role=" + role + ",id=0,socket=" + folder + "/memif.sock,rsize=11",
        "--memory-mb",
        "1024",
        "--connections-max",
        std::to_string(connections + connections / 8 + 10'000)};
    if (command.huge_pages) options.emplace_back("--huge-pages");
    const unsigned count = server ? 1 : source_count;
    for (unsigned i = 0; i < count; ++i) {
        options.emplace_back("--own-address");
        options.push_back((server ? std::string{"10.88.0.1"} : "10.88.1." + std::to_string(i + 1)) +
                          "/16");
    }
    if (!server && command.loss > 0) {
        options.insert(options.end(), {"--loss", std::to_string(command.loss)});
    }
    if (!server && command.delay.count() > 0) {
        options.insert(options.end(), {"--delay-us", std::to_string(command.delay.count())});
    }
    return options;
}

struct Figure {
    double value = 0;
    std::string unit;
    Json details;
};

Figure measure(const NetCommand& command, NetCase which, bool own) {
    const Folder folder;
    const bool idle = which == NetCase::idle;
    std::size_t connections =
        command.connections != 0 ? command.connections : connections_for(which);
    const std::string address = (own ? "10.88.0.1:" : "127.0.0.1:") + std::to_string(port_first);
    const auto arguments = [&](bool server) {
        std::vector<std::string> list{
            "net-end",
            "--address",
            address,
            "--case",
            std::string(to_string(which)),
            "--connections",
            std::to_string(connections),
            "--time-ms",
            std::to_string(command.time.count()),
            "--cpu",
            std::to_string(server ? command.server_cpu : command.client_cpu)};
        if (server) list.emplace_back("--server");
        for (std::string& option : stack_options(command, own, server, folder.path, connections))
            list.push_back(std::move(option));
        for (unsigned i = 0; !server && i < source_count; ++i) {
            list.emplace_back("--source");
            list.push_back((own ? "10.88.1." : "127.0.1.") + std::to_string(i + 1));
        }
        return list;
    };
    Child server(arguments(true));
    server.line("ready", start_limit);
    Child client(arguments(false));
    const auto limit = command.time + (idle ? 300s : 60s);
    client.line("begin", limit);
    server.ask();
    const Json before = Json::parse(server.line("at ", start_limit));
    const Json client_end = Json::parse(client.line("end ", limit));
    server.ask();
    const Json after = Json::parse(server.line("at ", start_limit));

    const auto grown = [&](const char* key) {
        return after[key].get<double>() - before[key].get<double>();
    };
    const double seconds = grown("at_s");
    Figure figure;
    figure.details = {{"seconds", seconds},
                      {"server_cpu_s", grown("cpu_s")},
                      {"client_cpu_s", client_end["cpu_s"]},
                      {"failed", client_end["failed"]},
                      {"open", after["open"]},
                      {"server_resident_bytes", after["resident_bytes"]},
                      {"server_longest_turn_us", after["longest_turn_us"]}};
    switch (which) {
    case NetCase::short_connections:
    case NetCase::echo:
    case NetCase::half_close:
        figure.value = grown("exchanges") / seconds;
        figure.unit = "connections/s";
        break;
    case NetCase::request:
        figure.value = grown("exchanges") / seconds;
        figure.unit = "requests/s";
        break;
    case NetCase::bulk:
        figure.value = grown("bytes") * 8 / seconds / 1e9;
        figure.unit = "Gbit/s";
        break;
    case NetCase::idle:
        figure.value = after["resident_bytes"].get<double>() / after["open"].get<double>();
        figure.unit = "resident bytes/connection";
        break;
    }
    return figure;
}

} // namespace

int run_net(const NetCommand& command) {
    catch_signals();
    Json rows = Json::array();
    bool complete = true;
    std::printf("%-10s  %-9s  %14s  %-25s  %12s\n", "case", "stack", "value", "unit",
                "server CPU s");
    for (const std::string& name : command.cases) {
        const bool lossy = name == "bulk_loss";
        const auto which = lossy ? NetCase::bulk : net_case(name);
        if (!which) throw std::runtime_error("no case is named '" + name + "'");
        NetCommand settings = command;
        if (!lossy) {
            settings.loss = 0;
            settings.delay = {};
        }
        for (const std::string& stack : command.stacks) {
            if (lossy && stack != "millrace") {
                std::fprintf(stderr, "net: bulk_loss: only our stack has a bad line here\n");
                continue;
            }
            if (!command.quiet)
                std::fprintf(stderr, "net: %s on %s\n", name.c_str(), stack.c_str());
            try {
                const Figure figure = measure(settings, *which, stack == "millrace");
                std::printf("%-10s  %-9s  %14.3f  %-25s  %12.2f\n", name.c_str(), stack.c_str(),
                            figure.value, figure.unit.c_str(),
                            figure.details["server_cpu_s"].get<double>());
                std::fflush(stdout);
                Json row{{"case", name},
                         {"stack", stack},
                         {"value", figure.value},
                         {"unit", figure.unit}};
                row.update(figure.details);
                rows.push_back(std::move(row));
            } catch (const std::runtime_error& error) {
                std::fprintf(stderr, "net: %s on %s: %s\n", name.c_str(), stack.c_str(),
                             error.what());
                complete = false;
            }
        }
    }
    if (!command.json_file.empty()) {
        std::ofstream out(command.json_file, std::ios::trunc);
        out << rows.dump(2) << '\n';
        out.close();
        if (!out) throw std::runtime_error("cannot write " + command.json_file);
    }
    return complete ? 0 : 1;
}

int run_net_end(const NetEndCommand& command) {
    catch_signals();
    raise_descriptor_limit();
    if (command.cpu >= 0) pin_to_cpu(command.cpu);
    base::SlabPool bulk_pool(32768, 1);
    Runtime runtime(command.net);
    base::Loop& loop = runtime.loop();
    base::Duration longest_turn{};
    loop.watch(100us, [&](const base::SlowTurn& slow) {
        longest_turn = std::max(longest_turn, slow.turn);
    });
    const base::SocketAddress address = parse_address(command.address);

    if (command.server) {
        NetServer server(loop, runtime.transport());
        for (unsigned i = 0; i < port_count; ++i) {
            const auto port = static_cast<std::uint16_t>(address.port + i);
            if (const auto bound = server.listen({address.ip, port}); !bound) {
                throw std::runtime_error("cannot listen on " + command.address + ": " +
                                         std::string(base::to_string(bound.error())));
            }
        }
        say("ready");
        bool reported = false;
        runtime.run(tick, [&] {
            const SignalsSeen signals = take_signals();
            if (reported) longest_turn = {}; // the report's own turn does not count
            reported = signals.report;
            if (reported) say("at " + snapshot(server.tally(), loop, longest_turn).dump());
            if (signals.stop) loop.stop();
        });
        return 0;
    }

    if (!runtime.wait_for_link(start_limit)) throw std::runtime_error("the device has no peer");
    NetClientOptions options{.which = command.which, .connections = command.connections};
    for (unsigned i = 0; i < port_count; ++i)
        options.servers.push_back({address.ip, static_cast<std::uint16_t>(address.port + i)});
    for (const std::string& source : command.sources) {
        const auto ip = base::IpAddress::parse(source);
        if (!ip) throw std::runtime_error("'" + source + "' is not an address");
        options.sources.push_back(*ip);
    }
    NetClient client(loop, runtime.transport(), bulk_pool, std::move(options));
    client.start();
    const bool idle = command.which == NetCase::idle;
    base::TimePoint begin = idle ? base::TimePoint::max() : base::TimePoint{};
    base::TimePoint end = base::TimePoint::max();
    double cpu_before = 0;
    runtime.run(tick, [&] {
        if (take_signals().stop) loop.stop();
        if (begin == base::TimePoint{} || (begin == base::TimePoint::max() && client.settled()))
            begin = loop.now() + warm_up;
        if (end == base::TimePoint::max() && loop.now() >= begin) {
            end = loop.now() + command.time;
            cpu_before = cpu_seconds();
            say("begin");
        }
        if (loop.now() >= end) {
            Json json = snapshot(client.tally(), loop, longest_turn);
            json["cpu_s"] = cpu_seconds() - cpu_before;
            say("end " + json.dump());
            end = base::TimePoint::max() - base::Duration{1}; // said; the parent ends us
        }
    });
    return 0;
}

} // namespace dataplane::loadgen
