#include "control/password.h"

#include "control/notation.h"

#include <algorithm>
#include <argon2.h>
#include <array>
#include <cctype>
#include <set>
#include <sys/random.h>
#include <vector>

namespace control {
namespace {

constexpr std::size_t salt_bytes = 16;
constexpr std::size_t hash_bytes = 32;
constexpr std::size_t distinct_min = 6;

// What is left of the passwords people choose most once digits and signs are taken off their ends
// and the usual digits for letters are turned back. With twelve characters at least, longer lists
// add little.
constexpr std::array<std::string_view, 48> common_words{
    "password",      "passwort", "passw",     "pass",       "qwerty",   "qwertyuiop", "qwertz",
    "qwertzuiop",    "azerty",   "asdfghjkl", "zxcvbnm",    "letmein",  "welcome",    "admin",
    "administrator", "root",     "changeme",  "secret",     "iloveyou", "monkey",     "dragon",
    "football",      "baseball", "superman",  "batman",     "trustno",  "sunshine",   "princess",
    "starwars",      "master",   "login",     "hello",      "freedom",  "whatever",   "shadow",
    "michael",       "jennifer", "computer",  "internet",   "default",  "test",       "testing",
    "user",          "mail",     "smtp",      "postmaster", "millrace", "relay"};

std::string core_of(std::string_view password) {
    std::string core = lower(password);
    while (!core.empty() && std::isalpha(static_cast<unsigned char>(core.back())) == 0)
        core.pop_back();
    core.erase(0, static_cast<std::size_t>(
                      std::find_if(core.begin(), core.end(),
                                   [](char byte) {
                                       return std::isalpha(static_cast<unsigned char>(byte)) != 0;
                                   }) -
                      core.begin()));
    for (char& byte : core) {
        constexpr std::string_view digits = "013457@$!", letters = "oleastasi";
        const std::size_t at = digits.find(byte);
        if (at != std::string_view::npos) byte = letters[at];
    }
    return core;
}

/// "passwordpassword" is no better than "password".
bool repeats(std::string_view text, std::string_view word) {
    if (word.empty() || text.empty() || text.size() % word.size() != 0) return false;
    for (std::size_t at = 0; at < text.size(); at += word.size()) {
        if (text.substr(at, word.size()) != word) return false;
    }
    return true;
}

bool runs_through(std::string_view text) {
    // "abcdefghijkl", "123456789012", "cba...": steps of one, or of nine where digits wrap.
    const auto steps = [&](int step) {
        std::size_t kept = 0;
        for (std::size_t at = 1; at < text.size(); ++at) {
            const int difference = text[at] - text[at - 1];
            if (difference == step || difference == -9 * step) ++kept;
        }
        return kept + 1 >= text.size() - 1;
    };
    return text.size() > 2 && (steps(1) || steps(-1));
}

} // namespace

std::optional<std::string> hash_password(std::string_view password) {
    std::array<std::uint8_t, salt_bytes> salt{};
    if (getrandom(salt.data(), salt.size(), 0) != static_cast<ssize_t>(salt.size()))
        return std::nullopt;
    std::vector<char> encoded(argon2_encodedlen(password_passes, password_memory_kib,
                                                password_lanes, salt_bytes, hash_bytes, Argon2_id));
    const int result = argon2id_hash_encoded(
        password_passes, password_memory_kib, password_lanes, password.data(), password.size(),
        salt.data(), salt.size(), hash_bytes, encoded.data(), encoded.size());
    if (result != ARGON2_OK) return std::nullopt;
    return std::string{encoded.data()};
}

bool password_matches(const std::string& hash, std::string_view password) {
    if (password.size() > password_bytes_max) return false;
    return argon2id_verify(hash.c_str(), password.data(), password.size()) == ARGON2_OK;
}

const std::string& hash_of_nobody() {
    static const std::string hash = [] {
        std::array<char, 32> random{};
        static_cast<void>(!getrandom(random.data(), random.size(), 0));
        return hash_password({random.data(), random.size()}).value_or("");
    }();
    return hash;
}

std::optional<std::string> password_weakness(std::string_view account, std::string_view password) {
    if (password.size() < password_bytes_min) {
        return "the password has " + std::to_string(password.size()) + " characters; at least " +
               std::to_string(password_bytes_min) + " are needed";
    }
    if (password.size() > password_bytes_max) {
        return "the password has more than " + std::to_string(password_bytes_max) + " bytes";
    }
    if (password.find('\0') != std::string_view::npos)
        return "the password holds a NUL, which AUTH PLAIN cannot carry";
    const std::string low = lower(password);
    const std::string name = lower(account.substr(0, account.find('@')));
    if (name.size() >= 4 && low.find(name) != std::string::npos)
        return "the password contains the account's name";
    if (std::set<char>(low.begin(), low.end()).size() < distinct_min) {
        return "the password has fewer than " + std::to_string(distinct_min) +
               " different characters";
    }
    if (runs_through(low)) return "the password is a run of neighbouring characters";
    const std::string core = core_of(password);
    const bool common =
        core.empty() || std::any_of(common_words.begin(), common_words.end(),
                                    [&](std::string_view word) { return repeats(core, word); });
    if (common && password.size() < 2 * password_bytes_min) {
        return "the password is a common one with digits or signs around it; take several "
               "unrelated words";
    }
    return std::nullopt;
}

} // namespace control
