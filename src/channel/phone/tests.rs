//! The rules at their boundaries, and the whole against an oracle that tries every piece of a text.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::{Phone, e164, find, is_national, taiwan_mobile};

fn normalised(text: &str) -> Vec<String> {
    find(text).into_iter().map(|phone| phone.normalised).collect()
}

#[test]
fn numbers_are_found_as_people_type_them() {
    for (text, expected) in [
        ("0912345678", "+886912345678"),
        ("我的電話0912345678謝謝", "+886912345678"),
        ("tel:0912345678,", "+886912345678"),
        ("0912-345-678", "+886912345678"),
        ("0912.345.678", "+886912345678"),
        ("0912 345 678", "+886912345678"),
        ("0-9-1-2-3-4-5-6-7-8", "+886912345678"),
        ("0912–345–678", "+886912345678"),
        ("0912\u{a0}345\u{3000}678", "+886912345678"),
        ("０９１２－３４５－６７８", "+886912345678"),
        ("０９１２　３４５　６７８", "+886912345678"),
        ("+886912345678", "+886912345678"),
        ("＋８８６９１２３４５６７８", "+886912345678"),
        ("+886 912 345 678", "+886912345678"),
        ("+886-0912-345-678", "+886912345678"),
        ("+886 (0)912 345 678", "+886912345678"),
        ("(+886) 912-345-678", "+886912345678"),
        ("+886(0)2-2345-6789", "+886223456789"),
        ("00886912345678", "+886912345678"),
        ("002 886 912 345 678", "+886912345678"),
        ("02-2345-6789", "+886223456789"),
        ("(02)2345-6789", "+886223456789"),
        ("(02) 2345-6789", "+886223456789"),
        ("（０２）２３４５－６７８９", "+886223456789"),
        ("(0912345678)", "+886912345678"),
        ("(02 2345-6789", "+886223456789"),
        ("02-23456789#123", "+886223456789"),
        ("03-5712121", "+88635712121"),
        ("037-320-049", "+88637320049"),
        ("04-2222 3333", "+886422223333"),
        ("04-7222151", "+88647222151"),
        ("049-2222106", "+886492222106"),
        ("05-2254321", "+88652254321"),
        ("06-9274400", "+88669274400"),
        ("07-3368333", "+88673368333"),
        ("08-7320415", "+88687320415"),
        ("089-326141", "+88689326141"),
        ("082-318823", "+88682318823"),
        ("0836-22000", "+88683622000"),
        ("訂單 12345 0912345678 3 件", "+886912345678"),
        ("0912345678.", "+886912345678"),
        ("0912345678 3", "+886912345678"),
    ] {
        assert_eq!(normalised(text), [expected], "{text}");
    }
}

#[test]
fn what_is_longer_shorter_or_elsewhere_is_no_number() {
    for text in [
        "",
        "091234567",
        "09123456789",
        "10912345678",
        "20240912345678",
        "2024-0912345678",
        "2024.0912345678",
        "0912345678-1",
        "0912345678.5",
        "0912--345-678",
        "0912  345 678",
        "0912- 345678",
        "0912/345/678",
        "0912\n345678",
        "0912 3456 7890",
        "0992345678",
        "912345678",
        "886912345678",
        "+85212345678",
        "+0912345678",
        "+8860912345",
        "++886",
        "02-1234-5678",
        "02-234-5678",
        "04-1234-5678",
        "02) 2345-6789",
        "((02)) 2345-6789",
        "0800-000-123",
        "0912a345678",
        "٠٩١٢٣٤٥٦٧٨",
    ] {
        assert_eq!(find(text), [], "{text}");
    }
}

#[test]
fn raw_is_what_was_written_and_each_number_is_told_once() {
    let found = find("打 (02) 2345-6789 或０９１２－３４５－６７８, 就是 0912345678！");
    let raw: Vec<_> = found.iter().map(|phone| phone.raw.as_str()).collect();
    assert_eq!(raw, ["(02) 2345-6789", "０９１２－３４５－６７８"]);
    let many: Vec<String> = (0..200).map(|n| format!("0912000{n:03}")).collect();
    assert_eq!(find(&many.join(",")).len(), 50);
}

/// The same rules said as a person would check them: take every piece of the text, and look at it from all sides.
fn oracle(text: &str) -> Vec<Phone> {
    let chars: Vec<char> = text.chars().collect();
    let mut found: Vec<Phone> = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let mut ends = (at + 1..=chars.len().min(at + 40)).rev();
        let number = ends.find_map(|end| whole(&chars, at, end).map(|number| (end, number)));
        let Some((end, normalised)) = number else {
            at += 1;
            continue;
        };
        if found.iter().all(|phone| phone.normalised != normalised) {
            let raw = chars[at..end].iter().collect();
            found.push(Phone { raw, normalised });
        }
        at = end;
    }
    found
}

