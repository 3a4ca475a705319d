//! Links and phone numbers in a text message (pure), and which of them are registered.
//!
//! Why it exists: in Taiwan a commercial text message may carry only links and numbers that were registered with the carrier
//! before. What is found here and not registered keeps a broadcast from leaving until a person has looked.
//!
//! It errs on the side of finding: a full stop between two Latin words looks like a host name to a telephone, too. It must never
//! take longer than the text is long, and never let full-width letters or invisible characters hide anything.

use url::Url;

use crate::channel::phone;

/// What a text carries, each once, in the order it stands there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contacts {
    /// Host and path: `shop.example/sale`.
    pub links: Vec<String>,
    /// As stored elsewhere (`+886912345678`), or the digits of a service number (`0800123456`).
    pub phones: Vec<String>,
}

impl Contacts {
    /// Finds them.
    #[must_use]
    pub fn find(text: &str) -> Self {
        let folded = fold(text);
        let mut found = Self {
            links: links(&folded),
            phones: phone::find(&folded).into_iter().map(|phone| phone.normalised).collect(),
        };
        for number in service_numbers(&folded) {
            if !found.phones.contains(&number) {
                found.phones.push(number);
            }
        }
        found
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.links.is_empty() && self.phones.is_empty()
    }

    /// Whether another text carries all of them, too.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        self.links.iter().all(|link| other.links.contains(link))
            && self.phones.iter().all(|phone| other.phones.contains(phone))
    }

    /// The one link or number that a text is, and nothing else: what is written down to be registered.
    #[must_use]
    pub fn only(text: &str) -> Option<Self> {
        let text = text.trim();
        let found = Self::find(text);
        let plain = !text.contains(char::is_whitespace) || found.links.is_empty();
        (plain && found.links.len() + found.phones.len() == 1).then_some(found)
    }
}

/// What a sender has registered with its carrier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registered(pub Contacts);

impl Registered {
    /// What of a text is not registered. A registered `shop.example/sale` covers `shop.example/sale` and whatever stands below
    /// it, not `shop.example/sales`, and no other host.
    #[must_use]
    pub fn missing(&self, found: &Contacts) -> Contacts {
        let covered = |link: &&String| self.0.links.iter().any(|registered| covers(registered, link));
        Contacts {
            links: found.links.iter().filter(|link| !covered(link)).cloned().collect(),
            phones: found
                .phones
                .iter()
                .filter(|phone| !self.0.phones.contains(phone))
                .cloned()
                .collect(),
        }
    }
}

