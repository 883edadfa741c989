//! Lua's patterns (reference manual of Lua 5.1, section 5.4.1), matched in bounded time and without recursion.
//!
//! Lua's own matcher calls itself for each item of a pattern, and tries all ways of a match: a long pattern overflows the
//! stack, which ends the process, and a few stars run for ever, where no hook counts instructions. Here a pattern is
//! compiled to items, and the ways that are still to be tried are a list:
//!
//! ```text
//! "^(%w+)=(.-)$"  ->  anchored:  Open 0 | One[%w]+ | Close 0 | One[=] | Open 1 | One[.]- | Close 1 | End
//! ```
//!
//! Invariants
//! - Each look at a byte or an item is paid for with a [`Steps`]; without any left the match ends with an error.
//! - The list is no longer than the pattern: items are passed in order, and each has one entry at most.
//! - A capture is set again by each way that passes it, so nothing has to be restored when a way fails.
//!
//! Different from Lua: what is wrong with a pattern is told also where the match would not have got there; a NUL in it
//! stands for itself.

use std::ops::Range;

/// Bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 64 * 1024;
/// Captures, as in Lua.
const CAPTURES_MAX: usize = 32;

/// Work that may still be done.
pub(super) trait Steps {
    /// Pays for some.
    ///
    /// # Errors
    /// There are not as many left.
    fn pay(&self, steps: usize) -> Result<(), Spent>;
}

/// The work is used up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spent;

/// A set of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Set([u64; 4]);

impl Set {
    const ALL: Self = Self([u64::MAX; 4]);

    fn of(test: impl Fn(u8) -> bool) -> Self {
        let mut set = Self::default();
        (0..=u8::MAX).filter(|byte| test(*byte)).for_each(|byte| set.add(byte));
        set
    }

    fn just(byte: u8) -> Self {
        let mut set = Self::default();
        set.add(byte);
        set
    }

    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn join(&mut self, other: Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    fn inverted(self) -> Self {
        Self(self.0.map(|word| !word))
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }

    /// What stands behind a `%`.
    fn class(letter: u8) -> Self {
        let set = match letter.to_ascii_lowercase() {
            b'a' => Self::of(|byte| byte.is_ascii_alphabetic()),
            b'c' => Self::of(|byte| byte.is_ascii_control()),
            b'd' => Self::of(|byte| byte.is_ascii_digit()),
            b'l' => Self::of(|byte| byte.is_ascii_lowercase()),
            b'p' => Self::of(|byte| byte.is_ascii_punctuation()),
            b's' => Self::of(|byte| byte.is_ascii_whitespace() || byte == 0x0b),
            b'u' => Self::of(|byte| byte.is_ascii_uppercase()),
            b'w' => Self::of(|byte| byte.is_ascii_alphanumeric()),
            b'x' => Self::of(|byte| byte.is_ascii_hexdigit()),
            b'z' => Self::of(|byte| byte == 0),
            _ => return Self::just(letter),
        };
        if letter.is_ascii_uppercase() { set.inverted() } else { set }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    Once,
    Optional,
    Greedy { min: usize },
    Lazy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    One(Set, Repeat),
    Open(usize),
    Close(usize),
    Position(usize),
    Back(usize),
    Balanced(u8, u8),
    Frontier(Set),
    End,
}

/// What a capture holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Capture {
    /// These bytes of the text.
    Text(Range<usize>),
    /// The place in front of this byte.
    Position(usize),
}

/// Where a pattern fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) whole: Range<usize>,
    pub(super) captures: Vec<Capture>,
}

/// True if a pattern has nothing special for `string.find`, which takes it as a text then (also where it is malformed).
pub(super) fn is_plain(pattern: &[u8]) -> bool {
    !pattern.iter().any(|byte| b"^$*+?.([%-".contains(byte))
}

/// A compiled pattern.
pub(super) struct Pattern {
    items: Vec<Item>,
    captures: usize,
    anchored: bool,
}

/// A way that was not taken yet.
enum Way {
    /// Go on behind the item with a byte less, down to `min`.
    Shorter { item: usize, min: usize, at: usize },
    /// Take one byte more with the item.
    Longer { item: usize, at: usize },
    /// Go on behind the item from here.
    Without { item: usize, at: usize },
}

