//! Redis globs over bytes: `*` any run, `?` one byte, `[a-z]`, `[^a-z]`, `\x` the byte x.
//!
//! Matching keeps the place of the last `*` only and starts again from there, so the work is at most pattern length
//! times text length, whatever the pattern (a recursive matcher is exponential in the number of stars).
//!
//! Where patterns are malformed we do as Redis does: a class without its `]` ends with the pattern, a `\` at the very
//! end stands for itself, the ends of a range may come in either order.

/// True if the whole `text` matches.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Pattern position behind the last star, and the text position its run was last tried up to.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if p < pattern.len()
            && let (true, next) = one(pattern, p, text[t])
        {
            (p, t) = (next, t + 1);
            continue;
        }
        // Only the last star need be tried again: an earlier one could give this text to a later star just as well.
        let Some((behind, run)) = star else { return false };
        (p, t) = (behind, run + 1);
        star = Some((behind, run + 1));
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The bytes with which every match must begin, and whether the pattern is nothing but them.
#[must_use]
pub fn literal_prefix(pattern: &[u8]) -> (Vec<u8>, bool) {
    let mut prefix = Vec::with_capacity(pattern.len());
    let mut p = 0;
    while p < pattern.len() {
        match pattern[p] {
            b'*' | b'?' | b'[' => return (prefix, false),
            b'\\' if p + 1 < pattern.len() => {
                prefix.push(pattern[p + 1]);
                p += 2;
            }
            byte => {
                prefix.push(byte);
                p += 1;
            }
        }
    }
    (prefix, true)
}

/// Whether the pattern element at `p`, which is not a star, matches `byte`, and where the next element begins.
fn one(pattern: &[u8], p: usize, byte: u8) -> (bool, usize) {
    match pattern[p] {
        b'?' => (true, p + 1),
        b'[' => class(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte, p + 2),
        literal => (literal == byte, p + 1),
    }
}

/// The class whose first byte behind `[` is at `p`.
fn class(pattern: &[u8], mut p: usize, byte: u8) -> (bool, usize) {
    let negated = pattern.get(p) == Some(&b'^');
    if negated {
        p += 1;
    }
    let mut found = false;
    while p < pattern.len() && pattern[p] != b']' {
        let mut low = pattern[p];
        if low == b'\\' && p + 1 < pattern.len() {
            p += 1;
            low = pattern[p];
            found |= low == byte;
            p += 1;
            continue;
        }
        if pattern.get(p + 1) == Some(&b'-') && p + 2 < pattern.len() {
            let mut high = pattern[p + 2];
            if low > high {
                std::mem::swap(&mut low, &mut high);
            }
            found |= (low..=high).contains(&byte);
            p += 3;
        } else {
            found |= low == byte;
            p += 1;
        }
    }
    // Step over the `]`, or stay at the end of a class that lacks it.
    (found != negated, (p + 1).min(pattern.len()))
}

#[cfg(test)]
mod tests;
