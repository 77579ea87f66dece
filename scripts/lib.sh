# lib.sh: what the scripts share: where things are, what is said, what is installed.
#
# Scope      Sourced, never run. Messages go to stderr, so that stdout stays for results.
# Failure    die() names what went wrong and what to do about it, and ends the script with status 1.
# shellcheck shell=bash

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build_root="$root/build"
export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*" >&2; }
step() { printf '== %s\n' "$*" >&2; }

# die MESSAGE [REMEDY]
die() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    if [ $# -gt 1 ]; then printf '  remedy: %s\n' "$2" >&2; fi
    exit 1
}

# usage: prints the calling script's header comment, which is its manual.
usage() { sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//;p}' "$0"; }

# The machine's package lists are refreshed once a run, and only when something is missing.
apt_refreshed=no
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo -n "$@"
    else
        die "installing packages needs root" "run scripts/deps as root, then this script again"
    fi
}

# packages_missing NAME...: prints those that are not installed.
packages_missing() {
    dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' "$@" 2>/dev/null |
        awk -v wanted="$*" '
            $1 == "ii" { have[$2] = 1 }
            END { n = split(wanted, name, " "); for (i = 1; i <= n; i++) if (!(name[i] in have)) print name[i] }'
}

# install_packages NAME...: does nothing, and needs no network, when all are there.
install_packages() {
    local missing log
    mapfile -t missing < <(packages_missing "$@")
    if [ "${#missing[@]}" -eq 0 ]; then return 0; fi
    say "installing ${#missing[@]} packages: ${missing[*]}"
    log="$(mktemp)"
    if [ "$apt_refreshed" = no ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 update >"$log" 2>&1 ||
            { tail -n 20 "$log" >&2; die "apt-get update failed" "check the network and /etc/apt/sources.list"; }
        apt_refreshed=yes
    fi
    # policy-rc.d answers 101 while we install, so that no service (Postfix, NSD) is started.
    local policy=/usr/sbin/policy-rc.d made_policy=no
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        made_policy=yes
    fi
    local status=0
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
        -o Dpkg::Options::=--force-confold --no-install-recommends install "${missing[@]}" >"$log" 2>&1 || status=$?
    if [ "$made_policy" = yes ]; then as_root rm -f "$policy"; fi
    if [ "$status" -ne 0 ]; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        die "apt-get install failed" "the lines above say why; nothing else was changed"
    fi
    rm -f "$log"
}

# What builds and runs Millrace; what tests it; what only developers and the fuzzers need.
packages_build=(
    g++ meson ninja-build pkg-config ccache make
    libssl-dev libhyperscan-dev liburing-dev libjemalloc-dev libunbound-dev
    libflatbuffers-dev flatbuffers-compiler libsqlite3-dev libtomlplusplus-dev libcli11-dev libspdlog-dev
    nlohmann-json3-dev libcpp-httplib-dev libargon2-dev libidn2-dev libgtest-dev libbenchmark-dev libdpdk-dev
    ca-certificates openssl python3 procps curl
)
packages_test=(fio swaks libnet-ssleay-perl nsd ldnsutils postfix python3-aiosmtpd iproute2 ethtool tshark opendkim opendkim-tools python3-dkim python3-nacl chromium)
packages_dev=(clang-19 clang-tidy-19 clang-format-19 libclang-rt-19-dev lld-19)

# disable_services: the mail server and name server packages are tools here, not services.
disable_services() {
    local unit
    command -v systemctl >/dev/null 2>&1 || return 0
    for unit in postfix nsd opendkim; do
        if [ -e "/etc/systemd/system/multi-user.target.wants/$unit.service" ]; then
            as_root systemctl disable --now "$unit" >/dev/null 2>&1 || true
        fi
    done
}

# with_ccache COMPILER: the compiler through ccache, when there is one. Clones share what is compiled alike.
export CCACHE_BASEDIR="${CCACHE_BASEDIR:-$root}" CCACHE_NOHASHDIR="${CCACHE_NOHASHDIR:-1}"
with_ccache() { if command -v ccache >/dev/null 2>&1; then printf 'ccache %s' "$1"; else printf '%s' "$1"; fi; }

# seconds_since START: for "built in 42 s".
seconds_since() { printf '%d' $(($(date +%s) - $1)); }