impl Pattern {
    /// Compiles a pattern, which costs about as much for each of its bytes. A leading `^` is an anchor only if `may_anchor` (not in gmatch).
    ///
    /// # Errors
    /// What is wrong with it, in Lua's words.
    pub(super) fn new(pattern: &[u8], may_anchor: bool) -> Result<Self, &'static str> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err("pattern too long");
        }
        let anchored = may_anchor && pattern.first() == Some(&b'^');
        let rest = if anchored { &pattern[1..] } else { pattern };
        let mut compiler = Compiler { rest, items: Vec::new(), captures: Vec::new() };
        while !compiler.rest.is_empty() {
            let item = compiler.item()?;
            compiler.items.push(item);
        }
        if compiler.captures.iter().any(|is_closed| !is_closed) {
            return Err("unfinished capture");
        }
        Ok(Self { items: compiler.items, captures: compiler.captures.len(), anchored })
    }

    /// The first place from `from` on where it fits.
    ///
    /// # Errors
    /// [`Spent`].
    pub(super) fn find(&self, text: &[u8], from: usize, steps: &impl Steps) -> Result<Option<Found>, Spent> {
        let last = if self.anchored { from } else { text.len() };
        let mut attempt = Attempt { text, captures: vec![0..0; self.captures], ways: Vec::new() };
        for start in from..=last {
            if let Some(end) = attempt.run(&self.items, start, steps)? {
                return Ok(Some(Found { whole: start..end, captures: self.captured(&attempt.captures) }));
            }
        }
        Ok(None)
    }

    fn captured(&self, ranges: &[Range<usize>]) -> Vec<Capture> {
        let is_position = |number: usize| self.items.contains(&Item::Position(number));
        let capture = |(number, range): (usize, &Range<usize>)| {
            if is_position(number) { Capture::Position(range.start) } else { Capture::Text(range.clone()) }
        };
        ranges.iter().enumerate().map(capture).collect()
    }
}

struct Compiler<'a> {
    rest: &'a [u8],
    items: Vec<Item>,
    /// Whether each is closed.
    captures: Vec<bool>,
}

impl Compiler<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.rest.first() == Some(&byte);
        if is_next {
            self.rest = &self.rest[1..];
        }
        is_next
    }

    fn item(&mut self) -> Result<Item, &'static str> {
        match (self.rest.first(), self.rest.get(1)) {
            (Some(b'('), _) => self.open(),
            (Some(b')'), _) => self.close(),
            (Some(b'$'), None) => {
                self.rest = &[];
                Ok(Item::End)
            }
            (Some(b'%'), Some(b'b')) => {
                let [open, close, rest @ ..] = &self.rest[2..] else { return Err("unbalanced pattern") };
                self.rest = rest;
                Ok(Item::Balanced(*open, *close))
            }
            (Some(b'%'), Some(b'f')) => {
                self.rest = &self.rest[2..];
                if self.rest.first() != Some(&b'[') {
                    return Err("missing '[' after '%f' in pattern");
                }
                self.set().map(Item::Frontier)
            }
            (Some(b'%'), Some(digit @ b'0'..=b'9')) => {
                self.rest = &self.rest[2..];
                let number = usize::from(*digit).wrapping_sub(usize::from(b'1'));
                match self.captures.get(number) {
                    // A place has no bytes that could come again.
                    Some(true) if self.items.contains(&Item::Position(number)) => {
                        Ok(Item::One(Set::default(), Repeat::Once))
                    }
                    Some(true) => Ok(Item::Back(number)),
                    Some(false) | None => Err("invalid capture index"),
                }
            }
            _ => {
                let set = self.set()?;
                let repeat = self.repeat();
                Ok(Item::One(set, repeat))
            }
        }
    }

    fn open(&mut self) -> Result<Item, &'static str> {
        self.rest = &self.rest[1..];
        let number = self.captures.len();
        if number == CAPTURES_MAX {
            return Err("too many captures");
        }
        let is_position = self.takes(b')');
        self.captures.push(is_position);
        Ok(if is_position { Item::Position(number) } else { Item::Open(number) })
    }

    fn close(&mut self) -> Result<Item, &'static str> {
        self.rest = &self.rest[1..];
        let number =
            self.captures.iter().rposition(|is_closed| !is_closed).ok_or("invalid pattern capture")?;
        self.captures[number] = true;
        Ok(Item::Close(number))
    }

    fn repeat(&mut self) -> Repeat {
        let repeat = match self.rest.first() {
            Some(b'?') => Repeat::Optional,
            Some(b'*') => Repeat::Greedy { min: 0 },
            Some(b'+') => Repeat::Greedy { min: 1 },
            Some(b'-') => Repeat::Lazy,
            _ => return Repeat::Once,
        };
        self.rest = &self.rest[1..];
        repeat
    }

    /// One byte, a class, or a set in brackets.
    fn set(&mut self) -> Result<Set, &'static str> {
        match self.next() {
            Some(b'.') => Ok(Set::ALL),
            Some(b'%') => self.next().map(Set::class).ok_or("malformed pattern (ends with '%')"),
            Some(b'[') => self.brackets(),
            Some(byte) => Ok(Set::just(byte)),
            None => Err("malformed pattern"),
        }
    }

    fn brackets(&mut self) -> Result<Set, &'static str> {
        const MISSING: &str = "malformed pattern (missing ']')";
        let is_inverted = self.takes(b'^');
        let mut set = Set::default();
        // A bracket that comes first stands for itself.
        let mut is_first = true;
        loop {
            let byte = self.next().ok_or(MISSING)?;
            match (byte, self.rest) {
                (b']', _) if !is_first => break,
                (b'%', _) => set.join(Set::class(self.next().ok_or(MISSING)?)),
                (low, [b'-', high, rest @ ..]) if *high != b']' => {
                    self.rest = rest;
                    (low..=*high).for_each(|byte| set.add(byte));
                }
                (byte, _) => set.add(byte),
            }
            is_first = false;
        }
        Ok(if is_inverted { set.inverted() } else { set })
    }
}

