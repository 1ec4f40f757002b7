#!/bin/sh
# header.sh - checks the header as such, with nothing but a C compiler and nm: every language
# standard and option compiles without a warning, alone and from several files; the object defines
# what the header declares and nothing else, needs no libc function but mem*, and has no
# writable data. Environment: B (build folder), CC, CXX; with HEADER_ALL=1 every combination of
# these, which `make lint` asks for. Prints `header: N passed, N failed`.
set -u
B=${B:-build} CC=${CC:-cc} CXX=${CXX:-c++}
dir=$B/header
rm -rf "$dir"
mkdir -p "$dir"
for tool in ${CC%% *} nm size; do
    command -v "$tool" >/dev/null || {
        echo "header: $tool is missing: apt-get install gcc binutils"
        exit 1
    }
done
suite=header
C_STANDARDS=c99 CXX_STANDARDS=c++98 WAYS=implementation
[ "${HEADER_ALL:-0}" -eq 0 ] ||
    C_STANDARDS='c99 c11' CXX_STANDARDS='c++98 c++17' WAYS='implementation static'
# Without what distributions add to every program, and without clang's bcmp for memcmp.
PLAIN='-fno-stack-protector -U_FORTIFY_SOURCE -fno-builtin-bcmp'
WARN='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow'
WARN_C='-Wstrict-prototypes -Wmissing-prototypes'
NO_READER=-DMSC4203_NO_READER NO_WRITER=-DMSC4203_NO_WRITER
NO_LOG=-DMSC4203_NO_LOG NO_FILE=-DMSC4203_NO_FILE
NO_SIMD=-DMSC4203_NO_SIMD NO_WORDS=-DMSC4203_NO_WORDS

. test/check.sh

# A flag that this compiler does not know is left out, and that is said.
supported=
for flag in $PLAIN; do
    echo 'int msc4203_x;' >"$dir/flag.c"
    if silent $CC "$flag" -c -o "$dir/flag.o" "$dir/flag.c" >"$dir/out" 2>&1; then
        supported="$supported $flag"
    else
        echo "header: $CC does not know $flag"
    fi
done
PLAIN=$supported

