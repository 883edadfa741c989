//! Lua itself is the oracle for small inputs; for large ones time and stack are what matters.

use std::cell::Cell;

use mlua::{Lua, MultiValue, Value};
use proptest::prelude::*;

use super::*;

struct Purse(Cell<usize>);

impl Steps for Purse {
    fn pay(&self, steps: usize) -> Result<(), Spent> {
        self.0.set(self.0.get().checked_sub(steps).ok_or(Spent)?);
        Ok(())
    }
}

fn find(text: &[u8], pattern: &[u8], from: usize) -> Result<Option<Found>, &'static str> {
    let found = Pattern::new(pattern, true)?.find(text, from, &Purse(Cell::new(1_000_000)));
    Ok(found.expect("steps are left"))
}

/// What `string.find` of Lua says; an error is `None`.
#[expect(clippy::option_option, reason = "no answer, and the answer that there is no match")]
fn find_by_lua(lua: &Lua, text: &[u8], pattern: &[u8], from: usize) -> Option<Option<Found>> {
    let function: mlua::Function = lua.load("return string.find(...)").into_function().unwrap();
    let words = (lua.create_string(text).unwrap(), lua.create_string(pattern).unwrap(), from + 1);
    let mut values = function.call::<MultiValue>(words).ok()?.into_iter();
    let place = |value: Option<Value>| value.and_then(|value| value.as_usize()).expect("a place");
    let first = match values.next() {
        Some(Value::Nil) | None => return Some(None),
        first => place(first) - 1,
    };
    let end = place(values.next());
    let captures = values.map(|value| match value {
        // Which place of the text it is does not show: the same bytes are compared below.
        Value::String(bytes) => Err(bytes.as_bytes().to_vec()),
        other => Ok(place(Some(other)) - 1),
    });
    let captures = captures.map(|capture| match capture {
        Ok(at) => Capture::Position(at),
        Err(bytes) => {
            let at = text.windows(bytes.len().max(1)).position(|window| window.starts_with(&bytes));
            let at = if bytes.is_empty() { 0 } else { at.expect("a part of the text") };
            Capture::Text(at..at + bytes.len())
        }
    });
    Some(Some(Found { whole: first..end, captures: captures.collect() }))
}

/// Whether Lua gets through the whole pattern, on which nothing can be wrong then.
fn fits_by_lua(lua: &Lua, text: &[u8], pattern: &[u8]) -> bool {
    let function: mlua::Function = lua.load("return string.match(...) ~= nil").into_function().unwrap();
    let words = (lua.create_string(text).unwrap(), lua.create_string(pattern).unwrap());
    function.call(words).unwrap_or(false)
}

/// A text, or a position.
type Shown = Result<Vec<u8>, usize>;

/// Captures as bytes, since equal bytes may stand at several places.
fn shown(found: Option<Found>, text: &[u8]) -> Option<(Range<usize>, Vec<Shown>)> {
    let capture = |capture| match capture {
        Capture::Text(range) => Ok(text[range].to_vec()),
        Capture::Position(at) => Err(at),
    };
    found.map(|found| (found.whole, found.captures.into_iter().map(capture).collect()))
}

fn part() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "a", "b", "x", ".", "%a", "%d", "%W", "%s", "[ab]", "[^a]", "[a-c%d]", "[]a]", "[^]x]", "[a-]", "%%",
        "*", "+", "-", "?", "(", ")", "()", "%1", "%bab", "%b()", "%f[a]", "%f[%z]", "^", "$", "[", "]", "%",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn lua_finds_the_same(
        parts in prop::collection::vec(part(), 0..7),
        text in "[abx1 ()\\]-]{0,9}",
        from in 0_usize..4,
    ) {
        let (pattern, from) = (parts.concat(), from.min(text.len()));
        let (text, lua) = (text.as_bytes(), Lua::new());
        let theirs = find_by_lua(&lua, text, pattern.as_bytes(), from);
        match find(text, pattern.as_bytes(), from) {
            Ok(ours) => {
                let theirs = theirs.unwrap_or_else(|| panic!("{pattern:?}: Lua takes it for malformed"));
                prop_assert_eq!(shown(ours, text), shown(theirs, text), "{:?}", pattern);
            }
            // Lua sees a fault only where a match gets to it.
            Err(problem) => {
                prop_assert!(!fits_by_lua(&lua, text, pattern.as_bytes()), "{:?}: {}", pattern, problem);
            }
        }
    }
}

#[test]
fn faults_are_told_in_luas_words() {
    for (pattern, problem) in [
        ("%", "malformed pattern (ends with '%')"),
        ("[a", "malformed pattern (missing ']')"),
        ("[]", "malformed pattern (missing ']')"),
        ("(a", "unfinished capture"),
        ("a)", "invalid pattern capture"),
        ("%1", "invalid capture index"),
        ("(%1)", "invalid capture index"),
        ("%0", "invalid capture index"),
        ("%ba", "unbalanced pattern"),
        ("%fa", "missing '[' after '%f' in pattern"),
    ] {
        assert_eq!(find(b"", pattern.as_bytes(), 0), Err(problem), "{pattern}");
    }
    assert_eq!(find(b"", "()".repeat(33).as_bytes(), 0), Err("too many captures"));
    assert_eq!(find(b"", "a".repeat(PATTERN_BYTES_MAX + 1).as_bytes(), 0), Err("pattern too long"));
}

#[test]
fn a_match_that_would_take_for_ever_ends_and_a_long_pattern_needs_no_stack() {
    let text = vec![b'a'; 5000];
    let slow = Pattern::new(("a*".repeat(12) + "b").as_bytes(), true).unwrap();
    assert_eq!(slow.find(&text, 0, &Purse(Cell::new(1_000_000))), Err(Spent));
    for item in ["a?", "a-", "a*"] {
        let long = Pattern::new(item.repeat(30_000).as_bytes(), true).unwrap();
        let ended = long.find(&text, 0, &Purse(Cell::new(10_000_000)));
        assert!(matches!(ended, Ok(Some(_)) | Err(Spent)), "{item}");
    }
}
