//! The alert rules: each stands on series a running process really has, each has its heading in the runbook, and what the
//! runbook says to run can be run.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    cli::run_with,
    metrics::{scrape, start},
    world::World,
};

const ALERTS: &str = include_str!("../../config/alerts.yml");
const RUNBOOK: &str = include_str!("../../docs/runbook.md");

/// A rule: its name and the text of its expression.
fn rules() -> Vec<(String, String)> {
    let mut rules: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in ALERTS.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("- alert: ") {
            rules.push((name.to_owned(), String::new()));
        } else if let Some(expression) = line.strip_prefix("expr: ") {
            rules.last_mut().unwrap().1.push_str(expression);
            inside = expression == ">";
        } else if ["for:", "labels:", "annotations:"]
            .iter()
            .any(|key| line.starts_with(key))
        {
            inside = false;
        } else if inside {
            let expression = &mut rules.last_mut().unwrap().1;
            expression.push(' ');
            expression.push_str(line);
        }
    }
    rules
}

/// Every series an expression names, and the labels it asks of it: `name`, `name{label="value"}`.
fn named(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("carillon_") {
        rest = &rest[at..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let labels = after
            .strip_prefix('{')
            .and_then(|inside| inside.split_once('}'))
            .map_or_else(Vec::new, |(inside, _)| alternatives(inside));
        found.push((name.to_owned(), labels));
        rest = after;
    }
    found
}

/// `class=~"a|b"` asks for class="a" and class="b".
fn alternatives(matcher: &str) -> Vec<String> {
    let (label, values) = matcher.split_once('=').unwrap();
    let values = values.trim_start_matches('~').trim_matches('"');
    values.split('|').map(|value| format!("{label}=\"{value}\"")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_stands_on_real_series_and_has_its_heading() {
    let mut world = World::new(&[]).await;
    let (_web, port) = start(&mut world, "web").await;
    let (_, text) = scrape(port, &[]).await.unwrap();
    let rules = rules();
    assert!(rules.len() >= 20, "{rules:?}");
    let mut wrong = Vec::new();
    for (rule, expression) in &rules {
        let named = named(expression);
        if named.is_empty() {
            wrong.push(format!("{rule} names no series: {expression}"));
        }
        for (name, labels) in named {
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| {
                    line.strip_prefix(&name)
                        .is_some_and(|rest| rest.starts_with(['{', ' ']))
                })
                .collect();
            let missing = labels
                .iter()
                .filter(|label| !lines.iter().any(|line| line.contains(label.as_str())));
            if lines.is_empty() {
                wrong.push(format!("{rule}: nobody answers with {name}"));
            }
            wrong.extend(missing.map(|label| format!("{rule}: {name} has no {label}")));
        }
        if !ALERTS.contains(&format!("runbook: docs/runbook.md#{}\n", rule.to_lowercase())) {
            wrong.push(format!("{rule} does not point to its heading"));
        }
    }
    let names: Vec<&str> = rules.iter().map(|(name, _)| name.as_str()).collect();
    let headings: Vec<&str> = RUNBOOK.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(names, headings, "the runbook's headings are the rules, in their order");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whatever stands in backquotes and begins with the program's name is a call the program takes.
#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_runbook_exists() {
    let mut calls: Vec<&str> = RUNBOOK
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.starts_with("carillon "))
        .collect();
    calls.sort_unstable();
    calls.dedup();
    assert!(calls.len() >= 10, "{calls:?}");
    for call in calls {
        // Whether it exists does not matter: the call is read, and help is shown instead of doing it.
        let id = if call.starts_with("carillon jobs ") {
            "7".to_owned()
        } else {
            Uuid::now_v7().to_string()
        };
        let mut args: Vec<&str> = call
            .split(' ')
            .skip(1)
            .map(|word| if word == "ID" { id.as_str() } else { word })
            .collect();
        args.push("--help");
        let ran = run_with(&BTreeMap::new(), &args, "").await;
        assert_eq!(ran.code, 0, "`{call}`: {ran:?}");
    }
}
