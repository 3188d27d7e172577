#!/usr/bin/env bash
# RUSTC_WORKSPACE_WRAPPER: compiles this workspace's crates with AddressSanitizer and with Rust's own checks of what unsafe code
# promises (null and misaligned pointers, preconditions of the standard library, overflow). Dependencies stay as they are.
# bash, because dash drops variables that have a dash in their name, and Cargo has some.
case " $* " in
*" build_script_build "* | *" --print"* | *" -vV "*) exec "$@" ;;
esac
# The compiler that is there has the sanitizer's runtime; only the flag is said to be unstable.
RUSTC_BOOTSTRAP=1
export RUSTC_BOOTSTRAP
# Built for one run: little time goes into optimising.
exec "$@" -Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer -Cdebug-assertions=on -Coverflow-checks=on -Copt-level=1
