// fixtures.h: keys, folders and messages that the tests of signing share.
//
// Owns       TempFolder: its folder, until it goes.
#pragma once

#include "dataplane/base/check.h"
#include "dataplane/message/dkim/key_set.h"

#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <string_view>

namespace tests {

/// RFC 8463 appendix A.1: published, so worthless.
inline constexpr std::string_view rfc8463_seed = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
inline constexpr std::string_view rfc8463_public = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
inline constexpr std::string_view rfc8463_rsa = R"(-----BEGIN RSA PRIVATE KEY-----
MIICXQIBAAKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi
Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqM
KrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB
AoGAH0cxOhFZDgzXWhDhnAJDw5s4roOXN4OhjiXa8W7Y3rhX3FJqmJSPuC8N9vQm
6SVbaLAE4SG5mLMueHlh4KXffEpuLEiNp9Ss3O4YfLiQpbRqE7Tm5SxKjvvQoZZe
zHorimOaChRL2it47iuWxzxSiRMv4c+j70GiWdxXnxe4UoECQQDzJB/0U58W7RZy
6enGVj2kWF732CoWFZWzi1FicudrBFoy63QwcowpoCazKtvZGMNlPWnC7x/6o8Gc
uSe0ga2xAkEA8C7PipPm1/1fTRQvj1o/dDmZp243044ZNyxjg+/OPN0oWCbXIGxy
WvmZbXriOWoSALJTjExEgraHEgnXssuk7QJBALl5ICsYMu6hMxO73gnfNayNgPxd
WFV6Z7ULnKyV7HSVYF0hgYOHjeYe9gaMtiJYoo0zGN+L3AAtNP9huqkWlzECQE1a
licIeVlo1e+qJ6Mgqr0Q7Aa7falZ448ccbSFYEPD6oFxiOl9Y9se9iYHZKKfIcst
o7DUw1/hz2Ck4N5JrgUCQQCyKveNvjzkkd8HjYs0SwM0fPjK16//5qDZ2UiDGnOe
uEzxBDAr518Z8VFbR41in3W4Y3yCDgQlLlcETrS+zYcL
-----END RSA PRIVATE KEY-----
)";

class TempFolder {
public:
    TempFolder() {
        std::random_device random;
        path_ = std::filesystem::temp_directory_path() / ("dkim-test-" + std::to_string(random()));
        std::filesystem::create_directories(path_);
    }
    ~TempFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TempFolder(const TempFolder&) = delete;
    TempFolder& operator=(const TempFolder&) = delete;
    [[nodiscard]] std::string operator/(std::string_view name) const {
        return (path_ / name).string();
    }
    /// Writes a file, mode 0600, and returns its path.
    std::string write(std::string_view name, std::string_view text) const {
        const std::filesystem::path path = path_ / name;
        std::filesystem::create_directories(path.parent_path());
        std::ofstream(path, std::ios::binary) << text;
        std::filesystem::permissions(path, std::filesystem::perms{0600});
        return path.string();
    }

private:
    std::filesystem::path path_;
};

/// One RSA-2048 key for all tests: making one takes a while.
inline const std::string& rsa_pem() {
    static const std::string pem = [] {
        using namespace dataplane::message::dkim;
        const auto made = SigningKey::generate(Algorithm::rsa_sha256, 2048);
        CHECK(made.has_value());
        return (*made)->to_pem();
    }();
    return pem;
}

inline dataplane::message::dkim::KeyTable table(std::string domain, std::string selector,
                                                std::string file) {
    dataplane::message::dkim::KeyTable made;
    made.domains = {std::move(domain)};
    made.selector = std::move(selector);
    made.key_file = std::move(file);
    made.headers = {"From", "To", "Subject", "Date", "Message-ID"};
    made.oversign = {"From", "To", "Subject", "Date", "Message-ID"};
    return made;
}

} // namespace tests
