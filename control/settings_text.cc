// settings_text.cc: settings for people: what a value must be, and docs/configuration.md.
#include "control/settings.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace control {
namespace {

using enum SettingType;
constexpr double kib = 1024, mib = kib * 1024, gib = mib * 1024, tib = gib * 1024;
constexpr double hour = 3600, day = 24 * hour;

std::string number(double value) {
    if (value == std::floor(value)) return std::to_string(static_cast<long long>(value));
    std::string text = std::to_string(value);
    text.erase(text.find_last_not_of('0') + 1);
    return text;
}

std::string in_units(double value, std::span<const std::pair<double, std::string_view>> units,
                     std::string_view one) {
    for (const auto& [unit, name] : units) {
        if (value >= unit && std::fmod(value, unit) == 0)
            return number(value / unit) + std::string{name};
    }
    return number(value) + std::string{one};
}

std::string bound(const Setting& setting, double value) {
    static constexpr std::array<std::pair<double, std::string_view>, 3> times{
        {{day, "d"}, {hour, "h"}, {60, "m"}}};
    static constexpr std::array<std::pair<double, std::string_view>, 4> sizes{
        {{tib, "TiB"}, {gib, "GiB"}, {mib, "MiB"}, {kib, "KiB"}}};
    if (setting.type == duration) return in_units(value, times, "s");
    if (setting.type == size) return in_units(value, sizes, "B");
    if (setting.type == rate) return number(value) + "/s";
    return number(value);
}

std::string range(const Setting& setting) {
    if (setting.least == 0 && setting.most == 0) return "";
    return bound(setting, setting.least) + " to " + bound(setting, setting.most);
}

std::string alternatives(const Setting& setting) {
    std::string text;
    std::string_view rest = setting.choices;
    while (!rest.empty()) {
        const std::size_t end = std::min(rest.find('|'), rest.size());
        if (!text.empty()) text += end == rest.size() ? " or " : ", ";
        text += '"' + std::string{rest.substr(0, end)} + '"';
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return text;
}

std::string_view type_name(SettingType type) {
    switch (type) {
    case text:
        return "text";
    case boolean:
        return "boolean";
    case integer:
        return "integer";
    case real:
        return "number";
    case duration:
        return "duration";
    case size:
        return "size";
    case rate:
        return "rate";
    case address:
        return "IP:PORT";
    case ip:
        return "IP address";
    case ip_v4:
        return "IPv4 address";
    case ip_v6:
        return "IPv6 address";
    case network:
        return "network";
    case device:
        return "device";
    case path:
        return "path";
    case file:
        return "file";
    case choice:
        return "choice";
    case host_name:
        return "host name";
    case text_list:
        return "list of texts";
    case integer_list:
        return "list of integers";
    case network_list:
        return "list of networks";
    case domain_list:
        return "list of domains";
    case host_list:
        return "list of hosts";
    case server_list:
        return "list of resolvers";
    case own_list:
        return "list of IP/PREFIX";
    }
    return "";
}

} // namespace

std::string describe(const Setting& setting) {
    const std::string limits = range(setting).empty() ? "" : " from " + range(setting);
    switch (setting.type) {
    case text:
        return "a text in quotes";
    case boolean:
        return "true or false";
    case integer:
        return "an integer" + limits;
    case real:
        return "a number" + limits;
    case duration:
        return "a duration" + limits + " such as \"90s\", \"5m\" or \"1h30m\"";
    case size:
        return "a size" + limits + " such as \"64MiB\"";
    case rate:
        return "a rate" + limits + " such as \"100/s\" or \"6000/min\", a whole number per second";
    case address:
        return "\"IP:PORT\" or \"[IPv6]:PORT\"";
    case ip:
        return "an IP address";
    case ip_v4:
        return "an IPv4 address";
    case ip_v6:
        return "an IPv6 address";
    case network:
        return "a network such as \"192.0.2.0/24\" or \"::/0\"";
    case device:
        return "a PCI address such as \"0000:3b:00.0\", or a virtual device such as "
               "\"net_af_packet0,iface=veth1\"";
    case path:
        return "a path";
    case file:
        return "the path of a file that can be read";
    case choice:
        return alternatives(setting);
    case host_name:
        return "a host name";
    case text_list:
        return "a list of texts";
    case integer_list:
        return "a list of integers" + limits;
    case network_list:
        return "a list of networks such as [\"10.0.0.0/8\", \"2001:db8::1\"]";
    case domain_list:
        return "a list of domains such as [\"example.com\", \".example.org\"]";
    case host_list:
        return "a list of hosts such as [\"smart.example.com:25\", \"mx:example.com\"]";
    case server_list:
        return "a list of resolvers such as [\"127.0.0.1\", \"127.0.0.1@5353\"]";
    case own_list:
        return "a list of addresses of hosts with their network's prefix such as "
               "[\"192.0.2.10/24\", \"2001:db8::10/64\"]";
    }
    return "";
}

std::string settings_page() {
    std::string page = "# Configuration\n"
                       "\n"
                       "Made from the table in `control/settings.cc` by `millracectl config-doc`; "
                       "a test fails when the two differ.\n"
                       "\n"
                       "The relay reads one TOML file, by default `/etc/millrace/millrace.toml`. "
                       "`millracectl check FILE` says\n"
                       "everything that is wrong with one, `millracectl reload` puts it into use, "
                       "and a file with an error changes\n"
                       "nothing. Paths are relative to the file's folder. A good start is "
                       "[examples/millrace.toml](examples/millrace.toml).\n"
                       "\n"
                       "Durations are written `\"90s\"`, `\"5m\"`, `\"1h30m\"`, `\"2d\"`; sizes "
                       "`\"64KiB\"`, `\"50MiB\"`, `\"1GiB\"`; rates `\"100/s\"`,\n"
                       "`\"6000/min\"`, `\"360000/h\"`. A change of a setting marked *start* waits "
                       "for the next start of the process it is for;\n"
                       "the others take effect with a reload, without dropping a connection.\n";
    for (const SettingTable& table : setting_tables()) {
        page += "\n## " + std::string{table.heading} + "\n\n" + std::string{table.text} + "\n\n";
        page += "| key | type | default | range | effect | why change it "
                "|\n|---|---|---|---|---|---|\n";
        for (const Setting& setting : settings()) {
            if (setting.table != table.name) continue;
            page += "| `" + std::string{setting.key} + "` | " +
                    std::string{type_name(setting.type)} + " | ";
            page += setting.presence == Presence::required
                        ? "required, e.g. `" + std::string{setting.value} + "`"
                        : "`" + std::string{setting.value} + "`";
            page +=
                " | " + (setting.type == choice ? alternatives(setting) : range(setting)) + " | ";
            page += std::string{setting.effect == Effect::start ? "start" : "reload"} + " | " +
                    std::string{setting.why} + " |\n";
        }
    }
    return page;
}

} // namespace control
