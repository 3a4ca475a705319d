//! The GSM 03.38 alphabet (pure): a text inside it may be 150 characters long, any other 65.
//!
//! It must never guess: a character is in the default alphabet or its extension table, or it is not.

/// The default alphabet beyond plain ASCII, and the one extension beyond it.
const BEYOND_ASCII: &str = "£¥èéùìòÇØøÅåΔΦΓΛΩΠΨΣΘΞÆæßÉ¤¡ÄÖÑÜ§¿äöñüà€";

/// Whether a character can be sent in a GSM-7 text message.
pub(super) fn contains(c: char) -> bool {
    match c {
        '`' => false,
        '\n' | '\r' | '\u{c}' | ' '..='~' => true,
        _ => BEYOND_ASCII.contains(c),
    }
}

/// Whether a character of the alphabet stands in its extension table and takes two of its units.
pub(super) const fn is_extension(c: char) -> bool {
    matches!(c, '\u{c}' | '^' | '{' | '}' | '\\' | '[' | '~' | ']' | '|' | '€')
}

/// The first character outside the alphabet.
pub(super) fn first_outside(text: &str) -> Option<char> {
    text.chars().find(|c| !contains(*c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_has_its_137_characters() {
        let inside = (0..=0x2_0000_u32).filter_map(char::from_u32).filter(|c| contains(*c));
        // 128 positions less the escape, plus ten extensions.
        assert_eq!(inside.count(), 137);
    }

    #[test]
    fn the_character_that_forces_the_lower_limit_is_named() {
        assert_eq!(first_outside("Sale [50%] €1 ~ {x}"), None);
        assert_eq!(first_outside("tick ` tick"), Some('`'));
        assert_eq!(first_outside("ç"), Some('ç'));
        assert_eq!(first_outside("50% 折扣"), Some('折'));
    }
}
