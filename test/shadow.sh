#!/bin/sh
# shadow.sh DIR - makes DIR a second copy of the project, by links, in which it can be built
# another way without touching the first: DIR/build is its own, and tests that are run from DIR
# find there the tool that was built the same way. msc4203.h is a copy, for those who want to
# change it.
set -eu
dir=$1
root=$PWD
rm -rf "$dir"
mkdir -p "$dir/example" "$dir/test" "$dir/fuzz"
for file in example/* test/* fuzz/*; do
    ln -s "$root/$file" "$dir/$file"
done
for file in Makefile msc4203.c; do
    ln -s "$root/$file" "$dir/$file"
done
cp msc4203.h "$dir/msc4203.h"
