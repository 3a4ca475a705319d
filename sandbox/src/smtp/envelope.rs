//! The SMTP envelope: what MAIL and RCPT said, and what counts as an address; pure.
//! It exists so that a sender's bad address is refused at RCPT and not silently counted.
//! It must never resolve a domain: nothing here touches a network.

/// What MAIL asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sender {
    /// Where what comes back goes; empty for the null sender.
    pub(crate) return_path: Box<str>,
    pub(crate) eight_bit: bool,
    pub(crate) utf8: bool,
}

/// A mail transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) sender: Sender,
    pub(crate) to: Vec<String>,
}

/// True for `local@domain` within RFC 5321's sizes; a quoted local part and an address literal are allowed.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii();
    let dotted = local.split('.').all(|part| !part.is_empty() && part.chars().all(atom));
    let literal = domain.starts_with('[') && domain.ends_with(']');
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || !c.is_ascii())
    };
    local.len() <= 64
        && domain.len() <= 255
        && text.len() <= 254
        && (quoted || dotted)
        && (literal || domain.split('.').all(label))
}
