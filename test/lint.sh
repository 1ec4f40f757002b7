#!/usr/bin/env bash
# lint.sh - compiles the library, the examples, the tests, the benchmarks and the fuzz targets with
# every compiler at its strictest, and runs the static analysers over them. One warning or finding,
# or a missing tool, fails; so does a tool that does not find a fault made for it.
set -u
mkdir -p build/lint
jobs=build/lint/jobs
: >$jobs

missing=
need() {
    command -v "$1" >/dev/null || missing="$missing $2"
}
need gcc gcc
need g++ g++
need clang clang
need clang++ clang
need tcc tcc
need clang-tidy clang-tidy
need cppcheck cppcheck
need_header() {
    echo "#include <$1>" | g++ -std=c++17 -E -x c++ - >build/lint/header.i 2>/dev/null ||
        missing="$missing $2"
}
need_header cjson/cJSON.h libcjson-dev # what the benchmarks compare with
need_header jansson.h libjansson-dev
need_header lmdb.h liblmdb-dev
need_header simdjson.h libsimdjson-dev
need_header rapidjson/reader.h rapidjson-dev
if [ -n "$missing" ]; then
    echo "lint: missing tools: apt-get install$missing"
    exit 1
fi

# What all of gcc knows against C code, less what speaks against C99 itself or only of layout.
GCC='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-align=strict
    -Wcast-qual -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition
    -Wmissing-declarations -Wredundant-decls -Wnested-externs -Wdouble-promotion -Wfloat-equal
    -Wformat=2 -Wformat-signedness -Wundef -Wswitch-enum -Wswitch-default -Wnull-dereference
    -Wduplicated-cond -Wduplicated-branches -Wlogical-op -Wjump-misses-init -Wwrite-strings -Wvla
    -Walloca -Warith-conversion -Wbad-function-cast -Wunused-macros -Wunused-const-variable=2
    -Wimplicit-fallthrough=3 -Wtrampolines -Wdate-time -Winit-self -Wunreachable-code
    -Wstringop-overflow=4 -Wstrict-overflow=2 -Warray-bounds=2 -Wpointer-arith -Werror'
GXX='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wcast-align=strict
    -Wcast-qual -Wmissing-declarations -Wredundant-decls -Wdouble-promotion -Wfloat-equal
    -Wformat=2 -Wformat-signedness -Wundef -Wswitch-enum -Wswitch-default -Wnull-dereference
    -Wduplicated-cond -Wduplicated-branches -Wlogical-op -Wvla -Walloca -Warith-conversion
    -Wunused-macros -Werror'
# Everything that clang knows, less
#   padded                          says where a struct has gaps, which no caller can see
#   declaration-after-statement     is against C99
#   disabled-macro-expansion        is about macros of libc's headers
#   reserved-macro-identifier, reserved-identifier
#                                   _POSIX_C_SOURCE has the name that POSIX gave it
#   unsafe-buffer-usage             is against pointer arithmetic, that is, against C
#   covered-switch-default          contradicts gcc's switch-default
#   switch-default                  contradicts covered-switch-default; gcc checks it
#   pre-c11-compat                  is against C11 itself
#   used-but-marked-unused          static functions are marked, for nobody uses all of them
#   implicit-fallthrough            wants an attribute that C99 has not; gcc takes a comment for it
CLANG='-Weverything -Wno-padded -Wno-declaration-after-statement -Wno-disabled-macro-expansion
    -Wno-unknown-warning-option -Wno-reserved-macro-identifier -Wno-reserved-identifier
    -Wno-unsafe-buffer-usage -Wno-covered-switch-default -Wno-switch-default -Wno-pre-c11-compat
    -Wno-used-but-marked-unused -Wno-implicit-fallthrough -Werror'
# For programs (examples, tests and fuzz targets), moreover, less
#   switch-enum                     there `default` stands for all others
#   unused-macros                   feature macros are for the system's headers
#   format-nonliteral               a function like printf needs it
#   clobbered                       guesses at longjmp; gcc cannot see what volatile is for
#   cast-align                      what malloc gives is aligned; UBSan looks at it
#   missing-noreturn                C99 has no word for it
#   string-conversion               CHECK(!"why") is how a test says that it must not come here
#   comma                           takes `for (a, b; ...)` for a slip
PROGRAMS_GCC="$GCC -Wno-switch-enum -Wno-unused-macros -Wno-format-nonliteral -Wno-clobbered
    -Wno-cast-align"
