//! Phone numbers (pure): Taiwan's in a text, and a customer's own in the one form in which it is stored.
//!
//! Why it exists: a conversation that holds a number is marked, and the number is offered where a profile is filled in; a text message
//! that holds one needs a look before it leaves; and one number typed in two ways must not get a message twice.
//!
//! It finds mobile and landline numbers as people type them: `0912345678`, `0912-345-678`, `(02) 2345.6789`, `+886 (0)912 345 678`,
//! `00886…`, `002 886…`, in full width too. Between two digits stands at most one space, dot or hyphen, and the area code may stand in
//! brackets. A number ends where its digits end: what has a digit, or a dot or hyphen and a digit, right before or behind it is part
//! of something longer, an order number for example, and is none.
//!
//! It must never look at anything but the text, and never take time that grows faster than the text.

/// A phone number in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phone {
    /// As it was written, from its first digit, plus sign or bracket to its last digit.
    pub raw: String,
    /// `+886` and the national number: `+886912345678`.
    pub normalised: String,
}

/// The most numbers that are taken from one text.
const LIMIT: usize = 50;
/// Digits of the longest form, `002886` before a trunk zero and nine others.
const MOST_DIGITS: usize = 16;

/// The numbers in a text in the order they stand there, each once.
#[must_use]
pub fn find(text: &str) -> Vec<Phone> {
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let mut found: Vec<Phone> = Vec::new();
    let mut at = 0;
    while at < chars.len() && found.len() < LIMIT {
        let Some((end, normalised)) = number_at(&chars, at) else {
            at += 1;
            continue;
        };
        let from = chars.get(at).map_or(text.len(), |(offset, _)| *offset);
        let to = chars.get(end).map_or(text.len(), |(offset, _)| *offset);
        if found.iter().all(|phone| phone.normalised != normalised) {
            let raw = text.get(from..to).unwrap_or_default().to_owned();
            found.push(Phone { raw, normalised });
        }
        at = end;
    }
    found
}

/// A customer's number as it is stored and as most providers want it: a plus sign, the country and the number, as in `+886912345678`.
/// `None` for what is no number. The same rule as `normal_phone` in SQL.
#[must_use]
pub fn e164(text: &str) -> Option<String> {
    let mut digits = String::new();
    let mut plus = false;
    for (at, c) in text.trim().chars().enumerate() {
        match kind(c) {
            Kind::Digit(digit) => digits.push(digit),
            Kind::Plus if at == 0 => plus = true,
            Kind::Space | Kind::Joint | Kind::Open | Kind::Close => {}
            Kind::Plus | Kind::Other => return None,
        }
    }
    let taiwan = |national: &str| {
        let national = national.strip_prefix('0').unwrap_or(national);
        ((8..=9).contains(&national.len()) && !national.starts_with('0')).then(|| format!("+886{national}"))
    };
    let abroad =
        |digits: &str| ((8..=15).contains(&digits.len()) && !digits.starts_with('0')).then(|| format!("+{digits}"));
    if let Some(national) = digits.strip_prefix("002886").or_else(|| digits.strip_prefix("00886")) {
        return (!plus).then(|| taiwan(national)).flatten();
    }
    let (country, trunk) = (digits.strip_prefix("886"), digits.strip_prefix('0'));
    match (plus, country.or(trunk.filter(|_| !plus))) {
        (_, Some(national)) => taiwan(national),
        (true, None) => abroad(&digits),
        (false, None) => None,
    }
}

/// `+886912345678` as a Taiwanese gateway wants it: `0912345678`. `None` for what is no mobile number of Taiwan.
#[must_use]
pub fn taiwan_mobile(e164: &str) -> Option<String> {
    let national = e164.strip_prefix("+886")?;
    let digits = national.bytes().all(|b| b.is_ascii_digit());
    (digits && national.starts_with('9') && is_national(national)).then(|| format!("0{national}"))
}

/// What a character is in a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Digit(char),
    Space,
    /// A dot or a hyphen: it binds more than a space does.
    Joint,
    Plus,
    Open,
    Close,
    Other,
}

fn kind(c: char) -> Kind {
    match c {
        '0'..='9' => Kind::Digit(c),
        '０'..='９' => {
            let digit = u32::from(c)
                .checked_sub(u32::from('０'))
                .and_then(|n| char::from_digit(n, 10));
            digit.map_or(Kind::Other, Kind::Digit)
        }
        // No-break and ideographic spaces; phones and input methods put them in.
        ' ' | '\u{a0}' | '\u{202f}' | '\u{3000}' => Kind::Space,
        '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{ff0d}' | '.' | '\u{ff0e}' => Kind::Joint,
        '+' | '＋' => Kind::Plus,
        '(' | '（' => Kind::Open,
        ')' | '）' => Kind::Close,
        _ => Kind::Other,
    }
}

