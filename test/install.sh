#!/bin/sh
# install.sh - `make test-install`: installs into a temporary folder, runs what is there, compares
# the manual pages with what the programs say of themselves, and uninstalls. Where mandoc or
# systemd-analyze are missing it says so and leaves out what they would check.
# Environment: B (build folder), CC, MAKE. Prints `install: N passed, N failed`.
set -u
cd "$(dirname "$0")/.." || exit 1
B=${B:-build} MAKE=${MAKE:-make} CC=${CC:-cc}
case $B in /*) dir=$B/install ;; *) dir=$PWD/$B/install ;; esac
# shellcheck disable=SC2034
suite=install
. test/check.sh

rm -rf "$dir"
mkdir -p "$dir"
top="$dir/a root" # a blank in it must not matter
at=$top/opt/there
make_it() {
    (umask 077 && $MAKE -s B="$B" CC="$CC" PREFIX=/opt/there DESTDIR="$top" "$1")
}

# same TITLE, with what is expected and what there is in files: they must be equal.
same() {
    check "$1" diff "$2" "$3"
}

# ---- what is installed ----

check 'make install' make_it install
cat >"$dir/expected" <<END
644 include/msc4203.h
644 lib/systemd/system/msc4203-appservice.service
644 lib/systemd/system/msc4203-gateway.service
644 lib/sysusers.d/msc4203.conf
644 share/doc/msc4203/gateway.conf
644 share/doc/msc4203/proxies.md
644 share/man/man1/appservice.1
644 share/man/man1/msc4203.1
644 share/man/man8/gateway.8
755 bin/appservice
755 bin/gateway
755 bin/msc4203
END
(cd "$at" && find . -type f -exec stat -c '%a %n' {} + | sed 's| \./| |' | LC_ALL=C sort) \
    >"$dir/found"
same 'files and modes' "$dir/expected" "$dir/found"
find "$top/opt" -type d ! -perm 755 >"$dir/found"
same 'modes of folders' /dev/null "$dir/found"
find "$top" -type f ! -path "$at/*" >"$dir/found"
same 'nothing outside of the prefix' /dev/null "$dir/found"
check 'the header is the same' cmp msc4203.h "$at/include/msc4203.h"
printf '#include <msc4203.h>\nint main(void) { return MSC4203_VERSION[0] == 0; }\n' >"$dir/user.c"
check 'a program can use it' "$CC" -std=c99 -I"$at/include" -o "$dir/user" "$dir/user.c"

version=$(sed -n 's/^#define MSC4203_VERSION "\(.*\)"/\1/p' msc4203.h)
for program in gateway appservice msc4203; do
    said=$("$at/bin/$program" --version 2>&1)
    check "$program --version" test "$said" = "$program $version"
done
check 'the configuration is valid' "$at/bin/gateway" --check "$at/share/doc/msc4203/gateway.conf"

# ---- the units ----

units=$at/lib/systemd/system
for unit in "$units"/*.service; do
    name=${unit##*/}
    # shellcheck disable=SC2016
    check "$name: no prefix is left open" sh -c '! grep -n "@[A-Z]*@" "$1"' - "$unit"
    sed -n 's/^Exec[A-Za-z]*=\([^ ]*\).*/\1/p' "$unit" | grep -v '^/bin/kill$' | sort -u |
        while read -r path; do
            [ -x "$top$path" ] || echo "$path is not installed"
        done >"$dir/found"
    same "$name: its programs" /dev/null "$dir/found"
    if command -v systemd-analyze >/dev/null; then
        # It looks for programs where they will be: they are told where they are instead.
        sed "s|/opt/there/|$dir/there/|g" "$unit" >"$dir/$name"
        ln -sfn "$at" "$dir/there"
        check "$name: systemd-analyze verify" silent env SYSTEMD_LOG_LEVEL=warning \
            systemd-analyze verify --man=no "$dir/$name"
        check "$name: systemd-analyze security" systemd-analyze security --offline=true \
            --threshold=20 "$dir/$name"
    fi
done

# ---- the manual pages ----

