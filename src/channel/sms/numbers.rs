//! Phone numbers in a text message, however they are written (pure).
//!
//! Why it exists: who wants a number past the carrier writes it so that a person still reads it: with slashes, two blanks, a dot in
//! full width, an extension. What `phone::find` offers for a profile must be certain; what a person looks at before a message leaves
//! may be too much and must not be too little. So between two digits any few signs may stand here, and a number may begin and
//! end wherever a group of digits does.
//!
//! It must never take time that grows faster than the text. It does not report what cannot be a number of Taiwan: amounts in
//! thousands, dates, and digits whose groups do not end where a number ends.

use crate::channel::phone::{self, is_national};

/// The most signs between two digits of a number, as in `) - `.
const MOST_SIGNS: usize = 4;
/// Digits of the longest form, `002886` before a trunk zero and nine others.
const MOST_DIGITS: usize = 16;

/// The numbers of a folded text, each once: as addresses are stored, or the digits of a service number.
pub(super) fn find(text: &str) -> Vec<String> {
    let mut found: Vec<String> = phone::find(text).into_iter().map(|phone| phone.normalised).collect();
    let groups = groups(text);
    let scattered = (0..groups.len()).flat_map(|at| scattered(&groups, at));
    for number in service_numbers(text).into_iter().chain(scattered) {
        if !found.contains(&number) {
            found.push(number);
        }
    }
    found
}

/// Digits that stand side by side, and the signs before them.
struct Group<'a> {
    digits: &'a str,
    /// None: what stands before is not what stands inside a number.
    signs: Option<&'a str>,
    /// Part of a date or an amount.
    taken: bool,
}

fn groups(text: &str) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (signs, digits) = rest.split_at(start);
        let length = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let joined = !groups.is_empty() && signs.chars().count() <= MOST_SIGNS && signs.chars().all(is_sign);
        groups.push(Group {
            digits: digits.get(..length).unwrap_or_default(),
            signs: joined.then_some(signs),
            taken: false,
        });
        rest = digits.get(length..).unwrap_or_default();
    }
    take_dates_and_amounts(&mut groups);
    groups
}

/// What people put between the digits of a number, on one line.
const fn is_sign(c: char) -> bool {
    matches!(
        c,
        ' ' | '\t' | '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    ) || matches!(
        c,
        '-' | '.' | '/' | '(' | ')' | '[' | ']' | '_' | '*' | ',' | '\\' | '|'
    ) || matches!(c, '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{2215}' | '\u{2044}')
        || matches!(c, '\u{b7}' | '\u{2022}' | '\u{2027}' | '\u{30fb}')
}

