// dkim.h: `millracectl dkim`: makes keys, prints their DNS records, checks what DNS has.
//
// Scope      Files, the configuration's [[dkim]] tables, and DNS. Nothing is asked of the running relay.
// Threading  One.
// Failure    Exit codes of output.h.
#pragma once

#include <string>
#include <vector>

namespace control::cli {

struct DkimOptions {
    std::string config;
    std::string domain, selector;
    std::string type = "rsa";
    int bits = 2048;
    std::string out;    // keygen
    std::string key;    // dns, check: a key file instead of the configuration's
    bool plain = false; // dns
    bool testing = false;
    std::vector<std::string> servers; // check; empty: the configuration's
    bool json = false;
};

int dkim_keygen(const DkimOptions& options);
int dkim_dns(const DkimOptions& options);
int dkim_check(const DkimOptions& options);

} // namespace control::cli
