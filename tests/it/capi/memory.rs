//! What would notice a stray access: AddressSanitizer and Rust's checks of unsafe code in this library (`tests/tools/asan-rustc.sh`),
//! valgrind around it, gcc's sanitizers in the programs that call it. `make test-full` runs all three; each is first shown
//! two lies that the library cannot see through, and must notice them.

use super::examples::{on_one_core, text, Built};
use llama_align::capi::*;
use std::io::Write;
use std::process::{Command, Output};
use std::ptr::{null, null_mut};

/// This program with one test or several; under another program where there is one.
fn again(under: &[&str], arguments: &[&str], lie: &str) -> Output {
    let this = std::env::current_exe().unwrap();
    let mut command = match under {
        [] => Command::new(this),
        [watcher, flags @ ..] => {
            let mut command = Command::new(watcher);
            command.args(flags).arg(this);
            command
        }
    };
    command.args(["--test-threads=1", "--nocapture"]).args(arguments).env("LLAMA_ALIGN_LIE", lie);
    on_one_core(&mut command).output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// The lies themselves: a message goes to an object of fewer bytes than it says, or a list is not aligned.
#[test]
#[ignore = "undefined behaviour: `make test-full` lets those watch it that must notice"]
fn a_lie_about_an_argument() {
    let status = match std::env::var("LLAMA_ALIGN_LIE").unwrap_or_default().as_str() {
        "size" => {
            let mut block = vec![0u32; 4];
            block[0] = 1024;
            // SAFETY: the head lies within the block. The rest is what must be noticed.
            unsafe { llama_align_dataset_count(null(), null_mut(), block.as_mut_ptr().cast()) }
        }
        "alignment" => {
            let (block, mut out) = (vec![0usize; 4], null_mut());
            // SAFETY: the lists lie within the block, of strings that are NULL. Where they begin is what must be noticed.
            unsafe {
                let list = block.as_ptr().cast::<u8>().add(2).cast();
                llama_align_dataset_from_completions(null(), list, list, 2, null(), &mut out, null_mut())
            }
        }
        _ => return,
    };
    panic!("nothing noticed: {status}");
}

const LIE: [&str; 3] = ["--ignored", "--exact", "capi::memory::a_lie_about_an_argument"];
/// Each test of the interface that calls from this process.
const CALLS: [&str; 3] = ["capi::misuse", "capi::behaviour", "capi::calls"];

fn noticed(ran: &Output, expected: &str) {
    let said = text(&ran.stderr);
    assert!(!ran.status.success() && said.contains(expected), "not noticed: {}{said}", text(&ran.stdout));
    assert!(!said.contains("nothing noticed"), "{said}");
}

/// What ran, and what its watcher counted, for whoever waited for it.
fn show(ran: &Output) {
    std::io::stdout().write_all(&[&ran.stdout[..], &ran.stderr[..]].concat()).unwrap();
}

#[test]
#[ignore = "for the build that `make test-full` makes"]
fn asan_is_linked_and_finds_nothing_else() {
    noticed(&again(&[], &LIE, "size"), "AddressSanitizer: heap-buffer-overflow");
    noticed(&again(&[], &LIE, "alignment"), "requires the pointer to be aligned");
    let ran = again(&[], &CALLS, "");
    assert!(ran.status.success(), "{}{}", text(&ran.stdout), text(&ran.stderr));
    show(&ran);
}

#[test]
#[ignore = "minutes: `make test-full`"]
fn valgrind_finds_nothing_in_the_matrix() {
    let valgrind =
        ["valgrind", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite", "--num-callers=30"];
    noticed(&again(&valgrind, &LIE, "size"), "Invalid write of size");
    let ran = again(&valgrind, &["capi::misuse"], "");
    assert!(ran.status.success(), "{}{}", text(&ran.stdout), text(&ran.stderr));
    show(&ran);
}

/// A program that overflows what its argument says.
const CARELESS: &str = r#"
#include "llama-align.h"
#include <limits.h>
#include <stdlib.h>

int main(int argc, char ** argv) {
    if (argv[1][0] == 's') {
        llama_align_error * err = malloc(16);
        size_t n;
        err->struct_size = sizeof *err;
        return llama_align_dataset_count(NULL, &n, err) == LLAMA_ALIGN_OK;
    }
    volatile int most = INT_MAX;
    most = most + argc;
    return most > 0;
}
"#;

#[test]
#[ignore = "for `make test-full`"]
fn gccs_sanitizers_find_nothing_in_the_examples() {
    let built = Built::sanitized();
    let source = built.write("careless.c", CARELESS);
    let careless = built.compile_file("gcc", "c99", &source);
    // The library itself is not instrumented here: what overflows is found at the next free, or in a call of libc.
    noticed(&built.run(&careless, &["size"]), "ERROR: AddressSanitizer: ");
    noticed(&built.run(&careless, &["integer"]), "runtime error: signed integer overflow");
    let inspect = built.compile("gcc", "c99", "01_inspect.c");
    for symbol in ["__asan_init", "__ubsan_handle"] {
        let symbols = Command::new("nm").arg(&inspect).output().unwrap();
        assert!(text(&symbols.stdout).contains(symbol), "{symbol} is not linked");
    }
    built.every_example();
}
