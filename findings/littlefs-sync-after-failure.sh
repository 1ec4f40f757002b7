#!/bin/sh
# littlefs-sync-after-failure.sh - littlefs 2.11 (littlefs-python 0.19.0): when the flash chip fails
# to program once, the write says so. But the sync of the same file that follows says success, and so
# does close: the file then holds what was written before, and not what was written after. A program
# that only looks at what sync says takes lost data for durable.
#
# Needs python3 with venv. Installs the package into a temporary folder; fails if this changes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check littlefs-python==0.19.0 </dev/null
cat >run.py <<'P'
from littlefs import LittleFS, LittleFSError, UserContext, lfs


class Chip(UserContext):
    failures = 0

    def prog(self, cfg, block, off, data):
        if self.failures:
            self.failures -= 1
            return -5
        return super().prog(cfg, block, off, data)


def said(call, *arguments):
    try:
        call(*arguments)
        return 0
    except LittleFSError as error:
        return error.code


chip = Chip(64 * 4096)
fs = LittleFS(context=chip, block_size=4096, block_count=64, prog_size=16, read_size=16,
              cache_size=64)
file = fs.open("file", "wb", buffering=0)
print("littlefs %d.%d" % lfs.__LFS_VERSION__)
print("write of 1000 x:", said(file.write, b"x" * 1000))
chip.failures = 1
print("write of 1000 y, the chip fails once:", said(file.write, b"y" * 1000))
print("sync:", said(file.flush))
print("close:", said(file.close))
with fs.open("file", "rb") as file:
    data = file.read()
print("in the file: %d x, %d y" % (data.count(b"x"), data.count(b"y")))
P
venv/bin/python run.py | tee out
cat >expected <<'T'
littlefs 2.11
write of 1000 x: 0
write of 1000 y, the chip fails once: -5
sync: 0
close: 0
in the file: 1000 x, 0 y
T
cmp expected out
echo "littlefs-python 0.19.0: as it was"
