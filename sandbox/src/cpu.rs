//! What the process cost so far: CPU seconds and memory, from `/proc/self`.
//! It exists because a benchmark on one machine must subtract the simulator's share of the CPU.
//! It must never estimate: where `/proc` does not exist the answer is an error.

use serde::{Deserialize, Serialize};

/// `/proc` counts CPU time in ticks of this many per second on every Linux the kernel exports to user space.
const TICKS_PER_SEC: f64 = 100.0;

/// What this process used since it started.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// CPU seconds in user mode.
    pub user_secs: f64,
    /// CPU seconds in the kernel.
    pub system_secs: f64,
    /// Both.
    pub total_secs: f64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
}

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// No `/proc`.
    #[error("/proc/self cannot be read")]
    Read(#[from] std::io::Error),
    /// `/proc` looks different from what is documented.
    #[error("/proc/self/stat has an unknown form")]
    Form,
}

/// Reads `/proc/self/stat` and `/proc/self/status`.
pub fn used() -> Result<Used, CpuError> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The program's name stands in parentheses and may hold anything; the numbers follow the last one.
    let (_, fields) = stat.rsplit_once(") ").ok_or(CpuError::Form)?;
    let ticks = |index: usize| {
        fields
            .split(' ')
            .nth(index)
            .and_then(|field| field.parse::<f64>().ok())
            .ok_or(CpuError::Form)
    };
    // utime and stime are fields 14 and 15 of the line, the state after the name being field 3.
    let (user_secs, system_secs) = (ticks(11)? / TICKS_PER_SEC, ticks(12)? / TICKS_PER_SEC);
    let status = std::fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok());
    Ok(Used {
        user_secs,
        system_secs,
        total_secs: user_secs + system_secs,
        resident_bytes: kib.ok_or(CpuError::Form)? * 1024,
    })
}
