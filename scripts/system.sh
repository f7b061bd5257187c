#!/bin/sh
# What the tests need from Debian: a Docker engine (real containers), and a Linux kernel that runs as an ordinary
# process (a real cgroup v2 memory controller on any machine). What cannot be had is named, and its tests say so too.
set -u
cd "$(dirname "$0")/.."
. scripts/apt.sh

PATH=$PATH:/usr/sbin:/sbin
uml=.cache/uml

# An engine or a busybox from elsewhere will do, and Debian's would put it out.
set --
command -v dockerd >/dev/null 2>&1 || set -- "$@" docker.io
command -v busybox >/dev/null 2>&1 || set -- "$@" busybox-static
if [ $# != 0 ] && [ -n "$(apt_missing "$@")" ]; then
    services="docker.socket docker.service"
    command -v containerd >/dev/null 2>&1 || services="$services containerd.service"
    apt_install "$@" || echo "setup: going on; tests in real containers will be skipped" >&2
    # The package would come up at the next boot and edit iptables; the tests start an engine of their own.
    if [ "$1" = docker.io ] && command -v dockerd >/dev/null 2>&1 && command -v systemctl >/dev/null 2>&1; then
        # shellcheck disable=SC2086
        as_root systemctl --quiet disable $services >/dev/null 2>&1 || :
    fi
fi

if [ ! -x $uml/linux.uml ]; then
    echo "setup: about to fetch Debian's user-mode-linux (41 MB) for one file, $uml/linux.uml; it is not installed"
    apt_fetch $uml user-mode-linux usr/bin/linux.uml ||
        echo "setup: going on; tests on a real cgroup v2 will be skipped" >&2
fi
if ! command -v busybox >/dev/null 2>&1 && [ ! -x $uml/busybox ]; then
    echo "setup: about to fetch Debian's busybox-static for one file, $uml/busybox; it is not installed"
    apt_fetch $uml busybox-static bin/busybox ||
        echo "setup: going on; tests on a real cgroup v2 will be skipped" >&2
fi
exit 0
