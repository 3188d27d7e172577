//! What the linker must know about the shared library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // The number grows when a program that was linked against an older one would no longer run.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libllama_align.so.0");
        // Thread-local destructors of an unloaded library would run into nothing: it stays for good.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