sources() {
    echo '#include "msc4203.h"' >"$dir/plain.c"
    cat >"$dir/implementation.c" <<'C'
#define MSC4203_IMPLEMENTATION
#include "msc4203.h"
C
    cat >"$dir/twice.c" <<'C'
#define MSC4203_IMPLEMENTATION
#include "msc4203.h"
#include "msc4203.h"
C
    cat >"$dir/later.c" <<'C'
#include "msc4203.h"
extern int msc4203_between;
int msc4203_between = sizeof(msc4203_reader) + sizeof(msc4203_writer) > 0;
#define MSC4203_IMPLEMENTATION
#include "msc4203.h"
C
    # Headers that others include first may define macros like these: <curses.h>, lwIP.
    {
        echo '#include "msc4203.h"'
        sed -n 's/^ *\(int\|void\|uint32_t\) (\*\([a-z_]*\))(.*/#define \2(x) x x/p' msc4203.h |
            sort -u | grep -v abort # which C++ itself speaks of
        echo '#define MSC4203_IMPLEMENTATION'
        echo '#include "msc4203.h"'
    } >"$dir/macros.c"
    cat >"$dir/static.c" <<'C'
#define MSC4203_STATIC
#define MSC4203_IMPLEMENTATION
#include "msc4203.h"
C
    cat >"$dir/one.c" <<'C'
#include "msc4203.h"
int two(msc4203_reader *reader);
int main(void)
{
    msc4203_reader reader;
    return two(&reader) != MSC4203_END || msc4203_version() != MSC4203_VERSION_NUMBER;
}
C
    cat >"$dir/two.c" <<'C'
#include "msc4203.h"
int two(msc4203_reader *reader);
int two(msc4203_reader *reader)
{
    const msc4203_item *item;
    msc4203_reader_init(reader, MSC4203_TRANSACTION, MSC4203_ALL_KINDS, NULL, 0);
    msc4203_reader_feed(reader, "{\"events\":[]}", 13, 1);
    return msc4203_reader_next(reader, &item);
}
C
    cat >"$dir/sizes.c" <<'C'
#include "msc4203.h"
#include <stdio.h>
struct reader { char c; msc4203_reader object; };
struct writer { char c; msc4203_writer object; };
struct algorithms { char c; msc4203_algorithms object; };
struct item { char c; msc4203_item object; };
#define AS_TOLD(name, NUMBER) \
    (msc4203_sizeof(NUMBER) == sizeof(msc4203_##name) && \
     msc4203_alignof(NUMBER) == offsetof(struct name, object))
int main(void)
{
    int small = sizeof(msc4203_reader) <= 384 && sizeof(msc4203_writer) <= 384;
    printf("reader %lu, writer %lu, item %lu, algorithms %lu bytes\n",
           (unsigned long)sizeof(msc4203_reader), (unsigned long)sizeof(msc4203_writer),
           (unsigned long)sizeof(msc4203_item), (unsigned long)sizeof(msc4203_algorithms));
    if (!AS_TOLD(item, MSC4203_OBJECT_ITEM) || !AS_TOLD(reader, MSC4203_OBJECT_READER) ||
        !AS_TOLD(algorithms, MSC4203_OBJECT_ALGORITHMS) || !AS_TOLD(writer, MSC4203_OBJECT_WRITER))
        return 1;
    return sizeof(void *) == 8 && !small;
}
C
}

compiles() {
    # Warnings need no code, where the compiler knows how to do without.
    syntax="-c -o $dir/x.o"
    silent $CC -fsyntax-only "$dir/one.c" -I. >/dev/null && syntax=-fsyntax-only
    for source in plain implementation twice later macros static; do
        for standard in $C_STANDARDS; do
            check "$source.c as $standard" silent $CC -std=$standard $WARN $WARN_C -I. \
                $syntax "$dir/$source.c"
        done
    done
    for way in $WAYS; do
        for options in $NO_READER $NO_WRITER "$NO_READER $NO_WRITER" $NO_LOG $NO_FILE $NO_SIMD \
            $NO_WORDS -DMSC4203_NO_DELIVERY "$NO_SIMD $NO_WORDS" "$NO_READER $NO_WORDS" \
            "$NO_WRITER $NO_WORDS" -ffreestanding "-ffreestanding $NO_SIMD" -funsigned-char \
            -fsigned-char; do
            check "$way.c with $options" silent $CC -std=c99 $WARN $WARN_C $options -I. \
                $syntax "$dir/$way.c"
        done
    done
}

compiles_cxx() {
    if ! command -v ${CXX%% *} >/dev/null 2>&1; then
        echo "header: no C++ compiler $CXX here: C++ is left out (make lint demands it)"
        return
    fi
    for source in plain implementation twice later macros static; do
        for standard in $CXX_STANDARDS; do
            check "$source.c as $standard" silent $CXX -x c++ -std=$standard $WARN -I. \
                $syntax "$dir/$source.c"
        done
    done
    check 'the C object linked into a C++ program' silent $CXX -x c++ -I. \
        "$dir/one.c" "$dir/two.c" -x none "$dir/msc4203.o" -o "$dir/program"
    check 'and run' "$dir/program"
}

links() {
    check 'the implementation' silent $CC -std=c99 -I. -c -o "$dir/msc4203.o" msc4203.c
    check 'declarations from several files' silent $CC -std=c99 $WARN -I. -o "$dir/program" \
        "$dir/one.c" "$dir/two.c" "$dir/msc4203.o"
    check 'and run' "$dir/program"
    check 'sizes.c' silent $CC -std=c99 -I. -o "$dir/sizes" "$dir/sizes.c" "$dir/msc4203.o"
    check 'sizes: as told, at most 384 bytes' "$dir/sizes"
    sed 's/^/header: /' "$dir/out"
}

# The functions that the header declares, but for those of files, one a line.
declared() {
    sed -n '/^#endif .. MSC4203_H/q; s/^MSC4203_API .*\(msc4203_[a-z0-9_]*\)(.*/\1/p' msc4203.h |
        grep -v '^msc4203_file_' | sort
}

# names OBJECT TYPES: the symbols of these types, without the underscore that some systems put
# before.
names() {
    nm -P "$1" | awk -v types="$2" 'index(types, $2) { sub(/^_msc/, "msc", $1); print $1 }' | sort
}

only_public_names() {
    names "$1" TDBRVWCGS >"$dir/defined"
    ! grep -v '^msc4203_[a-z0-9_]*$' "$dir/defined"
}
as_declared() {
    names "$1" T >"$dir/defined"
    declared >"$dir/declared"
    [ -s "$dir/declared" ] && diff "$dir/declared" "$dir/defined"
}
only_declared() {
    names "$1" T >"$dir/defined"
    declared >"$dir/declared"
    [ -z "$(comm -13 "$dir/declared" "$dir/defined")" ]
}
only_mem_functions() {
    names "$1" U >"$dir/undefined"
    ! grep -vE '^_?(memcpy|memcmp|memmove|memset|_GLOBAL_OFFSET_TABLE_)$' "$dir/undefined"
}
no_writable_data() {
    nm -P "$1" | awk '$2 ~ /^[DdBbCcGgSs]$/ { print; bad = 1 } END { exit bad }' &&
        size "$1" | awk 'NR == 2 { print; exit $2 + $3 != 0 }'
}

# Some compilers keep constants among the data (tcc): theirs says nothing of the library's.
constants_apart() {
    echo 'const char *msc4203_x(void); const char *msc4203_x(void) { return "x"; }' >"$dir/flag.c"
    $CC -c -o "$dir/flag.o" "$dir/flag.c" && no_writable_data "$dir/flag.o" >"$dir/out"
}

objects() {
    apart=0
    if constants_apart; then
        apart=1
    else
        echo "header: $CC keeps constants among the data: left out: no writable data"
    fi
    for options in -O0 -O2 -Os '-O1 -fPIC' "-O0 $NO_SIMD" "-O0 $NO_WORDS" "-O0 $NO_READER" \
        "-O0 $NO_WRITER" "-O0 $NO_READER $NO_WRITER" "-O0 $NO_LOG" '-O1 -ffreestanding'; do
        object=$dir/object.o
        check "object $options" silent $CC -std=c99 $PLAIN $options $NO_FILE -I. -c -o "$object" \
            msc4203.c
        check "object $options: only names that begin with msc4203_" only_public_names "$object"
        case $options in
        *MSC4203_NO_*ER* | *MSC4203_NO_LOG*) check "object $options: no more than declared" only_declared "$object" ;;
        *) check "object $options: defines what is declared" as_declared "$object" ;;
        esac
        check "object $options: calls only mem*" only_mem_functions "$object"
        [ $apart -eq 0 ] || check "object $options: no writable data" no_writable_data "$object"
    done
    check 'object with files' silent $CC -std=c99 $PLAIN -O2 -I. -c -o "$object" msc4203.c
    check 'object with files: only names that begin with msc4203_' only_public_names "$object"
    [ $apart -eq 0 ] || check 'object with files: no writable data' no_writable_data "$object"
    check 'object static' silent $CC -std=c99 $PLAIN -I. -c -o "$object" "$dir/static.c"
    check 'object static: no global names' test -z "$(names "$object" TDBRVWCGS)"
}