PROGRAMS_CLANG="$CLANG -Wno-switch-enum -Wno-unused-macros -Wno-format-nonliteral -Wno-cast-align
    -Wno-missing-noreturn -Wno-string-conversion -Wno-comma"
# gcc 12's analyzer, for programs, less what it thinks of memory that another function has checked,
# and of what a test that ends leaves to the system.
PROGRAMS_ANALYZER='-fanalyzer -Wno-analyzer-null-argument -Wno-analyzer-null-dereference
    -Wno-analyzer-possible-null-argument -Wno-analyzer-malloc-leak -Wno-analyzer-file-leak -Werror'
# In C++, moreover, less
#   c++98-compat*, c++98-c++11-compat*, c++11-long-long, long-long, c++11-extensions
#                                   the header is to compile as C++98 and as C++17
#   old-style-cast, zero-as-null-pointer-constant, deprecated
#                                   casts, NULL and headers are those of C, which it is as well
CLANGXX="$CLANG -Wno-c++98-compat -Wno-c++98-compat-pedantic -Wno-old-style-cast
    -Wno-zero-as-null-pointer-constant -Wno-deprecated -Wno-c++11-long-long -Wno-long-long"
# The groups of clang-tidy that look for faults, less
#   easily-swappable-parameters     two sizes beside each other are no fault
#   reserved-identifier, dcl37-c    as above
#   cert-err33-c                    printf's result, in examples and tests
#   DeprecatedOrUnsafeBufferHandling
#                                   wants memcpy_s, which no libc here has
#   cert-msc30-c, msc50-cpp, msc32-c, msc51-cpp
#                                   are against fixed seeds, which a test needs
#   cert-err34-c                    strtoul of a test's own environment
#   signed-char-misuse, cert-str34-c
#                                   take an error in an int8_t for a character
#   narrowing-conversions           gcc and clang look for them, and see which values are possible
#   not-null-terminated-result      takes every copied text for a C string
TIDY='-*,bugprone-*,cert-*,clang-analyzer-*,performance-*,portability-*,
    -bugprone-easily-swappable-parameters,-bugprone-reserved-identifier,-cert-dcl37-c,
    -cert-dcl51-cpp,
    -cert-err33-c,-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling,
    -cert-msc30-c,-cert-msc50-cpp,-cert-msc32-c,-cert-msc51-cpp,-cert-err34-c,
    -bugprone-signed-char-misuse,-cert-str34-c,-bugprone-narrowing-conversions,
    -bugprone-not-null-terminated-result'
TIDY=$(echo $TIDY | tr -d ' ')
# For programs, moreover, less
#   strcpy                          into memory whose size has just been looked at
#   cert-env33-c                    the tool's tests start it by a shell
#   macro-parentheses               an initialiser or a member's name cannot be put in parentheses
#   NonNullParamChecker, unix.Malloc
#                                   as the analyzer above
#   implicit-widening-of-multiplication-result
#                                   a table's row times a small constant
PROGRAMS_TIDY="$TIDY,-clang-analyzer-security.insecureAPI.strcpy,-cert-env33-c,"
PROGRAMS_TIDY="$PROGRAMS_TIDY-bugprone-macro-parentheses,-clang-analyzer-core.NonNullParamChecker"
PROGRAMS_TIDY="$PROGRAMS_TIDY,-clang-analyzer-unix.Malloc"
PROGRAMS_TIDY="$PROGRAMS_TIDY,-bugprone-implicit-widening-of-multiplication-result"
# For benchmarks and small machines, moreover, less
#   suspicious-include              they are made of other files
#   NullDereference                 looks into the library, and takes an error for MSC4203_ITEM
PARTS_TIDY="$PROGRAMS_TIDY,-bugprone-suspicious-include,-clang-analyzer-core.NullDereference"
# All of cppcheck but what it gets wrong:
#   knownConditionTrueFalse         takes `c - '0' < 10`, of an unsigned number, for c < 10 + '0'
#   ctuuninitvar                    does not see what another function fills in; MSan does
#   variableScope, shadowVariable, shadowFunction
#                                   taste; gcc's and clang's own -Wshadow is on
# and, for programs, but style, and indices that a table's last row bounds.
CPPCHECK='--quiet --std=c99 --inline-suppr --suppress=missingIncludeSystem
    --suppress=knownConditionTrueFalse --suppress=ctuuninitvar --suppress=variableScope
    --suppress=shadowVariable --suppress=shadowFunction
    --error-exitcode=1'

