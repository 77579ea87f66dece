// settings.h: every setting there is, once: name, type, default, range, and why one would change
// it.
//
// Scope      The table that config.cc validates against, takes defaults from, and that
//            docs/configuration.md is printed from (`millracectl config-doc`; a test compares).
//            Relations between settings (a key needs its certificate) are in config.cc.
// Threading  Constant.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace control {

enum class SettingType : std::uint8_t {
    text,
    boolean,
    integer,
    real,
    duration, // "5m", "1h30m", "300s"
    size,     // "64MiB"
    rate,     // "100/s", "6000/min"
    address,  // "IP:PORT"
    ip,       // of either family
    ip_v4,
    ip_v6,
    network, // "10.0.0.0/8"
    device,  // a PCI address, or a virtual device as DPDK writes it
    path,    // of something that will be made
    file,    // of something that must be there
    choice,
    host_name,
    text_list,
    integer_list,
    network_list,
    domain_list,
    host_list,   // "host:port", "[2001:db8::1]:25", "mx:name"
    server_list, // "127.0.0.1@5353"
    own_list,    // "192.0.2.10/24": an address of ours, and the network it is in
};

enum class Presence : std::uint8_t { optional, required };
enum class Effect : std::uint8_t { reload, start }; // when a change takes effect

struct Setting {
    std::string_view table; // "server"; of [[listener]]: "listener"
    std::string_view key;
    SettingType type;
    Presence presence;
    std::string_view value; // in TOML: the default, or an example when required
    double least = 0;       // of numbers, in seconds, bytes, or per second; inclusive
    double most = 0;
    std::string_view choices; // "mx|smart_host|discard"
    Effect effect = Effect::reload;
    std::string_view why;
};

struct SettingTable {
    std::string_view name;
    std::string_view heading; // as it is written: "[[listener]]"
    std::string_view text;    // what it is for
};

[[nodiscard]] std::span<const Setting> settings() noexcept;
[[nodiscard]] std::span<const SettingTable> setting_tables() noexcept;
[[nodiscard]] const Setting* find_setting(std::string_view table, std::string_view key) noexcept;

/// What is expected, for people: "an integer from 1 to 64".
[[nodiscard]] std::string describe(const Setting& setting);

/// docs/configuration.md.
[[nodiscard]] std::string settings_page();

} // namespace control
