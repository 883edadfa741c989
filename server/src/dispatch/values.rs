//! Views of stored values: parts, bits, common subsequences, payloads, deadlines. Pure.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::clock::UnixMs;
use crate::command::{Lcs, Span, View, rdb};
use crate::resp::Reply;
use crate::store::bits;

/// Cells of the table that LCS fills at most, 4 bytes each; Redis has such a limit too.
const LCS_CELLS_MAX: usize = 16 << 20;

fn integer(number: u64) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// First and last item of `length` that a span means, as Redis reads it; `None` if there are none.
fn resolve(span: Span, length: u64) -> Option<(u64, u64)> {
    let Span { from, to } = span;
    if from < 0 && to < 0 && from > to {
        return None;
    }
    let place = |at: i64| {
        let back = length.saturating_sub(at.unsigned_abs());
        if at < 0 { back } else { at.unsigned_abs() }
    };
    let (from, to) = (place(from), place(to));
    // From the end backwards past the beginning is the first item.
    let to = to.min(length.saturating_sub(1));
    (length > 0 && from <= to).then_some((from, to))
}

/// Shows one value, missing or not.
pub(super) fn show(value: Option<Bytes>, view: &View) -> Reply {
    let held = value.as_deref().unwrap_or_default();
    match view {
        View::Range(span) => Reply::Bulk(part(&value.clone().unwrap_or_default(), *span)),
        View::Bit(offset) => Reply::Integer(i64::from(bits::get(held, *offset))),
        View::BitCount(span) => integer(bit_count(held, *span)),
        View::BitPosition { bit, from, to, in_bits } => match value {
            None => Reply::Integer(if *bit { -1 } else { 0 }),
            Some(value) => bit_position(&value, *bit, (*from, *to), *in_bits),
        },
        View::Fields(steps) => {
            Reply::Array(steps.iter().map(|step| Reply::Integer(bits::read(held, step.field()))).collect())
        }
        View::Digest => {
            value.map_or(Reply::Nil, |value| Reply::Bulk(format!("{:016x}", xxh3_64(&value)).into()))
        }
        View::Dump => value.map_or(Reply::Nil, |value| Reply::Bulk(rdb::dump(&value))),
        _ => value.map_or(Reply::Nil, Reply::Bulk),
    }
}

fn part(value: &Bytes, span: Span) -> Bytes {
    let range = resolve(span, value.len() as u64)
        .and_then(|(from, to)| Some((usize::try_from(from).ok()?, usize::try_from(to).ok()?)));
    range.map_or_else(Bytes::new, |(from, to)| value.slice(from..=to))
}

fn bit_count(value: &[u8], span: Option<(Span, bool)>) -> u64 {
    let bits = value.len() as u64 * 8;
    let range = match span {
        None => (bits > 0).then(|| (0, bits - 1)),
        Some((span, true)) => resolve(span, bits),
        Some((span, false)) => resolve(span, value.len() as u64).map(|(from, to)| (from * 8, to * 8 + 7)),
    };
    range.map_or(0, |(from, to)| bits::count(value, from, to))
}

fn bit_position(value: &[u8], bit: bool, (from, to): (i64, Option<i64>), in_bits: bool) -> Reply {
    let length = value.len() as u64;
    let items = if in_bits { length * 8 } else { length };
    let last = to.unwrap_or(i64::MAX);
    let Some((from, to_item)) = resolve_one_sided(Span { from, to: last }, items) else {
        return Reply::Integer(-1);
    };
    let (first, last) = if in_bits { (from, to_item) } else { (from * 8, to_item * 8 + 7) };
    match bits::find(value, bit, first, last) {
        Some(at) => integer(at),
        // Behind a string without an end come zeros.
        None if !bit && to.is_none() => integer(length * 8),
        None => Reply::Integer(-1),
    }
}

/// As [`resolve`], but BITPOS does not treat two negative ends apart.
fn resolve_one_sided(span: Span, length: u64) -> Option<(u64, u64)> {
    let place = |at: i64| if at < 0 { length.saturating_sub(at.unsigned_abs()) } else { at.unsigned_abs() };
    let (from, to) = (place(span.from), place(span.to).min(length.saturating_sub(1)));
    (length > 0 && from <= to).then_some((from, to))
}

/// TTL, PTTL, EXPIRETIME, PEXPIRETIME.
#[allow(clippy::option_option, reason = "a key may be missing, and may have no deadline")]
pub(super) fn deadline(deadline: Option<Option<UnixMs>>, now: UnixMs, view: &View) -> Reply {
    let View::Deadline { seconds, absolute } = view else { return Reply::Nil };
    let deadline = match deadline {
        None => return Reply::Integer(-2),
        Some(None) => return Reply::Integer(-1),
        Some(Some(deadline)) => deadline,
    };
    let ms = if *absolute { deadline.0 } else { deadline.0.saturating_sub(now.0) };
    integer(if *seconds { ms.saturating_add(500) / 1000 } else { ms })
}

