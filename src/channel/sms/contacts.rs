//! Links and phone numbers in a text message (pure), and which of them are registered.
//!
//! Why it exists: in Taiwan a commercial text message may carry only links and numbers that were registered with the carrier
//! before. What is found here and not registered keeps a broadcast from leaving until a person has looked.
//!
//! It errs on the side of finding: a full stop between two Latin words looks like a host name to a telephone, too. It must never
//! take time that grows faster than the text, and never let full-width letters or invisible characters hide anything.

use std::{collections::BTreeSet, sync::LazyLock};

use url::Url;

use super::numbers;

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
        Self {
            links: links(&folded),
            phones: numbers::find(&folded),
        }
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

/// Whether a name is made of Han letters alone, none of which a top-level domain has: whatever stands around them, of such names one
/// makes or breaks a link or a number exactly when every other does.
#[must_use]
pub(in crate::channel) fn is_plain_name(name: &str) -> bool {
    let is_plain = |c: char| matches!(c, '\u{4e00}'..='\u{9fff}') && LETTERS_OF_TOPS.binary_search(&c).is_err();
    !name.is_empty() && name.chars().all(is_plain)
}

/// Every letter of [`TOPS`], in order: two are looked up for nearly every message.
static LETTERS_OF_TOPS: LazyLock<Vec<char>> = LazyLock::new(|| {
    let letters: BTreeSet<char> = TOPS.iter().flat_map(|top| top.chars()).collect();
    letters.into_iter().collect()
});

/// Full-width letters, digits and signs in their plain form, small letters, nothing invisible.
fn fold(text: &str) -> String {
    let plain: Vec<char> = text
        .chars()
        .filter(
            |c| !matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{e0000}'..='\u{e0fff}'),
        )
        .map(|c| match c {
            '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
            '\u{ff61}' | '\u{2024}' | '\u{fe52}' => '.',
            '\u{3000}' => ' ',
            _ => c,
        })
        .flat_map(char::to_lowercase)
        .collect();
    // A Chinese full stop ends a sentence, but between Latin letters or digits it is a dot like any other.
    let is_latin = |at: Option<usize>| at.and_then(|at| plain.get(at)).is_some_and(char::is_ascii_alphanumeric);
    let dotted = |(at, c): (usize, &char)| match c {
        '。' if is_latin(at.checked_sub(1)) && is_latin(Some(at + 1)) => '.',
        _ => *c,
    };
    plain.iter().enumerate().map(dotted).collect()
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
            let named = before.ends_with(char::is_alphanumeric);
            if named && after.get(1..).is_some_and(|behind| foreign_top(behind).is_some()) {
                let (link, rest) = split_link(text.get(foreign_start(before)..)?);
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

/// Where a host begins that ends in other letters than Latin ones, and whose last dot comes right behind this text.
fn foreign_start(before: &str) -> usize {
    let other = before.rfind(|c: char| !(c.is_alphanumeric() || is_host(c)));
    other.map_or(0, |at| {
        at + before
            .get(at..)
            .and_then(|s| s.chars().next())
            .map_or(1, char::len_utf8)
    })
}

/// The length of a top-level domain in other letters than Latin ones that a text begins with. Chinese and Japanese have no blanks between
/// words, so of theirs the known ones count; of other scripts every word does.
fn foreign_top(text: &str) -> Option<usize> {
    let first = text.chars().next().filter(|c| !c.is_ascii() && c.is_alphabetic())?;
    if is_unspaced(first) {
        let known = TOPS.iter().find(|top| text.starts_with(**top));
        return known.map(|top| top.len());
    }
    let word = text
        .find(|c: char| !c.is_alphanumeric() || is_unspaced(c))
        .unwrap_or(text.len());
    (text.get(..word)?.chars().count() >= 2).then_some(word)
}

/// Han, kana and their signs.
const fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{3005}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// The top-level domains in Han and kana of the root zone (November 2026), and some that stand for the same in the other script.
const TOPS: [&str; 76] = [
    "世界",
    "中信",
    "中国",
    "中國",
    "企业",
    "佛山",
    "信息",
    "健康",
    "八卦",
    "公司",
    "公益",
    "台湾",
    "台灣",
    "商城",
    "商店",
    "商标",
    "嘉里",
    "在線",
    "在线",
    "大拿",
    "娱乐",
    "家電",
    "广东",
    "微博",
    "慈善",
    "手机",
    "招聘",
    "政务",
    "政府",
    "新闻",
    "时尚",
    "書籍",
    "机构",
    "游戏",
    "澳門",
    "澳门",
    "点看",
    "移动",
    "網址",
    "網店",
    "網站",
    "網路",
    "网址",
    "网店",
    "网站",
    "网络",
    "联通",
    "臺灣",
    "谷歌",
    "购物",
    "通販",
    "集团",
    "食品",
    "餐厅",
    "香港",
    "中文網",
    "中文网",
    "亚马逊",
    "天主教",
    "我爱你",
    "新加坡",
    "淡马锡",
    "飞利浦",
    "组织机构",
    "電訊盈科",
    "香格里拉",
    "嘉里大酒店",
    "みんな",
    "アマゾン",
    "クラウド",
    "グーグル",
    "コム",
    "ストア",
    "セール",
    "ファッション",
    "ポイント",
];

/// A link at the beginning of a text, and what follows it: up to a blank, or anything no link holds.
fn split_link(text: &str) -> (&str, &str) {
    // A host may begin in other letters than Latin ones, and end in them.
    let mut end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    loop {
        let tail = text.get(end..).unwrap_or_default();
        end += tail
            .find(|c: char| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>'))
            .unwrap_or(tail.len());
        let (link, rest) = text.split_at(end);
        match foreign_label(link, rest) {
            Some(length) => end += length,
            None => {
                return (
                    link.trim_end_matches(['.', ',', '!', '?', ')', ']', ';', ':', '\'']),
                    rest,
                );
            }
        }
    }
}

/// The length of the label in other letters with which a host goes on that has come to a dot.
fn foreign_label(link: &str, rest: &str) -> Option<usize> {
    if !link.ends_with('.') || link.contains(['/', '?', '#']) {
        return None;
    }
    let label = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
    let behind = rest.get(label..)?.strip_prefix('.');
    let goes_on = label > 0 && behind.is_some_and(|behind| behind.starts_with(char::is_alphanumeric));
    if goes_on { Some(label) } else { foreign_top(rest) }
}

/// Host and path as they are compared; what cannot be read as a link stays as it is, and is nobody's.
fn normal(link: &str) -> String {
    let Ok(url) = Url::parse(&format!("https://{link}")) else {
        return link.to_owned();
    };
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    format!("{host}{}", url.path().trim_end_matches('/'))
}

#[cfg(test)]
mod tests;
