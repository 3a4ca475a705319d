//! The list that is shipped, and what no list may hold.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

const ID: &str = "0197a1b2-0000-7000-8000-000000000000";

/// A list of one schedule: the least, with these lines more.
fn list(lines: &str) -> Result<ScheduleList, ScheduleListError> {
    ScheduleList::parse(&one("try", lines))
}

fn one(name: &str, lines: &str) -> String {
    let has = |key: &str| lines.lines().any(|line| line.starts_with(&format!("{key} ")));
    let given = [
        ("every", "\"day\"".to_owned()),
        ("zone", "\"Asia/Taipei\"".to_owned()),
        ("kind", "\"broadcast-send\"".to_owned()),
        ("args", format!("{{ broadcast_id = \"{ID}\" }}")),
        ("catch_up", "\"all\"".to_owned()),
    ];
    let rest = given
        .iter()
        .filter(|(key, _)| !has(key))
        .map(|(key, value)| format!("{key} = {value}\n"));
    format!("[[schedule]]\nname = \"{name}\"\n{lines}\n{}", rest.collect::<String>())
}

#[test]
fn the_shipped_list_can_ring_for_each_of_its_next_periods() {
    let shipped = ScheduleList::embedded().unwrap();
    for schedule in shipped.all() {
        let after = "2026-11-22T00:00:00Z".parse().unwrap();
        let periods = schedule.rhythm.next(after, 20);
        assert_eq!(periods.len(), 20, "{}", schedule.name);
        for period in periods {
            let bell = bell(schedule.kind, "an-id", &schedule.args(&period.name)).unwrap();
            assert_eq!(bell.job.kind(), schedule.kind);
            bell.to_text().unwrap();
        }
    }
}

#[test]
fn what_is_not_said_has_its_default() {
    let read = |lines: &str| list(lines).unwrap().all().first().unwrap().clone();
    let day = read("");
    assert_eq!((day.rhythm.every, day.rhythm.at), (Every::Day, NaiveTime::MIN));
    assert_eq!(day.grace, TimeDelta::minutes(60));
    assert_eq!(read("every = \"month\"").rhythm.every, Every::Month { day: 1 });
    assert_eq!(
        read("every = \"week\"").rhythm.every,
        Every::Week { weekday: Weekday::Mon }
    );
    let hour = read("every = \"hour\"\nminute = 59");
    assert_eq!(
        (hour.rhythm.every, hour.rhythm.at),
        (Every::Hour, NaiveTime::from_hms_opt(0, 59, 0).unwrap())
    );
    let sunday = read("every = \"week\"\nweekday = \"sunday\"\nat = \"23:59\"\ncatch_up = \"skip\"\ngrace_mins = 5");
    assert_eq!(sunday.rhythm.every, Every::Week { weekday: Weekday::Sun });
    assert_eq!((sunday.catch_up, sunday.grace), (CatchUp::Skip, TimeDelta::minutes(5)));
}

#[test]
fn the_periods_name_stands_wherever_a_text_asks_for_it() {
    let args =
        json!({"period": "{period}", "deep": [{"of": "the {period} of {period}"}, 7, true, null], "{period}": 1});
    assert_eq!(
        with_period(&args, "2026-11"),
        json!({"period": "2026-11", "deep": [{"of": "the 2026-11 of 2026-11"}, 7, true, null], "{period}": 1})
    );
}

#[test]
fn a_schedule_that_could_not_ring_is_refused_with_its_name_the_key_and_what_would() {
    for (lines, key, says) in [
        ("kind = \"no-such-kind\"", "kind", "broadcast-send"),
        ("args = { }", "args", "broadcast_id"),
        ("args = { broadcast_id = \"{period}\" }", "args", "broadcast_id"),
        ("args = { broadcast_id = 2026-11-22 }", "args", "broadcast-send"),
        (
            &format!("args = {{ broadcast_id = \"{ID}\", period = \"{{period}}\" }}"),
            "args",
            "period",
        ),
        ("zone = \"Asia/Atlantis\"", "zone", "Asia/Taipei"),
        ("zone = \"+08:00\"", "zone", "Asia/Taipei"),
        ("at = \"24:00\"", "at", "23:59"),
        ("at = \"9:05\"", "at", "03:30"),
        ("at = \"09:05:30\"", "at", "03:30"),
        ("every = \"hour\"\nat = \"09:05\"", "at", "minute"),
        ("minute = 5", "minute", "HH:MM"),
        ("every = \"hour\"\nminute = 60", "minute", "59"),
        ("every = \"month\"\nday = 0", "day", "31"),
        ("every = \"month\"\nday = 32", "day", "31"),
        ("day = 3", "day", "month"),
        ("weekday = \"monday\"", "weekday", "week"),
        ("every = \"week\"\nweekday = \"Monday\"", "weekday", "monday"),
        ("grace_mins = 5", "grace_mins", "skip"),
        ("catch_up = \"skip\"\ngrace_mins = 0", "grace_mins", "1 to"),
    ] {
        let error = list(lines).unwrap_err();
        let ScheduleListError::Wrong {
            schedule,
            key: named,
            what,
        } = &error
        else {
            unreachable!("{lines}: {error}");
        };
        assert_eq!((schedule.as_str(), *named), ("try", key), "{lines}: {error}");
        assert!(what.contains(says), "{lines}: {error}");
    }
    for name in [
        "",
        "Audit",
        "two words",
        "-a",
        "a-",
        "a--b",
        "a_b",
        "稽核",
        &"a".repeat(61),
    ] {
        let error = ScheduleList::parse(&one(name, "")).unwrap_err();
        assert!(
            matches!(error, ScheduleListError::Wrong { key: "name", .. }),
            "{name}: {error}"
        );
    }
    for lines in [
        "every = \"year\"",
        "catch_up = \"some\"",
        "every = 1",
        "colour = \"red\"",
    ] {
        assert!(matches!(list(lines), Err(ScheduleListError::Malformed(_))), "{lines}");
    }
    let twice = format!("{}{}", one("try", ""), one("try", "every = \"hour\""));
    assert!(matches!(ScheduleList::parse(&twice), Err(ScheduleListError::Twice(name)) if name == "try"));
    assert!(matches!(
        ScheduleList::try_from("/nowhere/at-all.toml".to_owned()),
        Err(ScheduleListError::Unreadable { .. })
    ));
}

#[test]
fn another_text_has_another_fingerprint() {
    let (a, b) = (list("").unwrap(), list("at = \"00:01\"").unwrap());
    assert_eq!(a.fingerprint(), list("").unwrap().fingerprint());
    assert_ne!(a.fingerprint(), b.fingerprint());
    assert_eq!(a.fingerprint().len(), 16);
}
