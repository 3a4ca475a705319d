//! The boundaries, one by one, and the whole against a splitter that knows nothing but the rules.

use proptest::prelude::*;

use super::{
    Alphabet::{self, Gsm7, Ucs2},
    Segments,
};
use crate::channel::gsm7;

/// Writes the text unit by unit into parts, as a carrier would.
fn parts_by_hand(text: &str) -> (Alphabet, usize, usize) {
    let plain = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
    let extension = "\u{c}^{}\\[~]|€";
    let gsm = text.chars().all(|c| plain.contains(c) || extension.contains(c));
    let written: Vec<Vec<u16>> = text
        .chars()
        .map(|c| match (gsm, extension.contains(c)) {
            (true, true) => vec![27, 0],
            (true, false) => vec![0],
            (false, _) => c.encode_utf16(&mut [0; 2]).to_vec(),
        })
        .collect();
    let units: usize = written.iter().map(Vec::len).sum();
    let (alphabet, alone, most) = if gsm { (Gsm7, 160, 153) } else { (Ucs2, 70, 67) };
    if units <= alone {
        return (alphabet, units, usize::from(units > 0));
    }
    let mut parts: Vec<Vec<u16>> = vec![Vec::new()];
    for character in written {
        let room = parts.last().is_some_and(|part| part.len() + character.len() <= most);
        if !room {
            parts.push(Vec::new());
        }
        if let Some(part) = parts.last_mut() {
            part.extend(character);
        }
    }
    (alphabet, units, parts.len())
}

/// Text, alphabet, units, parts. `n x c`: the character n times.
fn cases() -> Vec<(String, Alphabet, usize, usize)> {
    let many = |c: &str, n: usize| c.repeat(n);
    let shop = |text: String| format!("EasyStore {text}");
    let mut cases = vec![
        (String::new(), Gsm7, 0, 0),
        ("a".into(), Gsm7, 1, 1),
        ("\n".into(), Gsm7, 1, 1),
        ("@".into(), Gsm7, 1, 1),
        ("`".into(), Ucs2, 1, 1),
        ("€".into(), Gsm7, 2, 1),
        ("折".into(), Ucs2, 1, 1),
        ("😀".into(), Ucs2, 2, 1),
        ("é".into(), Gsm7, 1, 1),
        ("á".into(), Ucs2, 1, 1),
        ("Ç".into(), Gsm7, 1, 1),
        ("ç".into(), Ucs2, 1, 1),
        ("\t".into(), Ucs2, 1, 1),
        ("’".into(), Ucs2, 1, 1),
        ("“".into(), Ucs2, 1, 1),
        ("…".into(), Ucs2, 1, 1),
        ("【】".into(), Ucs2, 2, 1),
        ("，".into(), Ucs2, 1, 1),
        ("Ａ".into(), Ucs2, 1, 1),
        ("e\u{301}".into(), Ucs2, 2, 1),
        ("👨‍👩‍👧".into(), Ucs2, 8, 1),
        ("🇹🇼".into(), Ucs2, 4, 1),
    ];
    for c in ["^", "{", "}", "\\", "[", "~", "]", "|", "\u{c}"] {
        cases.push((c.into(), Gsm7, 2, 1));
    }
    cases.extend([
        (many("a", 159), Gsm7, 159, 1),
        (many("a", 160), Gsm7, 160, 1),
        (many("a", 161), Gsm7, 161, 2),
        (many("a", 306), Gsm7, 306, 2),
        (many("a", 307), Gsm7, 307, 3),
        (many("a", 459), Gsm7, 459, 3),
        (many("a", 460), Gsm7, 460, 4),
        (many("€", 80), Gsm7, 160, 1),
        (many("€", 81), Gsm7, 162, 2),
        // 153 holds 76 of them and half a one: one unit stays empty in each part.
        (many("€", 152), Gsm7, 304, 2),
        (many("€", 153), Gsm7, 306, 3),
        (many("a", 158) + "€", Gsm7, 160, 1),
        (many("a", 159) + "€", Gsm7, 161, 2),
        // At the edge of the first part.
        (many("a", 151) + "€" + &many("a", 153), Gsm7, 306, 2),
        (many("a", 152) + "€" + &many("a", 151), Gsm7, 305, 2),
        (many("a", 152) + "€" + &many("a", 152), Gsm7, 306, 3),
        (many("折", 69), Ucs2, 69, 1),
        (many("折", 70), Ucs2, 70, 1),
        (many("折", 71), Ucs2, 71, 2),
        (many("折", 134), Ucs2, 134, 2),
        (many("折", 135), Ucs2, 135, 3),
        (many("折", 201), Ucs2, 201, 3),
        (many("折", 202), Ucs2, 202, 4),
        (many("a", 69) + "折", Ucs2, 70, 1),
        (many("a", 70) + "折", Ucs2, 71, 2),
        (many("€", 70) + "折", Ucs2, 71, 2),
        (many("😀", 35), Ucs2, 70, 1),
        (many("😀", 36), Ucs2, 72, 2),
        // 67 holds 33 pairs and half a one.
        (many("😀", 66), Ucs2, 132, 2),
        (many("😀", 67), Ucs2, 134, 3),
        (many("折", 69) + "😀", Ucs2, 71, 2),
        (many("折", 68) + "😀", Ucs2, 70, 1),
        (many("折", 66) + "😀" + &many("折", 65), Ucs2, 133, 2),
        (many("折", 66) + "😀" + &many("折", 66), Ucs2, 134, 3),
        (many("折", 65) + "😀" + &many("折", 67), Ucs2, 134, 2),
        // With the name in front, which is ten characters.
        (shop(many("a", 150)), Gsm7, 160, 1),
        (shop(many("a", 151)), Gsm7, 161, 2),
        (shop(many("€", 75)), Gsm7, 160, 1),
        (shop(many("折", 60)), Ucs2, 70, 1),
        (shop(many("折", 61)), Ucs2, 71, 2),
        (shop(many("折", 65)), Ucs2, 75, 2),
        (shop(many("折", 58) + "😀"), Ucs2, 70, 1),
        (shop(many("折", 59) + "😀"), Ucs2, 71, 2),
        (shop(many("折", 56) + "😀" + &many("折", 66)), Ucs2, 134, 3),
    ]);
    cases
}

