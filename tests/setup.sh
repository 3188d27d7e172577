#!/bin/sh
# Installs what this machine lacks; where it may not, says what to do.
# setup.sh: what the build needs; setup.sh test: and the tests; setup.sh test-full: and the slow ones.
set -eu

missing=""
need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need c++ g++
need make make
need cmake cmake
case ${1:-build} in
build) ;;
test) need pkg-config pkg-config ;;
test-full)
    need pkg-config pkg-config
    need valgrind valgrind
    need clang++ clang
    need npm npm
    need pip pip
    find /usr/share/vulkan/icd.d /etc/vulkan/icd.d -name '*.json' 2>/dev/null | grep -q . || missing="$missing vulkan-driver"
    ;;
*)
    echo "setup.sh: \"$1\" is neither test nor test-full" >&2
    exit 2
    ;;
esac
# bindgen loads libclang and needs the headers that come with clang.
libclang() {
    for lib in /usr/lib/llvm-*/lib/libclang*.so* /usr/lib*/libclang*.so* /usr/lib/*/libclang*.so* /usr/local/lib/libclang*.so*; do
        [ -e "$lib" ] && return 0
    done
    [ "$(uname -s)" = Darwin ] || [ -n "${LIBCLANG_PATH:-}" ]
}
clang_headers() {
    for header in /usr/lib/llvm-*/lib/clang/*/include/stddef.h /usr/lib*/clang/*/include/stddef.h /usr/local/lib/clang/*/include/stddef.h; do
        [ -e "$header" ] && return 0
    done
    [ "$(uname -s)" = Darwin ] || [ -n "${BINDGEN_EXTRA_CLANG_ARGS:-}" ]
}
libclang || missing="$missing libclang"
clang_headers || missing="$missing clang-headers"

if ! command -v cargo >/dev/null 2>&1; then
    echo "Rust is missing: install rustc and cargo 1.89 or later (rustup, or your distribution), then run this again." >&2
    exit 1
fi
[ -z "$missing" ] && exit 0

advise() { # advise GOAL
    echo "The ${1:-build} needs:$missing." >&2
    echo "  Debian, Ubuntu: apt-get install g++ make cmake libclang-dev pkg-config; for test-full valgrind clang npm python3-pip mesa-vulkan-drivers" >&2
    echo "  Fedora:         dnf install gcc-c++ make cmake clang-devel pkgconf-pkg-config; valgrind clang npm python3-pip mesa-vulkan-drivers" >&2
    echo "  Arch:           pacman -S gcc make cmake clang pkgconf; valgrind npm python-pip vulkan-swrast" >&2
    echo "  macOS:          xcode-select --install, and cmake and pkgconf from Homebrew" >&2
    exit 1
}
command -v apt-get >/dev/null 2>&1 || advise "$@"
as_root=""
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null && as_root="sudo" || advise "$@"
fi
echo "installing:$missing" >&2
$as_root apt-get update -qq >/dev/null || true
# The small packages where this release has them: 14 is Debian 12's clang.
clang="libclang-dev"
if apt-cache show libclang1-14 >/dev/null 2>&1; then clang="libclang1-14 libclang-common-14-dev"; fi
packages=""
for name in $missing; do
    case $name in
        libclang | clang-headers) packages="$packages $clang" ;;
        vulkan-driver) packages="$packages mesa-vulkan-drivers" ;;
        pip) packages="$packages python3-pip" ;;
        *) packages="$packages $name" ;;
    esac
done
# shellcheck disable=SC2086  # a list of words
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $packages >/dev/null || advise "$@"
