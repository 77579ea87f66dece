// main.cc: millrace-control: start, signals, stop.

#include "control/admin_server.h"
#include "control/control_process.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <string>
#include <unistd.h>

namespace {

constexpr auto log_pattern =
    "time=%Y-%m-%dT%H:%M:%S.%eZ level=%l %v"; // the data plane's log looks the same

std::shared_ptr<spdlog::logger> make_log(const std::string& file) {
    auto log = file.empty()
                   ? std::make_shared<spdlog::logger>(
                         "control", std::make_shared<spdlog::sinks::stderr_sink_mt>())
                   : std::make_shared<spdlog::logger>(
                         "control", std::make_shared<spdlog::sinks::basic_file_sink_mt>(file));
    log->set_pattern(log_pattern, spdlog::pattern_time_type::utc);
    log->flush_on(spdlog::level::info);
    return log;
}

void note(spdlog::logger& log, std::string_view line) {
    const bool alarming = line.starts_with("warning") || line.starts_with("login_refused") ||
                          line.starts_with("login_throttled") ||
                          line.starts_with("reload_refused") ||
                          line.starts_with("publish_failed") || line.starts_with("bad_frame") ||
                          line.starts_with("connection_refused");
    log.log(alarming ? spdlog::level::warn : spdlog::level::info, "event={}", line);
}

/// For a quoted value of the log.
std::string without_quotes(std::string text) {
    std::replace(text.begin(), text.end(), '"', '\'');
    return text;
}

void serve(control::ControlProcess& process, const sigset_t& signals, spdlog::logger& log) {
    constexpr timespec second{1, 0};
    for (;;) {
        const int signal = sigtimedwait(&signals, nullptr, &second);
        if (signal == SIGTERM || signal == SIGINT)
            return log.info("event=stopping signal={}", signal);
        if (signal == SIGHUP) {
            const control::ReloadReport report = process.reload();
            for (const std::string& error : report.errors)
                log.error("event=reload_error text=\"{}\"", without_quotes(error));
            for (const std::string& warning : report.warnings)
                log.warn("event=reload_warning text=\"{}\"", without_quotes(warning));
        }
        process.follow_accounts();
    }
}

int run(const std::string& config_file, const std::string& log_file, bool foreground) {
    // Before the fork: whoever starts the daemon sees what is wrong with its configuration.
    const control::ConfigResult checked = control::load_config(config_file);
    for (const control::ConfigError& error : checked.errors)
        std::cerr << error.to_string() << '\n';
    if (!checked.errors.empty()) return EXIT_FAILURE;
    auto log = make_log(log_file);
    if (!foreground && daemon(1, log_file.empty() ? 1 : 0) != 0) {
        std::perror("millrace-control: daemon");
        return EXIT_FAILURE;
    }
    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP})
        sigaddset(&signals, signal);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr); // before the first thread: all inherit it
    std::signal(SIGPIPE, SIG_IGN);

    auto process = control::ControlProcess::start(
        config_file, [log](std::string_view line) { note(*log, line); });
    if (!process) {
        for (const std::string& error : process.error())
            log->error("event=start_failed text=\"{}\"", without_quotes(error));
        return EXIT_FAILURE;
    }
    const control::AdminServer admin(**process);
    log->info("event=ready config={} admin={}", config_file,
              (*process)->admin_address().to_string());
    serve(**process, signals, *log);
    return EXIT_SUCCESS;
}

} // namespace

int main(int argc, char** argv) {
    std::string config_file = "/etc/millrace/millrace.toml";
    std::string log_file;
    bool foreground = false;
    CLI::App app{"millrace-control: Millrace's configuration, accounts, statistics and admin API. "
                 "The data plane "
                 "(millraced) runs on without it.\nSignals: SIGHUP reloads the configuration, "
                 "SIGTERM ends."};
    app.add_option("--config", config_file, "configuration file")->capture_default_str();
    app.add_option("--log", log_file, "log file; standard error without it");
    app.add_flag("--foreground", foreground, "do not become a daemon");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? EXIT_SUCCESS : 2;
    }
    try {
        return run(config_file, log_file, foreground);
    } catch (const std::exception& error) {
        std::cerr << "millrace-control: " << error.what() << '\n';
        return EXIT_FAILURE;
    }
}
