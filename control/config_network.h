// config_network.h: the part of a configuration that is about our own TCP/IP: [dpdk], [[port]],
// [tcp], and who is on it.
//
// Scope      Reads the three; answers for a listener, a source or the egress whether what it says of
//            its transport can be.
// Owns       The addresses of all ports while the file is read.
// Threading  Any; one object for one file.
// Failure    Errors and warnings go into the file's lists.
#pragma once

#include "control/config_tables.h"

#include <map>
#include <set>
#include <string>
#include <vector>

namespace control {

class NetworkReader {
public:
    NetworkReader(const Tables& tables, schema::PolicyT& policy, std::vector<std::string>& warnings)
        : tables_(tables), policy_(policy), warnings_(warnings) {}

    /// \pre  policy.start_up is there, [server] in it
    void read();
    [[nodiscard]] schema::Transport listener_transport(const Section& from,
                                                       const base::SocketAddress& address);
    [[nodiscard]] schema::Transport source_transport(const Section& from);
    /// [server] egress_transport.
    [[nodiscard]] schema::Transport egress_transport(const Section& server);
    /// To be called last: warns of what is configured and not used.
    void warn_of_unused();

private:
    struct PortNetworks { // of the port that is being read
        std::set<base::Network> networks;
        std::set<unsigned> prefixes;
        bool v6 = false;
    };
    void dpdk();
    void tcp();
    void port(const Section& from, const toml::table& node);
    void addresses(const Section& from, schema::PortT& to, PortNetworks& own);
    void routes(const Section& from, const toml::table& node, schema::PortT& to,
                const PortNetworks& own);
    [[nodiscard]] schema::Transport transport(const Section& from, std::string_view key);
    [[nodiscard]] bool family_has_address(bool v6) const;

    const Tables& tables_;
    schema::PolicyT& policy_;
    std::vector<std::string>& warnings_;
    std::map<std::string, unsigned> names_, devices_;
    std::map<base::IpAddress, unsigned> addresses_; // of all ports, with the line
    bool whole_ = true; // every port could be read: what is missing in addresses_ is on none
    bool used_ = false;
};

} // namespace control
