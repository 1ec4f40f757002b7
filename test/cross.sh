#!/bin/sh
# cross.sh - runs the test suites (a share of them: TEST_SHARE, default 200) on other machines,
# emulated by qemu: big-endian, 32-bit, AArch64, and one where 64-bit numbers are aligned to four
# bytes only; with plain char signed and unsigned; and compiles the library for Windows and for
# Cortex-M without an operating system. CROSS_BUILDS="s390x i686": of those that run, these alone.
set -u
MAKE=${MAKE:-make}
TEST_SHARE=${TEST_SHARE:-200}
export TEST_SHARE
failed=0 ran=0
missing=

need() {
    command -v "$1" >/dev/null || missing="$missing $2"
}
need s390x-linux-gnu-gcc 'gcc-s390x-linux-gnu libc6-dev-s390x-cross'
need arm-linux-gnueabihf-gcc 'gcc-arm-linux-gnueabihf libc6-dev-armhf-cross'
need aarch64-linux-gnu-gcc 'gcc-aarch64-linux-gnu libc6-dev-arm64-cross'
need i686-linux-gnu-gcc 'gcc-i686-linux-gnu libc6-dev-i386-cross'
need qemu-s390x qemu-user
need x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64
need arm-none-eabi-gcc 'gcc-arm-none-eabi libnewlib-arm-none-eabi'
if [ -n "$missing" ]; then
    echo "cross: missing tools: apt-get install$missing"
    exit 1
fi

# run NAME CC QEMU CFLAGS LIBFLAGS
run() {
    case " ${CROSS_BUILDS:-$1} " in
    *" $1 "*) ;;
    *) echo "$1: left out, as asked" && return ;;
    esac
    dir=build/cross/$1
    ran=$((ran + 1))
    qemu=$3
    sh test/shadow.sh "$dir"
    start=$(date +%s)
    (
        cd "$dir" || exit 1
        $MAKE -s CC="$2" CFLAGS="-O2 $4" LIBFLAGS="$5" LDFLAGS="${qemu:+-static}" tests || exit 1
        # The suites start the tool and the demo as programs of this machine.
        if [ -n "$qemu" ]; then
            mkdir build/native
            for program in msc4203 bodies; do
                mv build/$program build/native/$program
                printf '#!/bin/sh\nexec %s "%s/build/native/%s" "$@"\n' "$qemu" "$PWD" $program \
                    >build/$program
                chmod +x build/$program
            done
        fi
        $MAKE -s CC="$2" CFLAGS="-O2 $4" LIBFLAGS="$5" LDFLAGS="${qemu:+-static}" RUN="$qemu" suites
    ) >"$dir/log" 2>&1
    status=$?
    [ $status -eq 0 ] || { failed=1; cat "$dir/log"; }
    said=$(grep -E '^[0-9]+ passed' "$dir/log" | tail -n 1)
    printf '%-22s %s, %d s\n' "$1" "${said:-not run}" $(($(date +%s) - start))
}

# compile NAME COMMAND...
compile() {
    name=$1
    shift
    if "$@" -std=c99 -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Werror -I. \
        -c -o "build/cross/$name.o" msc4203.c; then
        printf '%-22s compiles\n' "$name"
    else
        printf '%-22s does not compile\n' "$name"
        failed=1
    fi
}

run s390x s390x-linux-gnu-gcc qemu-s390x '' ''
run armhf arm-linux-gnueabihf-gcc qemu-arm '' ''
run aarch64 aarch64-linux-gnu-gcc qemu-aarch64 -march=armv8-a+crc ''
run aarch64-no-simd aarch64-linux-gnu-gcc qemu-aarch64 '' -DMSC4203_NO_SIMD
run i686 i686-linux-gnu-gcc qemu-i386 '' ''
run native-unsigned-char "${CC:-cc}" '' -funsigned-char ''
compile windows x86_64-w64-mingw32-gcc -O2
compile windows-bytes x86_64-w64-mingw32-gcc -O2 -DMSC4203_NO_SIMD -DMSC4203_NO_WORDS
compile windows-after-its-macros x86_64-w64-mingw32-gcc -O2 -DSTRICT -include windows.h
compile cortex-m0plus arm-none-eabi-gcc -mcpu=cortex-m0plus -mthumb -Os -ffreestanding
compile cortex-m4 arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -Os -ffreestanding
[ $ran -gt 0 ] || { echo "cross: no build of that name" && failed=1; }
exit $failed
