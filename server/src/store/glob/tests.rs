//! Tests of the Redis globs.

use proptest::prelude::*;

use super::*;

/// The obvious matcher: tries every run for every star.
fn naive(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.first() {
        None => text.is_empty(),
        Some(b'*') => (0..=text.len()).any(|run| naive(&pattern[1..], &text[run..])),
        Some(_) => match text.first() {
            None => false,
            Some(byte) => {
                let (found, next) = one(pattern, 0, *byte);
                found && naive(&pattern[next..], &text[1..])
            }
        },
    }
}

#[test]
fn table() {
    let cases: &[(&[u8], &[u8], bool)] = &[
        (b"", b"", true),
        (b"", b"a", false),
        (b"*", b"", true),
        (b"key1", b"key1", true),
        (b"key1", b"key12", false),
        (b"un*", b"undo", true),
        (b"un*", b"u", false),
        (b"*x", b"aax", true),
        (b"*x", b"xxa", false),
        (b"a*b*c", b"aXbYbZc", true),
        (b"?", b"\xff", true),
        (b"?", b"", false),
        (b"*\xc3\xa9?", b"caf\xc3\xa9", false),
        (b"\xff*", b"\xff\x00", true),
        (b"h[ae]llo", b"hallo", true),
        (b"h[ae]llo", b"hillo", false),
        (b"h[^e]llo", b"hello", false),
        (b"h[^e]llo", b"hallo", true),
        (b"[a-c]", b"b", true),
        (b"[c-a]", b"b", true),
        (b"[a-c]", b"d", false),
        (b"[]", b"]", false),
        (b"[^]", b"x", true),
        (b"[\\]]", b"]", true),
        (b"[\\^a]", b"^", true),
        (b"[a-]", b"-", false),
        (b"[ab", b"b", true),
        (b"\\*", b"*", true),
        (b"\\*", b"x", false),
        (b"a\\", b"a\\", true),
        (b"**a**", b"bab", true),
    ];
    for (pattern, text, expected) in cases {
        let case = (String::from_utf8_lossy(pattern), String::from_utf8_lossy(text));
        assert_eq!(matches(pattern, text), *expected, "{case:?}");
    }
}

#[test]
fn prefixes() {
    let cases: &[(&[u8], &[u8], bool)] = &[
        (b"", b"", true),
        (b"abc", b"abc", true),
        (b"ab*", b"ab", false),
        (b"a\\*b*", b"a*b", false),
        (b"a\\*b", b"a*b", true),
        (b"a\\", b"a\\", true),
        (b"\xff?", b"\xff", false),
        (b"a[b]", b"a", false),
    ];
    for (pattern, prefix, whole) in cases {
        assert_eq!(
            literal_prefix(pattern),
            (prefix.to_vec(), *whole),
            "{}",
            String::from_utf8_lossy(pattern)
        );
    }
}

/// 60 stars against 10,000 bytes is done within 60 x 10,000 steps; a backtracking matcher would never end.
#[test]
fn many_stars_stay_cheap() {
    let pattern = [b"*a".repeat(60), b"b".to_vec()].concat();
    assert!(!matches(&pattern, &vec![b'a'; 10_000]));
}

/// Few distinct bytes, so that patterns and texts meet.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::sample::select(b"aab*?[]^-\\\xff".to_vec());
    prop::collection::vec(bytes, 0..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn agrees_with_the_obvious_matcher(pattern in piece(), text in piece()) {
        prop_assert_eq!(matches(&pattern, &text), naive(&pattern, &text));
    }

    #[test]
    fn every_match_begins_with_the_prefix(pattern in piece(), text in piece()) {
        let (prefix, whole) = literal_prefix(&pattern);
        if matches(&pattern, &text) {
            prop_assert!(text.starts_with(&prefix));
        }
        if whole {
            prop_assert_eq!(matches(&pattern, &text), text == prefix);
        }
    }
}