#[test]
fn every_boundary_is_where_it_should_be() {
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    for (text, alphabet, units, parts) in cases {
        let counted = Segments::of(&text);
        assert_eq!(
            (counted.alphabet, counted.units, counted.parts),
            (alphabet, units, parts),
            "{text:?}"
        );
        assert_eq!(parts_by_hand(&text), (alphabet, units, parts), "by hand: {text:?}");
    }
}

fn gsm_text() -> impl Strategy<Value = String> {
    let inside: Vec<char> = (0..0x2100_u32)
        .filter_map(char::from_u32)
        .filter(|c| gsm7::contains(*c))
        .collect();
    prop::collection::vec(prop_oneof![4 => prop::sample::select(inside), 1 => Just('€')], 0..500)
        .prop_map(|chars| chars.into_iter().collect())
}

proptest! {
    #[test]
    fn any_text_is_counted_as_by_hand(text in "[a-z€折😀^]{0,320}") {
        let counted = Segments::of(&text);
        prop_assert_eq!((counted.alphabet, counted.units, counted.parts), parts_by_hand(&text));
    }

    #[test]
    fn any_text_of_the_alphabet_is_counted_as_by_hand(text in gsm_text()) {
        let counted = Segments::of(&text);
        prop_assert_eq!(counted.alphabet, Gsm7);
        prop_assert_eq!((counted.alphabet, counted.units, counted.parts), parts_by_hand(&text));
    }

    #[test]
    fn any_text_at_all_is_counted_as_by_hand(text in "\\PC{0,250}") {
        let counted = Segments::of(&text);
        prop_assert_eq!((counted.alphabet, counted.units, counted.parts), parts_by_hand(&text));
    }
}
