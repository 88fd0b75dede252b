//! The binary; everything is in the library, so that tests and fuzzers reach it.

fn main() -> std::process::ExitCode {
    jailmk::cli::run()
}
