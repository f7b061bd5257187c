# Sourced: apt_install PACKAGE... says what it is about to do, does it as root or through sudo, and never starts a service.

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "setup: this needs root or sudo: $*" >&2
        return 1
    fi
}

apt_install() {
    missing=
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 || {
        echo "setup: no apt-get here; install by hand:$missing" >&2
        return 1
    }
    echo "setup: about to install Debian packages (as root or with sudo):$missing"
    # Debian asks policy-rc.d before it starts a service; 101 means no. Ours goes away again, somebody else's stays.
    guard=/usr/sbin/policy-rc.d
    ours=
    if [ ! -e "$guard" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" >/dev/null && as_root chmod 755 "$guard" && ours=1
    fi
    status=0
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 update >/dev/null || status=$?
    # shellcheck disable=SC2086
    [ $status = 0 ] && { as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends $missing >/dev/null || status=$?; }
    [ -n "$ours" ] && as_root rm -f "$guard"
    [ $status = 0 ] || echo "setup: apt-get failed ($status); the packages were:$missing" >&2
    return $status
}