fn whole(chars: &[char], from: usize, to: usize) -> Option<String> {
    let is_digit = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(char::is_ascii_digit);
    let joint = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(|c| ".-".contains(*c));
    let (before, behind) = (from.checked_sub(1), Some(to));
    if is_digit(before) || is_digit(behind) {
        return None;
    }
    if joint(before) && is_digit(before.and_then(|at| at.checked_sub(1))) || joint(behind) && is_digit(Some(to + 1)) {
        return None;
    }
    let piece: String = chars[from..to].iter().collect();
    if before.is_some_and(|at| chars[at] == '+') && !piece.starts_with('+') {
        return None;
    }
    // From a digit, plus or bracket to a digit, separators alone.
    if !piece.starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '(') || !is_digit(to.checked_sub(1)) {
        return None;
    }
    let separators = piece.replace(['.', ' '], "-");
    if separators.contains("--") || separators.contains("+-") || separators.starts_with("(-") {
        return None;
    }
    // One pair of brackets around digits, anywhere; a separator outside of it on either side, none inside at its edges.
    let flat = match (piece.matches('(').count(), piece.matches(')').count()) {
        (0, 0) => separators,
        (1, 1) => {
            let (head, rest) = separators.split_once('(')?;
            let (inside, tail) = rest.split_once(')')?;
            if inside.is_empty() || inside.starts_with('-') || inside.ends_with('-') || tail.is_empty() {
                return None;
            }
            format!("{head}{inside}{tail}")
        }
        _ => return None,
    };
    let digits: String = flat.chars().filter(|c| *c != '-').collect();
    let rest = if let Some(rest) = digits.strip_prefix('+') {
        rest.strip_prefix("886")
            .map(|rest| rest.strip_prefix('0').unwrap_or(rest))?
    } else if let Some(rest) = digits.strip_prefix("00886").or_else(|| digits.strip_prefix("002886")) {
        rest.strip_prefix('0').unwrap_or(rest)
    } else {
        digits.strip_prefix('0')?
    };
    let sound = rest.bytes().all(|b| b.is_ascii_digit()) && is_national(rest);
    sound.then(|| format!("+886{rest}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_number_of_any_make_is_found_between_other_words(
        national in "9[0-8][0-9]{7}|2[2-8][0-9]{7}|3[2-9][0-9]{6}|7[1-9][0-9]{6}|836[0-9]{5}",
        prefix in prop::sample::select(vec!["0", "+886", "+8860", "00886", "002886"]),
        separators in prop::collection::vec(prop::sample::select(vec!["", "", "", "-", ".", " ", "\u{3000}"]), 20),
        before in prop::sample::select(vec!["", "電話", "tel: ", "(", "1 ", "，", "a-"]),
        behind in prop::sample::select(vec!["", "。", " 謝謝", ")", ".", "- ", " 2", "#12"]),
    ) {
        let written: Vec<char> = format!("{prefix}{national}").chars().collect();
        let mut raw = String::new();
        for (index, c) in written.iter().enumerate() {
            if index > 0 && written[index - 1] != '+' {
                raw.push_str(separators[index]);
            }
            raw.push(*c);
        }
        let normalised = format!("+886{national}");
        prop_assert_eq!(find(&format!("{before}{raw}{behind}")), [Phone { raw, normalised }]);
    }

    #[test]
    fn every_text_of_digits_and_separators_is_read_as_the_oracle_reads_it(text in "[0-9 .()+a-]{0,40}") {
        prop_assert_eq!(find(&text), oracle(&text));
    }

    #[test]
    fn near_numbers_are_read_as_the_oracle_reads_them(
        parts in prop::collection::vec((
            prop::sample::select(vec![
                "0912345678", "0912-345-678", "09 12.345.678", "(02)23456789", "(02) 2345-6789", "+886912345678", "+886 (0)2 2345 6789",
                "00886912345678", "089-326141", "0", "09", "345", "678", "(0)", "+886", "7",
            ]),
            prop::sample::select(vec!["", "", " ", "-", ".", "--", ". ", "x", "(", ")", "+", "5"]),
        ), 0..5)
    ) {
        let text: String = parts.iter().flat_map(|(part, between)| [*part, *between]).collect();
        prop_assert_eq!(find(&text), oracle(&text), "{}", text);
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
        for phone in find(&text) {
            prop_assert!(text.contains(&phone.raw));
        }
    }
}

#[test]
fn a_number_is_stored_in_one_form_however_it_was_typed() {
    for text in [
        "0912345678",
        " 0912-345-678 ",
        "(0912) 345 678",
        "０９１２　３４５　６７８",
        "+886912345678",
        "+886 (0)912 345 678",
        "886912345678",
        "00886912345678",
        "002 886 912 345 678",
    ] {
        assert_eq!(e164(text).as_deref(), Some("+886912345678"), "{text}");
    }
    assert_eq!(e164("02-2345-6789").as_deref(), Some("+886223456789"));
    assert_eq!(e164("+85212345678").as_deref(), Some("+85212345678"));
    for text in [
        "",
        "912345678",
        "0912a345678",
        "+0912345678",
        "++886912345678",
        "1234567890123456",
        "+1234567",
        "0912",
    ] {
        assert_eq!(e164(text), None, "{text}");
    }
}

#[test]
fn only_a_mobile_number_of_taiwan_goes_to_a_gateway_of_taiwan() {
    assert_eq!(taiwan_mobile("+886912345678").as_deref(), Some("0912345678"));
    for number in [
        "+886223456789",
        "+85212345678",
        "0912345678",
        "+88691234567",
        "+8869123456789",
    ] {
        assert_eq!(taiwan_mobile(number), None, "{number}");
    }
}

proptest! {
    #[test]
    fn what_is_stored_stays_as_it_is(text in "\\PC{0,24}") {
        if let Some(number) = e164(&text) {
            prop_assert_eq!(e164(&number), Some(number.clone()));
            prop_assert!(number.len() <= 16);
        }
    }
}
