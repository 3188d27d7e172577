//! What the linker must know about the shared library, and where the built-in llama.cpp lies.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Tests make a shared llama.cpp of the archives that are linked statically here.
    if let Ok(root) = std::env::var("DEP_LLAMA_ROOT") {
        println!("cargo:rustc-env=LLAMA_CPP_ROOT={root}");
    }
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // The number grows when a program that was linked against an older one would no longer run.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libllama_align.so.0");
        // Thread-local destructors of an unloaded library would run into nothing: it stays for good.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
