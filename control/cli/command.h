// command.h: how a part of the command line adds its commands.
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace control::cli {

/// Makes a command below another that, when it is chosen, runs what it is given.
using AddCommand = std::function<CLI::App*(CLI::App& parent, const std::string& name,
                                           const std::string& help, std::function<int()> run)>;

} // namespace control::cli
