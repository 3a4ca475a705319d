//! Estimates and reports as tables.

use std::collections::BTreeMap;

use super::super::{
    CliError, say,
    table::{Table, number, span},
};
use crate::broadcast::{Estimate, LineEstimate, Outcomes, Report};

/// What a broadcast would do.
pub(super) fn estimate(estimate: &Estimate) -> Result<(), CliError> {
    let mut lines = vec![
        format!("{} customers in the audience", number(estimate.customers)),
        String::new(),
    ];
    let mut table = Table::new(&["channel", "reachable", "messages", "tokens each", "tokens"]);
    for one in &estimate.channels {
        table.row([
            one.channel.to_string(),
            number(one.reachable),
            number(one.messages),
            number(one.tokens_each),
            number(one.tokens),
        ]);
    }
    table.row([
        "together".to_owned(),
        String::new(),
        number(estimate.messages),
        String::new(),
        number(estimate.tokens),
    ]);
    lines.extend(table.lines());
    lines.extend(reasons("get nothing because", "customers", &estimate.skipped));
    lines.push(String::new());
    lines.push(format!(
        "tokens to spend: {} now, {} after",
        number(estimate.available_before),
        number(estimate.available_after)
    ));
    lines.extend(estimate.line.as_ref().map(line_quota));
    lines.extend(estimate.warnings.iter().map(|warning| format!("note: {warning}")));
    lines.iter().try_for_each(|line| say(line))
}

/// What LINE's own account has left, and what LINE charges.
fn line_quota(line: &LineEstimate) -> String {
    let plan = line.plan.as_deref().unwrap_or("of its own");
    let Some(at) = line.quota.read_at else {
        return "LINE: nothing is known of its quota".to_owned();
    };
    let left = match line.left {
        Some(left) => format!("{} of {} left", number(left), number(line.quota.may_send.unwrap_or(0))),
        None => "no limit".to_owned(),
    };
    let charge = match line.charge_milli_twd {
        Some(milli) => format!("LINE charges TWD {} beyond the plan", super::super::line::twd(milli)),
        None => "what LINE charges is not known".to_owned(),
    };
    format!(
        "LINE: plan {plan}, {left} this month ({} reserved by other broadcasts), as of {}; {charge}",
        number(line.quota.reserved),
        at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    )
}

/// What became of a broadcast.
pub(super) fn report(report: &Report) -> Result<(), CliError> {
    let mut lines = head(report);
    let mut table = Table::new(&[
        "channel",
        "planned",
        "accepted",
        "delivered",
        "read",
        "failed",
        "skipped",
        "unknown",
        "cancelled",
        "expired",
        "left",
    ]);
    for one in &report.channels {
        table.row(cells(&one.channel.to_string(), &one.outcomes));
    }
    if report.channels.len() > 1 {
        table.row(cells("together", &report.total));
    }
    lines.push(String::new());
    lines.extend(table.lines());
    lines.extend(reasons("messages failed because", "messages", &report.total.failed));
    lines.extend(reasons(
        "messages were not sent after all because",
        "messages",
        &report.total.skipped,
    ));
    lines.extend(reasons(
        "nobody knows what became of messages because",
        "messages",
        &report.total.unknown,
    ));
    lines.extend(reasons(
        "customers get nothing because",
        "customers",
        &report.skipped_customers,
    ));
    lines.extend(tokens(report));
    for (channel, until) in report
        .channels
        .iter()
        .filter_map(|one| Some((one.channel, one.quiet_until?)))
    {
        lines.push(format!(
            "note: quiet hours on {channel}: what has not left waits until {}, or expires at its deadline",
            until.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        ));
    }
    for one in report.channels.iter().filter(|one| one.sender_state != "connected") {
        lines.push(format!("note: the sender of {} is {}", one.channel, one.sender_state));
    }
    lines.iter().try_for_each(|line| say(line))
}

fn head(report: &Report) -> Vec<String> {
    let mut state = report.state.to_string();
    if let Some(reason) = &report.reason {
        state = format!("{state}: {reason}");
    }
    if let Some(resume) = report.resume_state {
        state = format!("{state}, was {resume}");
    }
    let mut lines = vec![format!("{}  {}", report.name, report.id), state];
    if let Some(time) = report.scheduled_at.filter(|_| report.sending_at.is_none()) {
        lines.push(format!(
            "leaves at {}",
            time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        ));
    }
    if let Some(secs) = report.sending_secs {
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = report.total.ended() as f64 / secs.max(0.001);
        let ended = if report.is_over() { "took" } else { "for" };
        lines.push(format!("sending {ended} {}, {rate:.0} messages a second", span(secs)));
    }
    lines.push(format!("{} customers planned", number(report.customers)));
    lines
}

fn cells(name: &str, outcomes: &Outcomes) -> [String; 11] {
    let sum = |of: &BTreeMap<String, i64>| number(of.values().sum());
    [
        name.to_owned(),
        number(outcomes.planned),
        number(outcomes.accepted),
        number(outcomes.delivered),
        number(outcomes.read),
        sum(&outcomes.failed),
        sum(&outcomes.skipped),
        sum(&outcomes.unknown),
        number(outcomes.cancelled),
        number(outcomes.expired),
        number(outcomes.left),
    ]
}

fn tokens(report: &Report) -> Vec<String> {
    let tokens = &report.tokens;
    let mut table = Table::new(&[
        "tokens",
        "cost",
        "held",
        "captured",
        "released",
        "refunded",
        "open",
        "to spend now",
    ]);
    let figures = [
        tokens.cost,
        tokens.held,
        tokens.captured,
        tokens.released,
        tokens.refunded,
        tokens.open,
        tokens.available,
    ];
    table.row(std::iter::once(String::new()).chain(figures.map(number)));
    let mut lines = vec![String::new()];
    lines.extend(table.lines());
    if let Some(missing) = tokens.missing {
        lines.push(format!(
            "{} tokens are missing: nothing was sent and nothing is held",
            number(missing)
        ));
    }
    lines
}

fn reasons(heading: &str, unit: &str, of: &BTreeMap<String, i64>) -> Vec<String> {
    if of.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new(&[heading, unit]);
    for (reason, n) in of {
        table.row([reason.clone(), number(*n)]);
    }
    std::iter::once(String::new()).chain(table.lines()).collect()
}
