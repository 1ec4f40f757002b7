#!/bin/sh
# install.sh - `make install` and `make uninstall`. Needs the standard utilities and install(1).
#
#   sh example/install/install.sh install|uninstall
#
# Environment: B (build folder), PREFIX (where the files are used, /usr/local), DESTDIR (put before
# it, for packages; empty).
set -eu
B=${B:-build} PREFIX=${PREFIX:-/usr/local} DESTDIR=${DESTDIR-}
to=$DESTDIR$PREFIX
here=example/install units=lib/systemd/system

# SOURCE MODE PLACE: all that is installed, PLACE below the prefix, which units are told.
files() {
    cat <<END
$B/gateway 755 bin/gateway
$B/appservice 755 bin/appservice
$B/msc4203 755 bin/msc4203
msc4203.h 644 include/msc4203.h
$here/gateway.8 644 share/man/man8/gateway.8
$here/appservice.1 644 share/man/man1/appservice.1
$here/msc4203.1 644 share/man/man1/msc4203.1
$here/msc4203-gateway.service 644 $units/msc4203-gateway.service
$here/msc4203-appservice.service 644 $units/msc4203-appservice.service
$here/sysusers.conf 644 lib/sysusers.d/msc4203.conf
example/gateway.conf 644 share/doc/msc4203/gateway.conf
$here/proxies.md 644 share/doc/msc4203/proxies.md
END
}

case ${1-} in
install)
    files | while read -r source mode place; do
        install -d -m 755 "$to/${place%/*}"
        case $source in
        *.service)
            sed "s|@PREFIX@|$PREFIX|g" "$source" >"$B/install.tmp"
            install -m "$mode" "$B/install.tmp" "$to/$place"
            rm -f "$B/install.tmp"
            ;;
        *) install -m "$mode" "$source" "$to/$place" ;;
        esac
        echo "$to/$place"
    done
    ;;
uninstall) # what the programs have made, and /etc/msc4203, stays
    files | while read -r source mode place; do
        rm -f "$to/$place"
    done
    rmdir "$to/share/doc/msc4203" 2>/dev/null || :
    ;;
*)
    echo "usage: install.sh install|uninstall" >&2
    exit 2
    ;;
esac
