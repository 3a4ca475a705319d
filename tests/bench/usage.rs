//! What processes cost, from `/proc`: CPU seconds and peak memory. Linux only, like the rest of the benchmarks.

use std::fs;

/// `/proc` counts CPU time in ticks of this many per second on every Linux.
const TICKS_PER_SEC: f64 = 100.0;

/// The fields of `/proc/PID/stat` after the name, which may hold anything; the first is the state (field 3).
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

fn ticks(stat: &[String], fields: &[usize]) -> f64 {
    fields
        .iter()
        .map(|field| stat[field - 3].parse::<f64>().unwrap())
        .sum::<f64>()
        / TICKS_PER_SEC
}

/// CPU seconds of one process so far.
pub fn cpu_secs(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |stat| ticks(&stat, &[14, 15]))
}

/// The process that started this one.
pub fn parent(pid: u32) -> u32 {
    stat(pid).expect("the process runs")[4 - 3].parse().unwrap()
}

/// CPU seconds of a process, of its running children and of those it has seen end.
pub fn cpu_secs_of_family(pid: u32) -> f64 {
    let children = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
        .filter_map(stat)
        .filter(|stat| stat[4 - 3] == pid.to_string())
        .map(|stat| ticks(&stat, &[14, 15]))
        .sum::<f64>();
    children + stat(pid).map_or(0.0, |stat| ticks(&stat, &[14, 15, 16, 17]))
}

/// The most memory a process ever held, in MB (10^6 bytes).
pub fn peak_mb(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<f64>().unwrap() * 1_024.0 / 1e6
}