fn kind_at(chars: &[(usize, char)], at: Option<usize>) -> Kind {
    at.and_then(|at| chars.get(at)).map_or(Kind::Other, |(_, c)| kind(*c))
}

/// The number that begins exactly here: the position behind it, and itself.
fn number_at(chars: &[(usize, char)], start: usize) -> Option<(usize, String)> {
    let first = kind_at(chars, Some(start));
    if !matches!(first, Kind::Digit('0') | Kind::Plus | Kind::Open) || !begins(chars, start, first) {
        return None;
    }
    let digits = digits_from(chars, start);
    let plain: String = digits.iter().map(|(digit, _)| *digit).collect();
    let plus = first == Kind::Plus || kind_at(chars, Some(start + 1)) == Kind::Plus;
    let international = if plus {
        Some(plain.strip_prefix("886")?)
    } else {
        plain.strip_prefix("00886").or_else(|| plain.strip_prefix("002886"))
    };
    let national = match international {
        // Many write the trunk zero even so.
        Some(rest) => rest.strip_prefix('0').unwrap_or(rest),
        None => plain.strip_prefix('0')?,
    };
    let before = plain.len() - national.len();
    [9, 8].into_iter().find_map(|length| {
        let national = national.get(..length)?;
        let (_, end) = digits.get(before + length - 1)?;
        let end = (*end)?;
        (is_national(national) && ends(chars, end)).then(|| (end, format!("+886{national}")))
    })
}

/// The digits from here on with at most one space, dot or hyphen between them, each with the position behind it. A number cannot
/// end at a digit inside a bracket.
fn digits_from(chars: &[(usize, char)], start: usize) -> Vec<(char, Option<usize>)> {
    let mut digits: Vec<(char, Option<usize>)> = Vec::new();
    let (mut at, mut open, mut brackets) = (start, false, 0);
    if kind_at(chars, Some(at)) == Kind::Open && kind_at(chars, Some(at + 1)) == Kind::Plus {
        (at, open, brackets) = (at + 2, true, 1);
    } else if kind_at(chars, Some(at)) == Kind::Plus {
        at += 1;
    }
    loop {
        // Between two digits: one space or joint, and with it one bracket, at its outer side.
        let separator = |at| matches!(kind_at(chars, Some(at)), Kind::Space | Kind::Joint);
        let mut next = at;
        if open && kind_at(chars, Some(next)) == Kind::Close && !digits.is_empty() {
            open = false;
            next += 1;
        }
        if separator(next) && !digits.is_empty() {
            next += 1;
        }
        if !open && brackets == 0 && kind_at(chars, Some(next)) == Kind::Open {
            open = true;
            brackets += 1;
            next += 1;
        }
        let Kind::Digit(digit) = kind_at(chars, Some(next)) else {
            return digits;
        };
        at = next + 1;
        digits.push((digit, (!open).then_some(at)));
        if digits.len() == MOST_DIGITS {
            return digits;
        }
    }
}

/// Nothing before it that makes it the end of something longer.
fn begins(chars: &[(usize, char)], start: usize, first: Kind) -> bool {
    let before = start.checked_sub(1);
    match kind_at(chars, before) {
        Kind::Digit(_) => false,
        Kind::Plus => first == Kind::Plus,
        Kind::Joint => !matches!(kind_at(chars, before.and_then(|at| at.checked_sub(1))), Kind::Digit(_)),
        Kind::Space | Kind::Open | Kind::Close | Kind::Other => true,
    }
}

/// Nothing behind it that makes it the beginning of something longer.
fn ends(chars: &[(usize, char)], end: usize) -> bool {
    match kind_at(chars, Some(end)) {
        Kind::Digit(_) => false,
        Kind::Joint => !matches!(kind_at(chars, Some(end + 1)), Kind::Digit(_)),
        Kind::Space | Kind::Plus | Kind::Open | Kind::Close | Kind::Other => true,
    }
}

/// Taiwan's numbering plan: mobile, and the areas with the first digits of their subscribers.
pub(in crate::channel) fn is_national(number: &str) -> bool {
    match number.as_bytes() {
        [b'9', b'0'..=b'8', ..] | [b'2', b'2'..=b'8', ..] | [b'4', b'2' | b'3' | b'9', ..] => number.len() == 9,
        [b'3' | b'6', b'2'..=b'9', ..]
        | [b'4', b'7' | b'8', ..]
        | [b'5', b'2'..=b'8', ..]
        | [b'7', b'1'..=b'9', ..]
        | [b'8', b'2' | b'7'..=b'9', ..]
        | [b'8', b'3', b'6', ..] => number.len() == 8,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
