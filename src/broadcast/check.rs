//! What every broadcast must fulfil (pure).
//!
//! Why it exists: the same checks stand at the door (`create`) and before planning (`stored`), because a frontend may
//! have written the row by SQL, and because prices and senders change while a broadcast waits for its time.
//!
//! It must never pass what planning could not carry out.

use chrono::NaiveDate;

use super::{
    problem::{Problem, Problems},
    routing::Mode,
};
use crate::{
    channel::{Channel, Content, InvalidContent},
    prices::Prices,
};

const NAME_LIMIT: usize = 120;

/// Checks a broadcast's name.
pub(super) fn name(name: &str, problems: &mut Problems) {
    if name.trim().is_empty() {
        problems.0.push(Problem::new(
            "name_missing",
            "name",
            "is empty: give the broadcast a name",
        ));
    } else if name.chars().count() > NAME_LIMIT {
        let problem = format!("has more than {NAME_LIMIT} characters: shorten it");
        problems.0.push(Problem::new("name_too_long", "name", problem));
    }
}

/// Checks the chosen channels against the mode.
pub(super) fn channels(mode: Mode, channels: &[Channel], problems: &mut Problems) {
    let mut refuse = |id, problem: String| problems.0.push(Problem::new(id, "channels", problem));
    if channels.is_empty() {
        refuse("no_channel", "is empty: choose at least one channel".to_owned());
        return;
    }
    for (index, channel) in channels.iter().enumerate() {
        if channels.iter().take(index).any(|earlier| earlier == channel) {
            refuse("channel_repeated", format!("names {channel} twice: once is enough"));
        }
    }
    match mode {
        Mode::PrioritySingle => {}
        Mode::AppPlusOne => {
            if !channels.contains(&Channel::App) {
                refuse(
                    "app_missing",
                    "does not contain app, which this mode always uses: add it".to_owned(),
                );
            }
            if channels.len() > 2 {
                refuse(
                    "too_many_channels",
                    format!(
                        "names {}: choose app and at most one more, or mode priority_single",
                        channels.len()
                    ),
                );
            }
        }
    }
}

/// Checks the message against the limits of the channels it goes over.
pub(super) fn content(content: &Content, channels: &[Channel], problems: &mut Problems) {
    for channel in channels {
        let found = content.problems_on(*channel);
        if !found.is_empty() {
            problems.add_content(&InvalidContent(found));
        }
    }
}

/// The cost of a message on each channel, on a day of Asia/Taipei's calendar.
pub(super) fn prices(price_list: &Prices, day: NaiveDate, channels: &[Channel], problems: &mut Problems) -> Vec<u32> {
    let mut prices = Vec::with_capacity(channels.len());
    for (index, channel) in channels.iter().enumerate() {
        match price_list.token_cost_at(*channel, day) {
            Some(tokens) => prices.push(tokens),
            None => problems.0.push(Problem::new(
                "price_missing",
                format!("channels[{index}]"),
                format!("is {channel}, which has no price on {day}: choose another channel"),
            )),
        }
    }
    prices
}

#[cfg(test)]
mod tests {
    use super::{channels, name};
    use crate::{
        broadcast::{problem::Problems, routing::Mode},
        channel::Channel::{self, App, Email, Line},
    };

    fn refusals(mode: Mode, chosen: &[Channel]) -> Vec<&'static str> {
        let mut problems = Problems(Vec::new());
        channels(mode, chosen, &mut problems);
        problems.0.into_iter().map(|problem| problem.id).collect()
    }

    #[test]
    fn app_plus_one_is_the_app_and_at_most_one_more() {
        assert!(refusals(Mode::AppPlusOne, &[App]).is_empty());
        assert!(refusals(Mode::AppPlusOne, &[App, Line]).is_empty());
        assert_eq!(refusals(Mode::AppPlusOne, &[Line]), ["app_missing"]);
        assert_eq!(refusals(Mode::AppPlusOne, &[App, Line, Email]), ["too_many_channels"]);
        assert_eq!(refusals(Mode::AppPlusOne, &[App, App]), ["channel_repeated"]);
        assert_eq!(refusals(Mode::AppPlusOne, &[]), ["no_channel"]);
    }

    #[test]
    fn priority_takes_any_order_of_channels() {
        assert!(refusals(Mode::PrioritySingle, &[Email]).is_empty());
        assert!(refusals(Mode::PrioritySingle, &[Line, App, Email]).is_empty());
        assert_eq!(refusals(Mode::PrioritySingle, &[Line, Line]), ["channel_repeated"]);
    }

    #[test]
    fn a_name_is_neither_empty_nor_endless() {
        let mut problems = Problems(Vec::new());
        name("雙十一", &mut problems);
        assert!(problems.0.is_empty());
        name(" ", &mut problems);
        name(&"長".repeat(121), &mut problems);
        let ids: Vec<_> = problems.0.iter().map(|problem| problem.id).collect();
        assert_eq!(ids, ["name_missing", "name_too_long"]);
    }
}
