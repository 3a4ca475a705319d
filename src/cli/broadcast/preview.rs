//! `carillon broadcast preview`: what customers will read, one block a channel.
//!
//! Why so short: a person compares channels and names, so the sample is shown whole and the other two as far as they differ from it.
//! `--json` holds everything.
//!
//! It must never show what does not stand in the message.

use super::super::{CliError, say};
use crate::{
    broadcast::{ChannelPreview, MessagePreview, Person, Preview, SmsPreview, Who},
    channel::Alphabet,
};

pub(super) const HELP: &str = "Shown for three customers of the audience: a sample, the longest name, an empty name. \
                               --json also holds the message part of each provider's request.";

/// Lines of the sample's text; what is longer is for `--json`.
const TEXT_LINES: usize = 8;
/// Lines of a text that stands below the sample's.
const FURTHER_LINES: usize = 3;

pub(super) fn print(preview: &Preview) -> Result<(), CliError> {
    lines(preview).iter().try_for_each(|line| say(line))
}

fn lines(preview: &Preview) -> Vec<String> {
    let mut lines = vec![preview.name.clone()];
    lines.extend(
        preview
            .people
            .iter()
            .map(|person| format!("  {:<14}{}", label(person.who), name(person))),
    );
    for channel in &preview.channels {
        lines.push(String::new());
        lines.push(channel.channel.to_string());
        lines.extend(of_channel(channel));
    }
    lines
}

fn label(who: Who) -> &'static str {
    match who {
        Who::Sample => "sample",
        Who::LongestName => "longest name",
        Who::EmptyName => "empty name",
    }
}

fn name(person: &Person) -> String {
    let name = match (person.last_name.trim(), person.first_name.trim()) {
        ("", "") => "–".to_owned(),
        (one, "") | ("", one) => one.to_owned(),
        (last, first) => format!("{first} {last}"),
    };
    match person.customer {
        Some(customer) => format!("{name} (customer {})", customer.0),
        None => format!("{name} (made up: the audience has none)"),
    }
}

fn of_channel(channel: &ChannelPreview) -> Vec<String> {
    let mut lines = Vec::new();
    let sample = channel.messages.first();
    let sample_parts = sample.map(parts).unwrap_or_default();
    for (index, message) in channel.messages.iter().enumerate() {
        let all = parts(message);
        let most = if index == 0 { TEXT_LINES } else { FURTHER_LINES };
        let differs = |part: &&(&str, String)| index == 0 || !sample_parts.contains(*part);
        let shown: Vec<&(&str, String)> = all.iter().filter(differs).collect();
        if shown.is_empty() {
            lines.push(format!("  {:<14}as the sample", label(message.who)));
        } else {
            lines.push(format!("  {}", label(message.who)));
            lines.extend(shown.into_iter().flat_map(|(name, value)| part(name, value, most)));
        }
        lines.extend(message.warnings.iter().map(|warning| format!("    note: {warning}")));
    }
    lines.extend(channel.warnings.iter().map(|warning| format!("  note: {warning}")));
    lines
}

/// What is seen of a message, by name.
fn parts(message: &MessagePreview) -> Vec<(&'static str, String)> {
    let reading = &message.reading;
    let button = reading
        .button
        .as_ref()
        .map(|button| format!("[{}] {}", button.label, button.url));
    let all = [
        ("template", reading.template.clone()),
        ("subject", reading.subject.clone()),
        ("title", reading.title.clone()),
        ("text", Some(reading.text.trim_end().to_owned())),
        ("image", reading.image_url.clone()),
        ("button", button),
        ("opens", reading.opens.clone()),
        ("takes", message.sms.as_ref().map(takes)),
    ];
    all.into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)))
        .collect()
}

fn takes(sms: &SmsPreview) -> String {
    let alphabet = match sms.alphabet {
        Alphabet::Gsm7 => "GSM-7",
        Alphabet::Ucs2 => "UCS-2",
    };
    let plural = if sms.segments == 1 { "" } else { "s" };
    format!(
        "{} segment{plural} of {alphabet}, {} characters left, begins with `{}`",
        sms.segments, sms.characters_left, sms.prefix
    )
}

/// A part under its name; the further lines of a text stand under the first.
fn part(name: &str, value: &str, most: usize) -> Vec<String> {
    let all = value.lines().count();
    let mut lines: Vec<String> = value
        .lines()
        .take(most)
        .zip(std::iter::once(name).chain(std::iter::repeat("")))
        .map(|(line, name)| format!("    {name:<10}{line}").trim_end().to_owned())
        .collect();
    if all > most {
        lines.push(format!("    {:<10}… {} more lines", "", all - most));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn preview_cuts_a_text_that_is_longer_than_a_screen_should_hold() {
        assert_eq!(
            part("text", "您好\n\n全館", 3),
            ["    text      您好", "", "              全館"]
        );
        let many = vec!["x"; 20].join("\n");
        let lines = part("text", &many, 8);
        assert_eq!(lines.len(), 9);
        assert_eq!(lines.last().map(String::as_str), Some("              … 12 more lines"));
    }
}
