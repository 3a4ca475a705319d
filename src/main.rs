//! The one binary: every process type of the Procfile and the operator's commands.

fn main() -> std::process::ExitCode {
    carillon::cli::main()
}