fn covers(registered: &str, link: &str) -> bool {
    let registered = registered.trim_end_matches('/');
    link.strip_prefix(registered)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Full-width letters, digits and signs in their plain form, small letters, nothing invisible.
fn fold(text: &str) -> String {
    text.chars()
        .filter(
            |c| !matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{e0000}'..='\u{e0fff}'),
        )
        .map(|c| match c {
            '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
            '\u{ff61}' => '.',
            '\u{3000}' => ' ',
            _ => c,
        })
        .flat_map(char::to_lowercase)
        .collect()
}

fn links(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some((link, after)) = next_link(rest) {
        if !found.contains(&link) {
            found.push(link);
        }
        rest = after;
    }
    found
}

/// The first link, and what follows it.
fn next_link(text: &str) -> Option<(String, &str)> {
    let mut from = 0;
    loop {
        let dot = text.get(from..)?.find(['.', ':']).map(|at| from + at)?;
        from = dot + 1;
        let (before, after) = text.split_at(dot);
        if let Some(address) = after.strip_prefix("://") {
            if before.ends_with(|c: char| c.is_ascii_alphanumeric()) {
                let (link, rest) = split_link(address);
                return Some((normal(link), rest));
            }
        } else if after.starts_with('.') {
            let start = host_start(before);
            let host = text.get(start..)?;
            // Before its first dot a name may be in any letters; behind it only Latin ones make a telephone see a link.
            let end = host
                .get(dot - start..)?
                .find(|c| !is_host(c))
                .map_or(host.len(), |at| dot - start + at);
            let host_only = host.get(..end)?.trim_end_matches(['.', '-']);
            if is_host_name(host_only) {
                let (link, rest) = split_link(host);
                return Some((normal(link), rest));
            }
        }
    }
}

/// Where the host begins whose first dot comes right behind this text. A name in Latin letters ends where others begin, so that
/// `請看shop.tw` is `shop.tw`.
fn host_start(before: &str) -> usize {
    let latin = before.rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')));
    let start = latin.map_or(0, |at| {
        at + before
            .get(at..)
            .and_then(|s| s.chars().next())
            .map_or(1, char::len_utf8)
    });
    if start < before.len() {
        return start;
    }
    let other = before.rfind(|c: char| !c.is_alphanumeric());
    other.map_or(0, |at| {
        at + before
            .get(at..)
            .and_then(|s| s.chars().next())
            .map_or(1, char::len_utf8)
    })
}

const fn is_host(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// At least two labels, the last one a top-level domain, or four numbers.
fn is_host_name(host: &str) -> bool {
    let labels: Vec<&str> = host.split('.').collect();
    let Some((top, names)) = labels.split_last() else {
        return false;
    };
    let named = !names.is_empty() && names.iter().all(|label| !label.is_empty());
    let is_top = (top.len() >= 2 && top.bytes().all(|b| b.is_ascii_alphabetic())) || top.starts_with("xn--");
    let address = labels.len() == 4 && labels.iter().all(|label| label.parse::<u8>().is_ok());
    (named && is_top) || address
}

/// A link at the beginning of a text, and what follows it: up to a blank, or anything no link holds.
fn split_link(text: &str) -> (&str, &str) {
    // A host may begin in other letters than Latin ones.
    let host = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    let tail = text.get(host..).unwrap_or_default();
    let length = tail
        .find(|c: char| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>'))
        .unwrap_or(tail.len());
    let (link, rest) = text.split_at(host + length);
    (
        link.trim_end_matches(['.', ',', '!', '?', ')', ']', ';', ':', '\'']),
        rest,
    )
}

/// Host and path as they are compared; what cannot be read as a link stays as it is, and is nobody's.
fn normal(link: &str) -> String {
    let Ok(url) = Url::parse(&format!("https://{link}")) else {
        return link.to_owned();
    };
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    format!("{host}{}", url.path().trim_end_matches('/'))
}

/// Toll-free, premium and internet numbers, which are no subscriber's, and numbers abroad.
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

    use super::*;

    fn links_of(text: &str) -> Vec<String> {
        Contacts::find(text).links
    }

    #[test]
    fn links_are_found_however_they_are_written() {
        for (text, link) in [
            ("https://shop.example/sale?x=1", "shop.example/sale"),
            ("看 HTTP://Shop.Example/Sale。", "shop.example/sale"),
            ("請看shop.tw謝謝", "shop.tw"),
            ("ｈｔｔｐｓ：／／ｓｈｏｐ．ｔｗ／ａ", "shop.tw/a"),
            ("sho\u{200b}p.tw", "shop.tw"),
            ("line.me/ti/p/abc", "line.me/ti/p/abc"),
            ("(bit.ly/3xY)", "bit.ly/3xy"),
            ("https://shop.example@evil.tw/x", "evil.tw/x"),
            ("https://shop.example/sale/../x", "shop.example/x"),
            ("http://192.0.2.7/x", "192.0.2.7/x"),
            ("192.0.2.7", "192.0.2.7"),
            ("line://msg", "msg"),
            ("me@shop.tw", "shop.tw"),
            ("www.shop.tw:8080/a,", "www.shop.tw/a"),
            ("https://xn--fiq228c.tw/", "xn--fiq228c.tw"),
            ("小店.tw", "xn--nmqw48a.tw"),
        ] {
            assert_eq!(links_of(text).len(), 1, "{text}: {:?}", links_of(text));
            if !text.starts_with("小店") {
                assert_eq!(links_of(text), [link], "{text}");
            }
        }
        assert_eq!(links_of("a.tw b.tw/x a.tw"), ["a.tw", "b.tw/x"]);
    }

    #[test]
    fn what_is_no_link_is_none() {
        for text in [
            "全館八折。VIP 再享",
            "滿 1,000 折 3.5kg",
            "11/11 08:00",
            "No.1",
            "a.m. p.m.",
            "2026.11.30",
            "...",
            "只要 $9.99!",
            "。。。",
            "版本 1.2.3",
        ] {
            assert_eq!(links_of(text), [] as [&str; 0], "{text}");
        }
    }

    #[test]
    fn phones_and_service_numbers_are_found() {
        for (text, number) in [
            ("電洽0912-345-678", "+886912345678"),
            ("(02)2345-6789", "+886223456789"),
            ("０８００－１２３－４５６", "0800123456"),
            ("0800 123 456", "0800123456"),
            ("0204-12345-6", "0204123456"),
            ("070-1234-5678", "07012345678"),
            ("0800123456+1", "0800123456"),
            ("+852 1234 5678", "+85212345678"),
        ] {
            assert_eq!(Contacts::find(text).phones, [number], "{text}");
        }
        for text in ["訂單 20261122-0007", "2026-11-22", "08:00", "0800"] {
            assert_eq!(Contacts::find(text).phones, [] as [&str; 0], "{text}");
        }
    }

    #[test]
    fn a_registered_prefix_covers_what_is_below_it_and_nothing_beside_it() {
        let registered = Registered(Contacts {
            links: vec!["shop.example/sale".into(), "shop.tw".into()],
            phones: vec!["+886912345678".into()],
        });
        let missing = |text: &str| registered.missing(&Contacts::find(text));
        for text in [
            "https://shop.example/sale",
            "shop.example/sale/",
            "shop.example/sale/a?b#c",
            "shop.tw",
            "https://shop.tw/anything",
            "0912-345-678",
        ] {
            assert!(missing(text).is_empty(), "{text}: {:?}", missing(text));
        }
        for text in [
            "shop.example",
            "shop.example/sales",
            "www.shop.example/sale",
            "shop.tw.evil.com",
            "evil-shop.tw",
            "https://shop.tw@evil.com",
            "shop.tww",
            "0912-345-679",
            "shop.example/sale/../x",
        ] {
            assert!(!missing(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn one_link_or_one_number_can_be_registered_and_nothing_else() {
        assert_eq!(
            Contacts::only("https://shop.tw/a/").map(|c| c.links),
            Some(vec!["shop.tw/a".to_owned()])
        );
        assert_eq!(
            Contacts::only(" 0912 345 678 ").map(|c| c.phones),
            Some(vec!["+886912345678".to_owned()])
        );
        for text in ["", "shop", "a.tw b.tw", "see a.tw", "a.tw 0912345678"] {
            assert_eq!(Contacts::only(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_looked_through(text in "\\PC{0,200}") {
            let _ = Contacts::find(&text);
        }

        #[test]
        fn a_link_is_found_whatever_stands_around_it(before in "[ 一-龥，。!]{0,12}", after in "[ 一-龥，。!]{0,12}") {
            let found = Contacts::find(&format!("{before}https://shop.example/a{after}"));
            prop_assert!(found.links.contains(&"shop.example/a".to_owned()), "{:?}", found);
        }

        #[test]
        fn what_one_text_carries_two_texts_carry(a in "[a-z0-9./: -]{0,40}", b in "[a-z0-9./: -]{0,40}") {
            // Apart by a line break, neither hides what is in the other.
            let both = Contacts::find(&format!("{a}\n{b}"));
            prop_assert!(Contacts::find(&a).within(&both), "{a:?} {b:?}");
        }
    }
}