/// Marks dates and amounts, where they cannot be the middle of a number: at the beginning, or behind another one.
fn take_dates_and_amounts(groups: &mut [Group<'_>]) {
    let mut at = 0;
    let mut may_begin = true;
    while let Some(group) = groups.get(at) {
        may_begin |= group.signs.is_none();
        let length = if may_begin {
            date(groups, at).or_else(|| amount(groups, at))
        } else {
            None
        };
        // One day alone looks like the beginning of a number; behind another date it is one, and before another one.
        let behind = at.checked_sub(1).and_then(|before| groups.get(before));
        let behind = group.signs.is_some() && behind.is_some_and(|before| before.taken);
        let length = length.or_else(|| {
            let next = day(groups, at).and_then(|length| {
                let next = date(groups, at + length).or_else(|| day(groups, at + length));
                next.filter(|_| groups.get(at + length).is_some_and(|group| group.signs.is_some()))
            });
            (may_begin && (behind || next.is_some()))
                .then(|| day(groups, at))
                .flatten()
        });
        may_begin = length.is_some();
        let length = length.unwrap_or(0);
        for taken in groups.iter_mut().skip(at).take(length) {
            taken.taken = true;
        }
        at += length.max(1);
    }
}

/// `2026/11/22`, with the same sign twice: three groups.
fn date(groups: &[Group<'_>], at: usize) -> Option<usize> {
    let [year, month, day] = groups.get(at..at + 3)? else {
        return None;
    };
    let sign = month.signs.filter(|sign| matches!(*sign, "/" | "-" | "."))?;
    let is_year = year.digits.len() == 4 && (year.digits.starts_with("19") || year.digits.starts_with("20"));
    (is_year && day.signs == Some(sign) && is_day(month.digits, day.digits)).then_some(3)
}

/// `11/22`, and no third part: two groups.
fn day(groups: &[Group<'_>], at: usize) -> Option<usize> {
    let [month, day] = groups.get(at..at + 2)? else {
        return None;
    };
    let parted = |at: Option<usize>| at.and_then(|at| groups.get(at)).and_then(|group| group.signs) != Some("/");
    let alone = parted(Some(at)) && parted(Some(at + 2));
    (alone && day.signs == Some("/") && is_day(month.digits, day.digits)).then_some(2)
}

fn is_day(month: &str, day: &str) -> bool {
    let within =
        |digits: &str, most: u8| digits.len() <= 2 && digits.parse().is_ok_and(|n: u8| (1..=most).contains(&n));
    within(month, 12) && within(day, 31)
}

/// `1,234,567`: as many groups as commas join, where they are no number with its country in front.
fn amount(groups: &[Group<'_>], at: usize) -> Option<usize> {
    let first = groups.get(at)?.digits;
    let behind = groups.get(at + 1..)?;
    let commas = behind.iter().take_while(|group| group.signs == Some(",")).count();
    let whole = behind.iter().take(commas).all(|group| group.digits.len() == 3);
    let digits: String = groups.get(at..=at + commas)?.iter().map(|group| group.digits).collect();
    let with_country = first == "886" && taiwan(&digits).is_some();
    let is_amount = whole && first.len() <= 3 && !first.starts_with('0') && !with_country;
    (commas > 0 && is_amount).then_some(commas + 1)
}

/// The numbers that begin with this group and end with one.
fn scattered(groups: &[Group<'_>], at: usize) -> Vec<String> {
    let mut digits = String::new();
    let mut found = Vec::new();
    for (n, group) in groups.iter().skip(at).enumerate() {
        let goes_on = n == 0 || group.signs.is_some();
        if !goes_on || group.taken || digits.len() + group.digits.len() > MOST_DIGITS {
            break;
        }
        digits.push_str(group.digits);
        found.extend(taiwan(&digits).or_else(|| service_number(&digits)));
    }
    found
}

/// A number of Taiwan that these digits are, with the country before it or the trunk zero.
fn taiwan(digits: &str) -> Option<String> {
    let country = ["002886", "00886", "886"]
        .iter()
        .find_map(|country| digits.strip_prefix(country));
    let national = match country {
        Some(rest) => rest.strip_prefix('0').unwrap_or(rest),
        None => digits.strip_prefix('0')?,
    };
    is_national(national).then(|| format!("+886{national}"))
}

/// Toll-free, premium and internet numbers, which are no subscriber's, and numbers abroad, as they are usually written.
fn service_numbers(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut run = String::new();
    let mut joint = false;
    for c in text.chars().chain(std::iter::once('\n')) {
        match c {
            '0'..='9' => {
                run.push(c);
                joint = false;
            }
            '+' => {
                found.extend(service_number(&run));
                run.clear();
                run.push('+');
            }
            ' ' | '-' | '\u{a0}' | '\u{2010}'..='\u{2015}' | '(' | ')' if !run.is_empty() && !joint => joint = true,
            _ => {
                found.extend(service_number(&run));
                run.clear();
                joint = false;
            }
        }
    }
    found
}

fn service_number(digits: &str) -> Option<String> {
    let abroad = digits
        .strip_prefix('+')
        .is_some_and(|digits| digits.len() >= 8 && !digits.starts_with("886"));
    let service = match digits.len() {
        10 => ["0800", "0809", "020"].iter().any(|prefix| digits.starts_with(prefix)),
        11 => ["070", "050"].iter().any(|prefix| digits.starts_with(prefix)),
        _ => false,
    };
    (abroad || service).then(|| digits.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Contacts;

    fn numbers(text: &str) -> Vec<String> {
        Contacts::find(text).phones
    }

    #[test]
    fn a_number_is_found_however_it_is_written() {
        for (text, number) in [
            ("02-2345-6789 分機 123", "+886223456789"),
            ("02-2345-6789轉123", "+886223456789"),
            ("02-2345-6789#123", "+886223456789"),
            ("02-2345-6789-123", "+886223456789"),
            ("02-2345-6789 ext.12", "+886223456789"),
            ("0912/345/678", "+886912345678"),
            ("０９１２／３４５／６７８", "+886912345678"),
            ("0912  345  678", "+886912345678"),
            ("０９１２　　３４５．６７８", "+886912345678"),
            ("0912。345。678", "+886912345678"),
            ("0912｡345｡678", "+886912345678"),
            ("0912--345--678", "+886912345678"),
            ("0912, 345, 678", "+886912345678"),
            ("0912,345,678", "+886912345678"),
            ("0912・345・678", "+886912345678"),
            ("0912_345_678", "+886912345678"),
            ("0 9 1 2 3 4 5 6 7 8", "+886912345678"),
            ("0912) - 345678", "+886912345678"),
            ("[02] 2345 / 6789", "+886223456789"),
            ("886912345678", "+886912345678"),
            ("886-2-2345-6789", "+886223456789"),
            ("+886,912,345,678", "+886912345678"),
            ("886,223,456,789", "+886223456789"),
            ("+886 / 912 / 345 / 678", "+886912345678"),
            ("00886  912  345678", "+886912345678"),
            ("0912\u{200b}345\u{ad}678", "+886912345678"),
            ("2026/11/22 0912-345-678", "+886912345678"),
            ("11/22 起 0912/345/678", "+886912345678"),
            ("滿1,000打0912,345,678", "+886912345678"),
            ("2024-0912345678", "+886912345678"),
            ("0912345678-1", "+886912345678"),
            ("0800/123/456", "0800123456"),
            ("0800  123  456", "0800123456"),
            ("070.1234.5678", "07012345678"),
        ] {
            assert_eq!(numbers(text), [number], "{text}");
        }
        assert_eq!(
            numbers("02-2345-6789 / 0912-345-678"),
            ["+886223456789", "+886912345678"]
        );
    }

    #[test]
    fn what_cannot_be_a_number_is_none() {
        for text in [
            "NT$1,234,567",
            "NT$1,037,320,049 元",
            "NT$ 12,091,234,567",
            "$990 / $1,090",
            "2026/11/22",
            "2026-09-12",
            "2026.09.12 - 2026.10.15",
            "2026/09/12-2026/10/15 10:00",
            "09/12-10/15 10:00",
            "09/12、09/13、09/14、09/15",
            "09/12, 09/13, 09/14, 09/15 10:00",
            "02/28 12:00-22:00",
            "11/11 08:00",
            "訂單 20261122-0007",
            "訂單 2026112200912345678",
            "訂單 0912-3456-7890",
            "訂單 09123456789",
            "091234567",
            "統編 04595257",
            "滿 1,000 折 100",
            "0912\n345\n678 件",
            "0 元",
            "08:00",
            "第 0912 期",
            "0912 件 345 件 678 件",
            "00:00:00",
            "1234567890",
        ] {
            assert_eq!(numbers(text), [] as [&str; 0], "{text}");
        }
    }

    /// Signs in the form of one kind, or of several: no day of a month comes of those.
    const SIGNS: [&str; 14] = [
        "", "", " ", "  ", "-", "--", ".", "．", "。", " - ", "(", ") ", "・", "_",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Whichever number it is, and whatever stands between its digits.
        #[test]
        fn any_number_is_found_with_any_signs_between_its_digits(
            national in "9[0-8][0-9]{7}|2[2-8][0-9]{7}|4[239][0-9]{7}|3[2-9][0-9]{6}|7[1-9][0-9]{6}|836[0-9]{5}",
            prefix in prop::sample::select(vec!["0", "+886", "+8860", "886", "00886", "002886"]),
            signs in prop::collection::vec(prop::sample::select(SIGNS.to_vec()), 20),
            before in prop::sample::select(vec!["", "電話", "tel: ", "1,000 元 ", "2026/11/22 ", "，", "a-", "x/"]),
            behind in prop::sample::select(vec!["", "。謝謝", " 分機 12", "#12", ")", "/", " - 轉 3", ", 謝謝", "-12"]),
        ) {
            let mut text = before.to_owned();
            for (n, c) in prefix.chars().chain(national.chars()).enumerate() {
                if n > 0 && !text.ends_with('+') {
                    text.push_str(signs.get(n).copied().unwrap_or_default());
                }
                text.push(c);
            }
            text.push_str(behind);
            prop_assert!(numbers(&text).contains(&format!("+886{national}")), "{} {:?}", text, numbers(&text));
        }

        /// Groups of any length with one sign throughout, slashes and commas too.
        #[test]
        fn any_number_is_found_in_groups_of_any_length(
            national in "9[0-8][0-9]{7}|2[2-8][0-9]{7}|3[2-9][0-9]{6}",
            cuts in prop::collection::vec(any::<bool>(), 10),
            sign in prop::sample::select(vec!["/", " / ", ",", ", ", "\\", "|", "*", "／", "，"]),
        ) {
            let mut text = String::from("0");
            for (c, cut) in national.chars().zip(cuts) {
                if cut {
                    text.push_str(sign);
                }
                text.push(c);
            }
            prop_assert!(numbers(&text).contains(&format!("+886{national}")), "{} {:?}", text, numbers(&text));
        }

        #[test]
        fn amounts_and_dates_are_none(
            amount in 1_000_u64..100_000_000_000, (y, m, d) in (1900_u32..2100, 1_u32..13, 1_u32..32),
            sign in prop::sample::select(vec!["/", "-", "."]),
        ) {
            let mut thousands = String::new();
            let digits = amount.to_string();
            for (n, c) in digits.chars().enumerate() {
                if n > 0 && (digits.len() - n) % 3 == 0 {
                    thousands.push(',');
                }
                thousands.push(c);
            }
            for text in [format!("NT${thousands}元"), format!("{y}{sign}{m:02}{sign}{d:02}"), format!("自{y}{sign}{m}{sign}{d} {thousands}")] {
                prop_assert_eq!(numbers(&text), [] as [&str; 0], "{}", text);
            }
        }
    }
}
