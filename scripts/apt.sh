# Sourced from the repository's root. apt_install PACKAGE... says what it is about to do, does it as root or through
# sudo, starts no service and removes no package. apt_fetch FOLDER PACKAGE FILE needs no root and installs nothing.

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

# The arguments that are not installed. One question for all of them, because each one costs a read of dpkg's status.
apt_missing() {
    dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null | awk '
        BEGIN { for (i = 1; i < ARGC; i++) wanted[i] = ARGV[i]; n = ARGC; ARGC = 1 }
        $2 == "installed" { there[$1] }
        END { for (i = 1; i < n; i++) if (!(wanted[i] in there)) printf " %s", wanted[i] }' "$@"
}

# DPkg::Lock::Timeout covers dpkg's lock but not the one on the lists, where a second apt-get gives up at once.
apt_update() {
    tries=0
    until said=$(as_root env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -qq update 2>&1 >/dev/null); do
        case $said in *"Could not get lock"*) ;; *) tries=60 ;; esac
        tries=$((tries + 1))
        [ $tries -lt 60 ] || { echo "$said" | sed -n '1s/^/setup: apt-get update: /p' >&2; return 1; }
        sleep 2
    done
}

apt_install() {
    missing=$(apt_missing "$@")
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 || {
        echo "setup: no apt-get here; install by hand:$missing" >&2
        return 1
    }
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null 2>&1 || {
        echo "setup: neither root nor sudo here, so these Debian packages are not installed:$missing" >&2
        return 1
    }
    echo "setup: about to install Debian packages (as root or with sudo):$missing"
    # A subshell, so that the traps are not the caller's: an interrupted run must not leave our policy-rc.d behind,
    # which would keep services from being started for ever.
    (
        # Debian asks policy-rc.d before it starts a service; 101 means no. Ours is removed again, another one stays.
        guard=/usr/sbin/policy-rc.d
        if [ ! -e "$guard" ]; then
            trap 'as_root rm -f "$guard"' EXIT
            trap 'exit 130' HUP INT TERM
            printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" >/dev/null || exit 1
            as_root chmod 755 "$guard" || exit 1
        fi
        # Old lists may still do, so a failed update is not the end.
        apt_update || :
        # --no-remove: what would put another package out (docker.io against docker-ce) fails instead.
        # Packages chat while they are set up; only a failure makes that worth reading.
        # shellcheck disable=SC2086
        said=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
            install --no-install-recommends --no-remove $missing 2>&1) && exit 0
        status=$?
        echo "$said" | tail -n 8 >&2
        echo "setup: apt-get failed ($status); the packages were:$missing" >&2
        exit $status
    )
}

# Puts one file, the member $3 of the package $2, into the folder $1; apt checks its signature as always. Any user may.
apt_fetch() (
    mkdir -p "$1" || exit 1
    folder=$(cd "$1" && pwd)
    parts=$(mktemp -d "$folder/.fetch.XXXXXX") || exit 1
    trap 'rm -rf "$parts"' EXIT
    trap 'exit 130' HUP INT TERM
    mkdir -p "$parts/lists/partial" "$parts/cache/archives/partial" && cd "$parts" || exit 1
    # Without the sandbox user, which could not write into our folder when root calls.
    fetch() { LC_ALL=C apt-get -qq -o APT::Sandbox::User=root "$@" 2>&1; }
    own_lists() { fetch -o "Dir::State::lists=$parts/lists" -o "Dir::Cache=$parts/cache" "$@"; }
    # With the machine's lists; where there are none, or older than what the mirror has, with lists of our own.
    said=$(fetch download "$2") || said=$(own_lists update && own_lists download "$2") &&
        dpkg-deb --fsys-tarfile ./*.deb | tar -x "./$3" && mv "./$3" "$folder/" || {
        echo "setup: the Debian package $2 could not be fetched: $(echo "$said" | grep -v '^W:' | tail -n 1)" >&2
        exit 1
    }
)