/// LCS of the two values of an MGET.
pub(super) fn lcs(values: &[Option<Bytes>], view: &View) -> Reply {
    let (View::Lcs(wanted), [one, two]) = (view, values) else { return Reply::Nil };
    let (one, two) = (one.as_deref().unwrap_or_default(), two.as_deref().unwrap_or_default());
    let cells = (one.len() + 1).saturating_mul(two.len() + 1);
    if cells > LCS_CELLS_MAX {
        let text = "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len";
        return Reply::Error(text.to_owned());
    }
    let table = Table::new(one, two);
    if wanted.length {
        return Reply::Integer(i64::from(table.at(one.len(), two.len())));
    }
    let (common, places) = table.walk(one, two);
    if !wanted.places {
        return Reply::Bulk(common.into());
    }
    let bulk = |text: &'static str| Reply::Bulk(Bytes::from_static(text.as_bytes()));
    let places = places.into_iter().filter(|place| place.length >= wanted.shortest);
    Reply::Map(vec![
        (bulk("matches"), Reply::Array(places.map(|place| place.reply(*wanted)).collect())),
        (bulk("len"), Reply::Integer(i64::from(table.at(one.len(), two.len())))),
    ])
}

/// A common stretch: last position in each, and its length.
struct Place {
    one: u64,
    two: u64,
    length: u64,
}

impl Place {
    fn reply(&self, wanted: Lcs) -> Reply {
        let range = |last: u64| Reply::Array(vec![integer(last + 1 - self.length), integer(last)]);
        let mut items = vec![range(self.one), range(self.two)];
        if wanted.with_lengths {
            items.push(integer(self.length));
        }
        Reply::Array(items)
    }
}

/// Lengths of the longest common subsequence of all pairs of beginnings.
struct Table {
    width: usize,
    cells: Vec<u32>,
}

impl Table {
    fn new(one: &[u8], two: &[u8]) -> Self {
        let width = two.len() + 1;
        let mut table = Self { width, cells: vec![0; (one.len() + 1) * width] };
        for (i, a) in one.iter().enumerate() {
            for (j, b) in two.iter().enumerate() {
                let length =
                    if a == b { table.at(i, j) + 1 } else { table.at(i, j + 1).max(table.at(i + 1, j)) };
                table.cells[(i + 1) * width + j + 1] = length;
            }
        }
        table
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells[i * self.width + j]
    }

    /// The subsequence, and its stretches from the last to the first, as Redis walks.
    fn walk(&self, one: &[u8], two: &[u8]) -> (Vec<u8>, Vec<Place>) {
        let (mut i, mut j) = (one.len(), two.len());
        let (mut common, mut places): (Vec<u8>, Vec<Place>) = (Vec::new(), Vec::new());
        let mut goes_on = false;
        while i > 0 && j > 0 {
            if one[i - 1] == two[j - 1] {
                common.push(one[i - 1]);
                match places.last_mut().filter(|_| goes_on) {
                    Some(place) => place.length += 1,
                    None => places.push(Place { one: i as u64 - 1, two: j as u64 - 1, length: 1 }),
                }
                goes_on = true;
                (i, j) = (i - 1, j - 1);
            } else {
                goes_on = false;
                if self.at(i - 1, j) > self.at(i, j - 1) { i -= 1 } else { j -= 1 }
            }
        }
        common.reverse();
        (common, places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_redis_reads_them() {
        let resolved = |from, to, length| resolve(Span { from, to }, length);
        assert_eq!(resolved(0, -1, 5), Some((0, 4)));
        assert_eq!(resolved(-3, -1, 5), Some((2, 4)));
        assert_eq!(resolved(-1, -3, 5), None);
        assert_eq!(resolved(-100, -90, 5), Some((0, 0)), "both ends before the beginning are the beginning");
        assert_eq!(resolved(2, 1, 5), None);
        assert_eq!(resolved(5, 10, 5), None);
        assert_eq!(resolved(0, i64::MAX, 5), Some((0, 4)));
        assert_eq!(resolved(i64::MIN, i64::MAX, 5), Some((0, 4)));
        assert_eq!(resolved(0, 0, 0), None);
    }

    #[test]
    fn what_is_left_is_rounded_to_the_next_second() {
        let view = |seconds: bool, absolute: bool| View::Deadline { seconds, absolute };
        let left = |ms: u64, view| deadline(Some(Some(UnixMs(10_000 + ms))), UnixMs(10_000), &view);
        assert_eq!(left(1499, view(true, false)), Reply::Integer(1));
        assert_eq!(left(1500, view(true, false)), Reply::Integer(2));
        assert_eq!(left(1500, view(false, false)), Reply::Integer(1500));
        assert_eq!(left(1500, view(false, true)), Reply::Integer(11_500));
        assert_eq!(deadline(Some(None), UnixMs(1), &view(true, false)), Reply::Integer(-1));
        assert_eq!(deadline(None, UnixMs(1), &view(true, false)), Reply::Integer(-2));
    }
}