# The macros that FILE leaves defined, less those of the compiler and of the system's headers.
macros() {
    sed -n 's/^ *# *include *<\(.*\)>.*/\1/p' msc4203.h | sort -u | while read -r name; do
        echo "#include <$name>" >"$dir/probe.c"
        $CC -E -o "$dir/probe.i" "$dir/probe.c" 2>/dev/null && cat "$dir/probe.c"
    done >"$dir/system.c"
    $CC -dM -E -I. "$dir/system.c" | sort >"$dir/system.macros"
    $CC -dM -E -I. "$1" | sort | comm -13 "$dir/system.macros" - | awk '{ print $2 }' |
        sed 's/(.*//' | sort
}
no_foreign_macro() {
    macros "$1" >"$dir/macros"
    grep -q '^MSC4203_H$' "$dir/macros" && ! grep -v '^MSC4203_' "$dir/macros"
}
# What the implementation defines for itself is undefined at its end.
no_private_macro() {
    macros "$dir/plain.c" >"$dir/macros.plain"
    macros "$dir/implementation.c" >"$dir/macros.implementation"
    [ "$(comm -13 "$dir/macros.plain" "$dir/macros.implementation" | wc -l)" -le 2 ] &&
        ! comm -13 "$dir/macros.plain" "$dir/macros.implementation" |
            grep -v '^MSC4203_IMPLEMENT\(ATION\|ED\)$'
}

macro_names() {
    printf '#define msc4203_x\n#undef msc4203_x\n' >"$dir/flag.c"
    if ! $CC -dM -E "$dir/flag.c" >"$dir/flag.i" || grep -q msc4203_x "$dir/flag.i"; then
        echo "header: $CC cannot tell which macros are left defined: left out: names of macros"
        return
    fi
    for source in plain implementation static later; do
        check "$source.c: macros begin with MSC4203_" no_foreign_macro "$dir/$source.c"
    done
    check 'private macros are undefined at the end' no_private_macro
}

sources
compiles
links
compiles_cxx
objects
macro_names
echo "header: $passed passed, $failed failed"
[ $failed -eq 0 ]
