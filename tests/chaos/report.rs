//! The report of a run, for a person and as one JSON object: the same figures, and the same last words.
//! It must never soften a figure: what broke comes last, where it is read.

use std::fmt::{self, Write as _};

use super::{
    figures::{Recovery, Stall},
    options::Options,
    outcome::{Because, Outcome, Wrong},
    secs, told,
};

/// States in the order of the table.
const STATES: [&str; 8] = [
    "accepted",
    "delivered",
    "read",
    "unknown",
    "cancelled",
    "failed",
    "skipped",
    "expired",
];

/// A run and what it came to.
pub struct Report<'a> {
    /// What was asked for.
    pub options: &'a Options,
    /// What was found.
    pub outcome: &'a Outcome,
    /// What was done.
    pub faults: &'a [told::Fault],
    /// The longest stall of the run, and of the time in which nothing was broken.
    pub stalls: (Stall, Stall),
    /// The longest of each provider.
    pub stalls_by_provider: std::collections::BTreeMap<&'static str, Stall>,
    /// Kind by kind.
    pub recoveries: Vec<Recovery>,
    /// The longest that work whose owner had gone waited for a new one after its lease was over.
    pub abandoned: Stall,
    /// From the end of the run to quiet, in milliseconds.
    pub quiet_ms: u64,
}

impl Report<'_> {
    /// As one JSON object.
    pub fn json(&self) -> serde_json::Value {
        let broken = self.outcome.broken();
        let faults: Vec<_> = self
            .faults
            .iter()
            .map(|fault| {
                serde_json::json!({"at_ms": fault.from_ms, "healed_ms": fault.healed_ms, "kind": fault.planned.kind.name(),
                    "target": fault.planned.target.to_string(), "note": fault.note})
            })
            .collect();
        serde_json::json!({
            "ok": broken.is_empty(),
            "broken": broken,
            "seed": self.options.seed,
            "minutes": self.options.minutes,
            "again": self.options.again(),
            "sent": self.outcome.sent(),
            "planned": self.outcome.planned(),
            "outcome": self.outcome,
            "longest_stall": self.stalls.0,
            "longest_stall_with_nothing_broken": self.stalls.1,
            "longest_stall_by_provider": self.stalls_by_provider,
            "abandoned": self.abandoned,
            "quiet_ms": self.quiet_ms,
            "recovery": self.recoveries,
            "faults": faults,
        })
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options {
            seed, minutes, fleet, ..
        } = self.options;
        writeln!(
            f,
            "\nChaos: {minutes} min, seed {seed}, {} workers, {} schedulers, {} web processes, {} faults\n",
            fleet.workers,
            fleet.schedulers,
            fleet.webs,
            self.faults.len()
        )?;
        self.providers(f)?;
        self.once(f)?;
        self.findings(f)?;
        self.times(f)?;
        self.verdict(f)
    }
}

