#include "control/cli/password_input.h"

#include <fstream>
#include <iostream>
#include <termios.h>
#include <unistd.h>

namespace control::cli {
namespace {

class EchoOff {
public:
    EchoOff() {
        tcgetattr(STDIN_FILENO, &before_);
        termios quiet = before_;
        quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO);
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    }
    ~EchoOff() { tcsetattr(STDIN_FILENO, TCSAFLUSH, &before_); }
    EchoOff(const EchoOff&) = delete;
    EchoOff& operator=(const EchoOff&) = delete;

private:
    termios before_{};
};

std::string first_line(std::istream& stream) {
    std::string line;
    std::getline(stream, line);
    if (line.ends_with('\r')) line.pop_back();
    return line;
}

} // namespace

std::expected<std::string, std::string> read_password(const std::string& file) {
    if (!file.empty()) {
        std::ifstream stream(file);
        if (!stream) return std::unexpected(file + " cannot be read");
        return first_line(stream);
    }
    if (isatty(STDIN_FILENO) == 0) return first_line(std::cin);
    const EchoOff quiet;
    std::cerr << "Password: ";
    std::string once = first_line(std::cin);
    std::cerr << "\nThe same again: ";
    const std::string twice = first_line(std::cin);
    std::cerr << '\n';
    if (once != twice) return std::unexpected("the two are not the same");
    return once;
}

} // namespace control::cli
