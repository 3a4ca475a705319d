//! Links a message may carry (pure).
//!
//! Why it exists: LINE refuses a whole request for one URL with an unencoded character, so a link is checked when the
//! merchant writes it, not when the first of a million messages leaves.

use url::{Host, Url};

/// The longest link every channel takes, in characters.
pub(super) const LIMIT: usize = 1_000;

/// Checks a link: https, a public host, at most 1,000 characters, percent-encoded.
///
/// # Errors
/// What is wrong and what to do, as the end of a sentence about the field.
pub(super) fn check(link: &str) -> Result<(), String> {
    let length = link.chars().count();
    if length > LIMIT {
        return Err(format!("is {length} characters long: the limit is {LIMIT}"));
    }
    if let Some(c) = link.chars().find(|c| !allowed(*c)) {
        let name = c.escape_default();
        return Err(format!("holds the character `{name}`, which must be percent-encoded"));
    }
    if !percent_encoded(link) {
        return Err("holds a `%` that two hexadecimal digits do not follow: write %25".into());
    }
    let url = Url::parse(link).map_err(|error| format!("is not a link ({error}): write https://host/path"))?;
    if url.scheme() != "https" || !link.starts_with("https://") {
        return Err("must start with https://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not carry a user name or password".into());
    }
    match url.host() {
        Some(Host::Domain(domain)) if domain.trim_end_matches('.').contains('.') => Ok(()),
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => Ok(()),
        Some(Host::Domain(_)) | None => Err("needs a public host name, such as https://shop.example/sale".into()),
    }
}

/// What may stand in a URL as it is; everything else has to be percent-encoded.
fn allowed(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
}

fn percent_encoded(link: &str) -> bool {
    link.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_a_customer_can_open_pass() {
        for link in [
            "https://shop.example/sale",
            "https://shop.example:8443/a%20b?x=1&y=%E6%8A%98#top",
            "https://xn--fiq228c.tw/",
            "https://192.0.2.7/x",
        ] {
            assert_eq!(check(link), Ok(()), "{link}");
        }
    }

    #[test]
    fn every_other_link_is_refused_with_the_reason() {
        let long = format!("https://shop.example/{}", "a".repeat(LIMIT));
        for (link, reason) in [
            ("http://shop.example", "must start with https://"),
            ("HTTPS://shop.example", "must start with https://"),
            ("https:shop.example", "must start with https://"),
            ("shop.example", "is not a link"),
            ("https://", "is not a link"),
            ("https://shop/sale", "public host name"),
            ("https://shop.example/折扣", "percent-encoded"),
            ("https://shop.example/a b", "percent-encoded"),
            ("https://shop.example/{first_name}", "percent-encoded"),
            ("https://shop.example/100%", "%25"),
            ("https://shop.example/%zz", "%25"),
            ("https://me@shop.example/", "user name"),
            ("https://shop.example/\r\nBcc: x", "percent-encoded"),
            (long.as_str(), "the limit is 1000"),
        ] {
            let error = check(link).err().unwrap_or_default();
            assert!(error.contains(reason), "{link}: {error}");
        }
    }
}
