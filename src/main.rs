//! The one binary: every process type of the Procfile and the operator's commands.

/// A worker allocates for every message, on one thread, and frees on another; the system's allocator spends a fifth of the
/// worker's processor time on that, and gives pages back only to ask for them again.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    carillon::cli::main()
}
