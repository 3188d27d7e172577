#!/bin/sh
# Installs what `make build` made; called by `make install`, which has the defaults of these variables. Linux only so far.
set -eu

fail() {
    echo "install: $1" >&2
    exit 1
}
source=$(cd "$(dirname "$0")/../.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source/Cargo.toml" | head -n 1)
soname=libllama_align.so.0
[ "$(uname -s)" = Linux ] || fail "only Linux is known so far; copy the library, include/*.h and include/*.hpp by hand"
for place in "$PREFIX" "$BINDIR" "$LIBDIR" "$INCLUDEDIR" "$DATADIR"; do
    case $place in
    /*[!A-Za-z0-9/._+@~-]*) fail "$place: characters that pkg-config and CMake would take for their own" ;;
    /*) ;;
    *) fail "$place: PREFIX and the directories must be absolute" ;;
    esac
done
shared="" archive="" program=""
for kind in $KINDS; do
    case $kind in
    shared) shared=$BUILT/libllama_align.so file=$shared ;;
    static) archive=$BUILT/libllama_align.a file=$archive ;;
    program) program=$BUILT/llama-align file=$program ;;
    *) fail "KINDS: \"$kind\" is none of program, shared, static" ;;
    esac
    [ -f "$file" ] || fail "$file is missing: make build"
done
[ -n "$shared$archive$program" ] || fail "KINDS is empty"

# The way from a directory back up to the prefix: what is installed can be moved as a whole. Elsewhere, the prefix itself.
up() {
    case $1/ in
    "$PREFIX"/*) printf '%s\n' "${1#"$PREFIX"}" | sed 's,/[^/]*,/..,g' ;;
    *) ;;
    esac
}
# A directory below the prefix, or absolute: below PREFIX-VARIABLE DIRECTORY
below() {
    case $2/ in
    "$PREFIX"/*) printf '%s%s\n' "$1" "${2#"$PREFIX"}" ;;
    *) printf '%s\n' "$2" ;;
    esac
}
fill() { # fill TEMPLATE DIRECTORY START PREFIX-VARIABLE
    way=$(up "$2")
    if [ -n "$way" ]; then prefix=$3$way; else prefix=$PREFIX; fi
    mkdir -p "$DESTDIR$2"
    sed -e "s|@VERSION@|$version|g" -e "s|@SONAME@|$soname|g" -e "s|@STATIC_LIBS@|$STATIC_LIBS|g" -e "s|@PREFIX@|$prefix|g" \
        -e "s|@LIBDIR@|$(below "$4" "$LIBDIR")|g" -e "s|@INCLUDEDIR@|$(below "$4" "$INCLUDEDIR")|g" \
        "$source/include/package/$1.in" >"$DESTDIR$2/$1"
    chmod 644 "$DESTDIR$2/$1"
}
put() { # put MODE FILE DIRECTORY [NAME]
    mkdir -p "$DESTDIR$3"
    install -m "$1" "$2" "$DESTDIR$3/${4:-$(basename "$2")}"
}
strips() { # strips FLAG FILE
    if [ -n "${STRIP:-}" ]; then "$STRIP" "$1" "$DESTDIR$2"; fi
}

if [ -n "$program" ]; then
    put 755 "$program" "$BINDIR"
    strips --strip-all "$BINDIR/llama-align"
fi
if [ -n "$shared" ]; then
    put 755 "$shared" "$LIBDIR" "libllama_align.so.$version"
    strips --strip-unneeded "$LIBDIR/libllama_align.so.$version"
    ln -sf "libllama_align.so.$version" "$DESTDIR$LIBDIR/$soname"
    ln -sf "$soname" "$DESTDIR$LIBDIR/libllama_align.so"
fi
if [ -n "$archive" ]; then
    put 644 "$archive" "$LIBDIR"
    strips --strip-debug "$LIBDIR/libllama_align.a"
fi
if [ -n "$shared$archive" ]; then
    for header in "$source"/include/*.h "$source"/include/*.hpp; do
        put 644 "$header" "$INCLUDEDIR"
    done
    # shellcheck disable=SC2016  # pkg-config's and CMake's variables, not the shell's
    fill llama-align.pc "$LIBDIR/pkgconfig" '${pcfiledir}' '${prefix}'
    for config in llama-alignConfig.cmake llama-alignConfigVersion.cmake; do
        # shellcheck disable=SC2016
        fill "$config" "$LIBDIR/cmake/llama-align" '${CMAKE_CURRENT_LIST_DIR}' '${_llama_align_prefix}'
    done
fi
for notice in LICENSE-MIT LICENSE-APACHE THIRD-PARTY.md include/ABI.md; do
    put 644 "$source/$notice" "$DATADIR/doc/llama-align"
done