impl Report<'_> {
    fn providers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:<9}{:>9}", "provider", "planned")?;
        for state in STATES {
            write!(f, "{state:>11}")?;
        }
        writeln!(f, "  │{:>9}{:>12}{:>13}", "received", "duplicates", "most to one")?;
        writeln!(f, "  {}┼{}", "─".repeat(20 + 11 * STATES.len()), "─".repeat(35))?;
        for (name, provider) in &self.outcome.providers {
            write!(f, "  {name:<9}{:>9}", number(provider.planned))?;
            for state in STATES {
                write!(f, "{:>11}", number(provider.states.get(state).copied().unwrap_or(0)))?;
            }
            let (received, duplicates) = (number(provider.received), number(provider.duplicates));
            writeln!(f, "  │{received:>9}{duplicates:>12}{:>13}", provider.most_to_one)?;
        }
        Ok(())
    }

    fn once(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ["due", "done", "twice", "missing", "undue"];
        write!(f, "\n  {:<9}", "once")?;
        for column in columns {
            write!(f, "{column:>9}")?;
        }
        writeln!(f, "{:>11}", "slowest")?;
        writeln!(f, "  {}", "─".repeat(65))?;
        for (name, once) in &self.outcome.once {
            write!(f, "  {name:<9}")?;
            for n in [
                once.due,
                once.done,
                once.twice.count,
                once.missing.count,
                once.undue.count,
            ] {
                write!(f, "{:>9}", number(n))?;
            }
            let counts: Vec<String> = once
                .counts
                .iter()
                .map(|(what, n)| format!("{} {what}", number(*n)))
                .collect();
            writeln!(f, "{:>9.1} s  {}", secs(once.slowest_ms), counts.join(", "))?;
            for what in [&once.twice, &once.missing, &once.undue]
                .into_iter()
                .flat_map(|wrong| &wrong.first)
            {
                writeln!(f, "      · {what}")?;
            }
        }
        writeln!(f)
    }

    fn findings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = self.outcome;
        let broadcasts: Vec<String> = outcome
            .broadcasts
            .iter()
            .map(|(state, n)| format!("{} {state}", number(*n)))
            .collect();
        line(f, "broadcasts", &broadcasts.join(", "))?;
        wrong(f, "lost", &outcome.lost)?;
        wrong(f, "unaccounted", &outcome.unaccounted)?;
        for (title, counts) in [
            ("unknown", &outcome.unknown),
            ("failed", &outcome.failed),
            ("dead jobs", &outcome.dead),
        ] {
            let total: u64 = counts.values().sum();
            line(f, title, &number(total))?;
            for (Because { of, reason, cause }, n) in counts {
                let cause = cause.as_deref().unwrap_or("NO CAUSE");
                writeln!(f, "  {:>24}  {of} {reason}: {cause}", number(*n))?;
            }
        }
        line(
            f,
            "ledger",
            &format!(
                "drift {} in {} comparisons",
                outcome.drift.count,
                number(outcome.audited)
            ),
        )?;
        for check in &outcome.drift.first {
            writeln!(f, "      · {check}")?;
        }
        wrong(f, "own exits", &outcome.exits)?;
        wrong(f, "panics", &outcome.panics)?;
        wrong(f, "error lines", &outcome.errors)?;
        line(f, "slowest stop", &format!("{:.1} s", secs(outcome.slowest_stop_ms)))
    }

    fn times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, healthy) = &self.stalls;
        line(f, "longest stall", &stall(whole))?;
        for (provider, of_provider) in &self.stalls_by_provider {
            writeln!(f, "  {provider:>24}  {}", stall(of_provider))?;
        }
        line(f, "  nothing broken", &format!("{:.1} s", secs(healthy.ms)))?;
        line(
            f,
            "abandoned work",
            &format!("past its lease for {}", stall(&self.abandoned)),
        )?;
        line(f, "quiet", &format!("{:.1} s after the end", secs(self.quiet_ms)))?;
        for what in self.outcome.not_quiet.iter().take(20) {
            writeln!(f, "      · {what}")?;
        }
        writeln!(
            f,
            "\n  From healed to the next accepted message, where messages waited:\n"
        )?;
        writeln!(
            f,
            "  {:<24}{:>7}{:>7}{:>10}{:>10}",
            "fault", "made", "idle", "median", "longest"
        )?;
        writeln!(f, "  {}", "─".repeat(58))?;
        for Recovery {
            kind,
            faults,
            idle,
            median_ms,
            longest_ms,
        } in &self.recoveries
        {
            let (median, longest) = (secs(*median_ms), secs(*longest_ms));
            writeln!(f, "  {kind:<24}{faults:>7}{idle:>7}{median:>8.1} s{longest:>8.1} s")?;
        }
        Ok(())
    }

    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken = self.outcome.broken();
        if broken.is_empty() {
            let counts = self.outcome.providers.iter();
            let counts: Vec<String> = counts
                .map(|(name, provider)| format!("{name} {}", number(provider.received)))
                .collect();
            let all = number(self.outcome.sent());
            writeln!(f, "\nEvery promise held: {all} messages ({}).", counts.join(", "))?;
        } else {
            writeln!(f, "\nBROKEN:")?;
            for promise in &broken {
                writeln!(f, "  · {promise}")?;
            }
        }
        writeln!(f, "Again: {}", self.options.again())
    }
}

fn line(f: &mut fmt::Formatter<'_>, title: &str, text: &str) -> fmt::Result {
    writeln!(f, "  {title:<18}{text}")
}

fn wrong(f: &mut fmt::Formatter<'_>, title: &str, wrong: &Wrong) -> fmt::Result {
    line(f, title, &number(wrong.count))?;
    for what in &wrong.first {
        writeln!(f, "      · {what}")?;
    }
    Ok(())
}

fn stall(stall: &Stall) -> String {
    let mut text = format!("{:.1} s", secs(stall.ms));
    if stall.ms >= 1_000 {
        // Writing to a String cannot fail.
        let _ = write!(text, " from {:.1} s on", secs(stall.from_ms));
        if !stall.faults.is_empty() {
            let _ = write!(text, ", with {}", stall.faults.join(", "));
        }
    }
    text
}

/// With commas, as people read numbers.
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