# The programs: all, or those that LINT_FILES names. start.c is assembly for one machine: `make
# test-mcu` compiles it.
files=${LINT_FILES:-$(ls example/*.c test/*.c test/bench/*.c test/mcu/*.c fuzz/*.c |
    grep -v '/start\.c$')}
include='-I. -Itest/bench'
# Builds of the library that are compiled at every level, and those that differ only in what is
# there.
variants=('' -DMSC4203_NO_SIMD -DMSC4203_NO_WORDS '-DMSC4203_NO_SIMD -DMSC4203_NO_WORDS' -mavx2
    -march=x86-64-v4)
layers=(-DMSC4203_NO_READER -DMSC4203_NO_WRITER '-DMSC4203_NO_READER -DMSC4203_NO_WRITER'
    -DMSC4203_STATIC)

# job TITLE COMMAND...: to be run with the others, two at a time.
job() {
    local title=$1
    shift
    printf '%s\t%s\n' "$title" "$(echo $*)" >>$jobs
}

for variant in "${variants[@]}"; do
    for level in -O0 -O3 -Os; do
        job "gcc $level $variant msc4203.c" gcc -std=c99 $level $variant $GCC -Wc++-compat -I. \
            -c -o /dev/null msc4203.c
    done
    job "gcc -std=c17 $variant msc4203.c" gcc -std=c17 -O2 $variant $GCC -I. \
        -c -o /dev/null msc4203.c
    job "clang -O0 $variant msc4203.c" clang -std=c99 -O0 $variant $CLANG -I. \
        -c -o /dev/null msc4203.c
done
for variant in "${variants[@]}" "${layers[@]}"; do
    job "gcc -O2 $variant msc4203.c" gcc -std=c99 -O2 $variant $GCC -Wc++-compat -I. \
        -c -o /dev/null msc4203.c
    job "clang -O2 $variant msc4203.c" clang -std=c99 -O2 $variant $CLANG -I. \
        -c -o /dev/null msc4203.c
    for standard in c++98 c++17; do
        job "g++ -std=$standard $variant msc4203.c" g++ -x c++ -std=$standard -O1 $variant \
            $GXX -I. -c -o /dev/null msc4203.c
        job "clang++ -std=$standard $variant msc4203.c" clang++ -x c++ -std=$standard -O1 $variant \
            $CLANGXX -I. -c -o /dev/null msc4203.c
    done
    [ "$variant" = -mavx2 ] ||
        job "tcc $variant msc4203.c" tcc -std=c99 -Wall -Werror $variant -I. \
            -c -o build/lint/tcc.o msc4203.c
done
for variant in '' '-DMSC4203_NO_SIMD -DMSC4203_NO_WORDS'; do
    job "gcc -fanalyzer $variant msc4203.c" gcc -std=c99 -O1 $variant -fanalyzer -Werror -I. \
        -c -o /dev/null msc4203.c
    job "clang-tidy $variant msc4203.c" clang-tidy --quiet "--checks=$TIDY" \
        '--warnings-as-errors=*' msc4203.c -- -std=c99 $variant -I.
done
job "cppcheck msc4203.c" cppcheck $CPPCHECK \
    --enable=warning,style,performance,portability -I. msc4203.c
for file in $files; do
    for level in -O0 -O3; do
        job "gcc $level $file" gcc -std=c99 $level $PROGRAMS_GCC $include -c -o /dev/null $file
    done
    job "clang $file" clang -std=c99 -O2 $PROGRAMS_CLANG $include -c -o /dev/null $file
    case $file in
    test/bench/* | test/mcu/* | fuzz/fuzz_log_ops.c) tidy=$PARTS_TIDY ;;
    *) tidy=$PROGRAMS_TIDY ;;
    esac
    [[ $file == test/bench/* ]] || # which are for gcc and clang, as jansson's header is
        job "tcc $file" tcc -std=c99 -D__STDC_NO_VLA__=1 $include -c -o build/lint/tcc.o $file
    [[ $file == test/bench/queue_ours.c ]] || # which is the library once more
        job "gcc -fanalyzer $file" gcc -std=c99 -O1 $PROGRAMS_ANALYZER $include -c -o /dev/null $file
    job "clang-tidy $file" clang-tidy --quiet "--checks=$tidy" \
        '--warnings-as-errors=*' $file -- -std=c99 $include
    # The library has been looked at; it is not to be once more for each file that includes it.
    job "cppcheck $file" cppcheck $CPPCHECK --suppress=arrayIndexOutOfBoundsCond \
        -UMSC4203_IMPLEMENTATION \
        --enable=warning,performance,portability $include $file
done
# A switch over all of a peer's values needs no default.
for file in test/bench/*.cpp; do
    job "g++ $file" g++ -std=c++17 -O2 $GXX -Wno-switch-default $include -c -o /dev/null $file
done
for compilers in 'gcc g++' 'clang clang++' 'tcc none'; do
    set -- $compilers
    job "header.sh with $compilers" env B=build/lint/$1 CC=$1 CXX=$2 HEADER_ALL=1 \
        sh test/header.sh
    job "examples.sh with $1" env B=build/lint/$1 CC=$1 sh test/examples.sh
done
job "stack.sh" env B=build/lint/gcc CC=gcc STACK_STRICT=1 sh test/stack.sh

# Tools that count suppressed warnings of system headers say so on standard error, at success too.
run_job() {
    local title=${1%%$'\t'*} command=${1#*$'\t'} said
    if ! said=$(eval "set -f; $command" 2>&1); then
        printf 'lint: %s: failed\n%s\n' "$title" "$(head -n 60 <<<"$said")"
        return 1
    fi
}
export -f run_job

# canary SOURCE COMMAND...: a fault that the command has to find, or nothing it says counts.
canary() {
    local source=build/lint/canary.c
    printf '%s\n' "$1" >$source
    shift
    if (set -f; "$@" $source) >build/lint/canary.log 2>&1 ||
        ! grep -Eq 'canary\.c:[0-9]+.*(error|warning)' build/lint/canary.log; then
        printf 'lint: does not find the fault that was made for it: %s\n' "$(echo $*)"
        cat build/lint/canary.log
        exit 1
    fi
}
sign='unsigned msc4203_x(int n); unsigned msc4203_x(int n) { return n; }'
unset='int msc4203_x(int n); int msc4203_x(int n) { int m; return n ? n : m; }'
set -f
for flags in "$GCC" "$PROGRAMS_GCC"; do
    canary "$sign" gcc -std=c99 -O2 $flags -c -o /dev/null
done
for flags in "$CLANG" "$PROGRAMS_CLANG"; do
    canary "$sign" clang -std=c99 -O2 $flags -c -o /dev/null
done
canary "$sign" g++ -x c++ -std=c++98 -O2 $GXX -c -o /dev/null
canary "$sign" clang++ -x c++ -std=c++98 -O2 $CLANGXX -c -o /dev/null
canary 'char *msc4203_x(void) { return 1; }' tcc -std=c99 -Wall -Werror -c -o build/lint/tcc.o
for flags in -fanalyzer "$PROGRAMS_ANALYZER"; do
    canary "$unset" gcc -std=c99 -O1 $flags -Werror -c -o /dev/null
done
for checks in "$TIDY" "$PROGRAMS_TIDY" "$PARTS_TIDY"; do
    canary "$unset" clang-tidy --quiet "--checks=$checks" '--warnings-as-errors=*'
done
canary "$unset" cppcheck $CPPCHECK --enable=warning
set +f

start=$SECONDS
mkdir -p build/lint
if xargs -a $jobs -d '\n' -P 2 -n 1 bash -c 'run_job "$1"' -; then
    echo "lint: $(wc -l <$jobs) runs in $((SECONDS - start)) s, no finding"
else
    echo "lint: failed"
    exit 1
fi