# Options are `Fl -name` or `Fl n` in a page, and stand alone in what a program says, but for those
# of other programs, which it quotes.
page_options() {
    grep -oE '(Fl|\|) (-[a-z-]+|h)( |$)' "$1" | sed 's/^[^ ]* /-/; s/ $//' | sort -u
}
said_options() {
    "$at/bin/$1" --help | tr '\n' ' ' | sed 's/`[^`]*`//g' | tr ' ,[]|' '\n\n\n\n\n' |
        grep -xE -- '--[a-z][a-z-]*|-h' | sort -u
}
# Statuses are one digit, in a list that begins behind `Exit status:`.
page_statuses() {
    sed -n '/^\.Sh EXIT STATUS/,/^\.Sh EXAMPLES/s/^\.It \([0-9]\)$/\1/p' "$1" | sort -u
}
said_statuses() {
    "$at/bin/$1" --help | sed -n '/Exit status:/,$p' | grep -oE '(^|[:;,] )[0-9] ' |
        tr -dc '0-9\n' | sort -u
}
page_directives() {
    sed -n 's/^\.It Ic \([a-z_]*\).*/\1/p' "$1" | sort -u
}

for page in man8/gateway.8 man1/appservice.1 man1/msc4203.1; do
    name=${page##*/}
    program=${name%.*}
    page=$at/share/man/$page
    page_options "$page" >"$dir/found"
    said_options "$program" >"$dir/expected"
    check "$program has options" test -s "$dir/expected"
    same "$name: all options, and no others" "$dir/expected" "$dir/found"
    page_statuses "$page" >"$dir/found"
    said_statuses "$program" >"$dir/expected"
    check "$program has statuses" test -s "$dir/expected"
    same "$name: all statuses, and no others" "$dir/expected" "$dir/found"
    for section in NAME SYNOPSIS DESCRIPTION SIGNALS FILES 'EXIT STATUS' EXAMPLES; do
        check "$name: $section" grep -qx "\.Sh $section" "$page"
    done
    if command -v mandoc >/dev/null; then
        # Other pages may not be installed.
        # shellcheck disable=SC2016
        check "$name: mandoc -T lint" sh -c '! mandoc -T lint "$1" 2>&1 |
            grep -v "mandoc.db\|referenced manual not found"' - "$page"
    fi
done
page_directives "$at/share/man/man8/gateway.8" >"$dir/found"
sed 's/[ #].*//; /^$/d' example/gateway.conf | sort -u >"$dir/expected"
same 'gateway.8: all directives of gateway.conf, and no others' "$dir/expected" "$dir/found"
"$at/bin/gateway" --help | sed -n '/^  [a-z_]* [A-Z]/p' | grep -oE '(^ |,) [a-z_]+ [A-Z]' |
    tr -dc 'a-z_\n' | sort -u >"$dir/said"
same 'gateway.8: all directives of --help, and no others' "$dir/said" "$dir/found"

# ---- and away again ----

echo kept >"$at/bin/other"
check 'make uninstall' make_it uninstall
find "$top" -type f >"$dir/found"
echo "$at/bin/other" >"$dir/expected"
same 'no file is left but the one of somebody else' "$dir/expected" "$dir/found"
check 'nor the folder of the examples' test ! -d "$at/share/doc/msc4203"
check 'uninstalling again' make_it uninstall

# From nothing: it builds what it installs, and nothing else.
rm -rf "$top"
unset MAKEFLAGS MAKEOVERRIDES # with the Makefile's own PREFIX
check 'make install, from nothing' $MAKE -s B="$dir/build" CC="$CC" DESTDIR="$top" install
(cd "$dir/build" && find . -type f | LC_ALL=C sort) >"$dir/found"
printf './%s\n' appservice flags gateway msc4203 msc4203.o >"$dir/expected"
same 'it builds the three programs alone' "$dir/expected" "$dir/found"
check 'the prefix is /usr/local' test -x "$top/usr/local/bin/gateway"
check 'make uninstall' $MAKE -s B="$dir/build" CC="$CC" DESTDIR="$top" uninstall
find "$top" -type f >"$dir/found"
same 'nothing is left' /dev/null "$dir/found"

for tool in mandoc systemd-analyze; do
    command -v $tool >/dev/null || echo "install: $tool is missing: its checks were left out"
done
echo "install: $passed passed, $failed failed"
[ $failed -eq 0 ]
