//! The program's entry.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(llama_align::cli::run(std::env::args_os()))
}
