//! Small readings of TOML and of words, for the document and its messages. All pure.

use std::collections::BTreeMap;

use toml::{Table, Value};

pub(super) fn insert(root: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            root.insert(path.to_owned(), value);
        }
        Some((head, rest)) => {
            if let Value::Table(table) = root.entry(head).or_insert_with(|| Value::Table(Table::new())) {
                insert(table, rest, value);
            }
        }
    }
}

pub(super) fn flatten(table: &Table) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => leaves.extend(
                flatten(inner)
                    .into_iter()
                    .map(|(path, value)| (format!("{key}.{path}"), value)),
            ),
            value => leaves.push((key.clone(), value.clone())),
        }
    }
    leaves
}

/// The line of every key, for messages.
pub(super) fn lines_of(text: &str) -> BTreeMap<String, usize> {
    fn walk(text: &str, prefix: &str, table: &toml::de::DeTable<'_>, lines: &mut BTreeMap<String, usize>) {
        for (key, value) in table {
            let path = format!("{prefix}{}", key.get_ref());
            if let toml::de::DeValue::Table(inner) = value.get_ref() {
                walk(text, &format!("{path}."), inner, lines);
            }
            lines.insert(path, line_at(text, key.span().start));
        }
    }
    let mut lines = BTreeMap::new();
    if let Ok(table) = toml::de::DeTable::parse(text) {
        walk(text, "", table.get_ref(), &mut lines);
    }
    lines
}

pub(super) fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// Same type; the elements of a list are compared with the first of the default, or must be texts when that is empty.
pub(super) fn fits(default: &Value, value: &Value) -> bool {
    match (default, value) {
        (Value::Array(wanted), Value::Array(given)) => {
            let text = Value::String(String::new());
            let wanted = wanted.first().unwrap_or(&text);
            given.iter().all(|element| fits(wanted, element))
        }
        _ => default.same_type(value),
    }
}

/// A list as a variable holds it: `a,b,c`, or as TOML in brackets.
pub(super) fn list_of(text: &str) -> Option<Value> {
    if text.starts_with('[') {
        let table: Table = format!("list = {text}").parse().ok()?;
        return table.get("list").cloned();
    }
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    Some(Value::Array(parts.map(|part| Value::String(part.to_owned())).collect()))
}

pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list of the right kind",
        Value::Table(_) => "a section",
    }
}

pub(super) fn example_of(default: &Value) -> String {
    match default {
        Value::Array(list) if list.is_empty() => "a list of texts, as in [\"a\", \"b\"]".to_owned(),
        Value::String(text) if text.is_empty() => "a text, as in \"abc\"".to_owned(),
        value => format!("{}, as in {value}", kind_of(value)),
    }
}

/// How many single letters have to change (Levenshtein).
pub(super) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((j, y), window) in b.chars().enumerate().zip(row.windows(2)) {
            let [above_left, above] = window else {
                continue;
            };
            let left = next.get(j).copied().unwrap_or(usize::MAX);
            next.push((above_left + usize::from(x != y)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