struct Attempt<'a> {
    text: &'a [u8],
    captures: Vec<Range<usize>>,
    ways: Vec<Way>,
}

impl Attempt<'_> {
    /// The end of a match that begins at `start`.
    fn run(&mut self, items: &[Item], start: usize, steps: &impl Steps) -> Result<Option<usize>, Spent> {
        self.ways.clear();
        let (mut item, mut at) = (0, start);
        loop {
            steps.pay(1)?;
            let Some(now) = items.get(item) else { return Ok(Some(at)) };
            if let Some(next) = self.pass(item, *now, at, steps)? {
                (item, at) = (item + 1, next);
            } else if let Some(way) = self.turn_back(items) {
                (item, at) = way;
            } else {
                return Ok(None);
            }
        }
    }

    /// Where the text goes on behind an item; `None` if it does not fit here.
    fn pass(
        &mut self,
        item: usize,
        now: Item,
        at: usize,
        steps: &impl Steps,
    ) -> Result<Option<usize>, Spent> {
        let byte = self.text.get(at).copied();
        let fits = |set: Set| byte.is_some_and(|byte| set.has(byte));
        Ok(match now {
            Item::One(set, Repeat::Once) => fits(set).then_some(at + 1),
            Item::One(set, Repeat::Optional) if fits(set) => {
                self.ways.push(Way::Without { item, at });
                Some(at + 1)
            }
            Item::One(_, Repeat::Optional) => Some(at),
            Item::One(set, Repeat::Greedy { min }) => {
                let count = self.text[at..].iter().take_while(|byte| set.has(**byte)).count();
                steps.pay(count)?;
                if count > min {
                    self.ways.push(Way::Shorter { item, min: at + min, at: at + count });
                }
                (count >= min).then_some(at + count)
            }
            Item::One(_, Repeat::Lazy) => {
                self.ways.push(Way::Longer { item, at });
                Some(at)
            }
            Item::Open(number) => {
                self.captures[number].start = at;
                Some(at)
            }
            Item::Close(number) => {
                self.captures[number].end = at;
                Some(at)
            }
            Item::Position(number) => {
                self.captures[number] = at..at;
                Some(at)
            }
            Item::Back(number) => {
                let wanted = &self.text[self.captures[number].clone()];
                steps.pay(wanted.len())?;
                self.text[at..].starts_with(wanted).then_some(at + wanted.len())
            }
            Item::Balanced(open, close) => self.balanced(at, (open, close), steps)?,
            Item::Frontier(set) => {
                let before = at.checked_sub(1).map_or(0, |before| self.text[before]);
                (!set.has(before) && set.has(byte.unwrap_or(0))).then_some(at)
            }
            Item::End => byte.is_none().then_some(at),
        })
    }

    fn balanced(
        &self,
        at: usize,
        (open, close): (u8, u8),
        steps: &impl Steps,
    ) -> Result<Option<usize>, Spent> {
        let Some((first, rest)) = self.text[at..].split_first() else { return Ok(None) };
        if *first != open {
            return Ok(None);
        }
        let mut depth = 1_usize;
        let end = rest.iter().position(|byte| {
            if *byte == close {
                depth -= 1;
            } else if *byte == open {
                depth += 1;
            }
            depth == 0
        });
        steps.pay(end.unwrap_or(rest.len()))?;
        Ok(end.map(|end| at + end + 2))
    }

    /// Where to go on after a failure: item and place.
    fn turn_back(&mut self, items: &[Item]) -> Option<(usize, usize)> {
        while let Some(way) = self.ways.pop() {
            match way {
                Way::Shorter { item, min, at } => {
                    if at - 1 > min {
                        self.ways.push(Way::Shorter { item, min, at: at - 1 });
                    }
                    return Some((item + 1, at - 1));
                }
                Way::Longer { item, at } => {
                    let Some(Item::One(set, _)) = items.get(item) else { continue };
                    if self.text.get(at).is_some_and(|byte| set.has(*byte)) {
                        self.ways.push(Way::Longer { item, at: at + 1 });
                        return Some((item + 1, at + 1));
                    }
                }
                Way::Without { item, at } => return Some((item + 1, at)),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
