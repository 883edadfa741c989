//! Bits and bit fields of a string, as Redis counts them: bit 0 is the highest bit of byte 0, and behind the end all
//! bits are 0.

use bytes::BytesMut;

use super::change::{Field, FieldStep, Overflow};

/// One bit.
#[must_use]
pub fn get(value: &[u8], offset: u64) -> bool {
    let byte = usize::try_from(offset / 8).ok().and_then(|at| value.get(at)).copied().unwrap_or(0);
    byte >> (7 - offset % 8) & 1 == 1
}

/// Sets one bit, growing the string as needed. Precondition: the caller has bounded the offset.
pub(crate) fn set(value: &mut BytesMut, offset: u64, bit: bool) {
    let Ok(at) = usize::try_from(offset / 8) else { return };
    if at >= value.len() {
        value.resize(at + 1, 0);
    }
    let mask = 1_u8 << (7 - offset % 8);
    if bit { value[at] |= mask } else { value[at] &= !mask }
}

/// The number in a field.
#[must_use]
pub fn read(value: &[u8], field: Field) -> i64 {
    let bits = (0..u64::from(field.bits)).map(|at| u64::from(get(value, field.offset + at)));
    let raw = bits.fold(0_u64, |number, bit| number << 1 | bit);
    number(raw, field)
}

/// Reads the low bits of `raw` as the field does.
#[allow(clippy::cast_possible_wrap, reason = "two's complement is meant")]
fn number(raw: u64, field: Field) -> i64 {
    let unused = 64 - u32::from(field.bits);
    if field.signed { (raw << unused) as i64 >> unused } else { raw as i64 }
}

#[allow(clippy::cast_sign_loss, reason = "two's complement is meant")]
fn write(value: &mut BytesMut, field: Field, number: i64) {
    for at in 0..u64::from(field.bits) {
        let bit = (number as u64) >> (u64::from(field.bits) - 1 - at) & 1 == 1;
        set(value, field.offset + at, bit);
    }
}

/// What a number becomes in a field; `None` if it does not fit and that is a failure.
#[allow(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
fn fit(wanted: i128, field: Field, overflow: Overflow) -> Option<i64> {
    let bits = u32::from(field.bits);
    let (low, high) = if field.signed {
        (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1)
    } else {
        (0, (1_i128 << bits) - 1)
    };
    if (low..=high).contains(&wanted) {
        return i64::try_from(wanted).ok();
    }
    match overflow {
        Overflow::Wrap => {
            let mask = if bits == 64 { u64::MAX } else { (1_u64 << bits) - 1 };
            #[allow(clippy::cast_sign_loss, reason = "two's complement is meant")]
            let raw = wanted as u64 & mask;
            Some(number(raw, field))
        }
        Overflow::Saturate => i64::try_from(wanted.clamp(low, high)).ok(),
        Overflow::Fail => None,
    }
}

/// Performs the steps of a BITFIELD; an answer per step, and whether anything was written.
pub(crate) fn fields(value: &mut BytesMut, steps: &[FieldStep]) -> (Vec<Option<i64>>, bool) {
    let mut changed = false;
    let mut answers = Vec::with_capacity(steps.len());
    // As in Redis, the string grows to the highest field that is written, even if the write fails.
    let writes = steps.iter().filter(|step| !matches!(step, FieldStep::Get(_)));
    let end = writes.map(|step| (step.field().offset + u64::from(step.field().bits)).div_ceil(8)).max();
    if let Some(end) = end.and_then(|end| usize::try_from(end).ok())
        && end > value.len()
    {
        value.resize(end, 0);
        changed = true;
    }
    for step in steps {
        let before = read(value, step.field());
        answers.push(match step {
            FieldStep::Get(_) => Some(before),
            FieldStep::Set(field, wanted, overflow) => {
                // As Redis, which takes the number for an unsigned one where the field is.
                #[allow(clippy::cast_sign_loss, reason = "two's complement is meant")]
                let wanted = if field.signed { i128::from(*wanted) } else { i128::from(*wanted as u64) };
                fit(wanted, *field, *overflow).map(|number| {
                    write(value, *field, number);
                    changed = true;
                    before
                })
            }
            FieldStep::Add(field, by, overflow) => {
                fit(i128::from(before) + i128::from(*by), *field, *overflow).inspect(|number| {
                    write(value, *field, *number);
                    changed = true;
                })
            }
        });
    }
    (answers, changed)
}

/// Number of 1 bits among the bits `from..=to` of a string that is long enough.
#[must_use]
pub fn count(value: &[u8], from: u64, to: u64) -> u64 {
    let (Ok(first), Ok(last)) = (usize::try_from(from / 8), usize::try_from(to / 8)) else { return 0 };
    let Some(bytes) = value.get(first..=last) else { return 0 };
    let all: u64 = bytes.iter().map(|byte| u64::from(byte.count_ones())).sum();
    let before = (first as u64 * 8..from).filter(|at| get(value, *at)).count() as u64;
    let after = (to + 1..(last as u64 + 1) * 8).filter(|at| get(value, *at)).count() as u64;
    all - before - after
}

/// The first bit of this value among the bits `from..=to` of a string that is long enough.
#[must_use]
pub fn find(value: &[u8], bit: bool, from: u64, to: u64) -> Option<u64> {
    let skip = if bit { 0x00 } else { 0xff };
    let mut at = from;
    while at <= to {
        if at.is_multiple_of(8)
            && usize::try_from(at / 8).ok().and_then(|byte| value.get(byte)) == Some(&skip)
        {
            at += 8;
            continue;
        }
        if get(value, at) == bit {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// BITOP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BitOperation {
    /// All.
    And = 0,
    /// Any.
    Or = 1,
    /// An odd number.
    Xor = 2,
    /// The opposite of the only one.
    Not = 3,
}

/// Combines strings; shorter ones go on with zeros.
#[must_use]
pub fn combine(operation: BitOperation, values: &[&[u8]]) -> Vec<u8> {
    let length = values.iter().map(|value| value.len()).max().unwrap_or(0);
    let Some((first, rest)) = values.split_first() else { return Vec::new() };
    let mut out = first.to_vec();
    out.resize(length, 0);
    if operation == BitOperation::Not {
        for byte in &mut out {
            *byte = !*byte;
        }
    }
    for value in rest {
        for (at, byte) in out.iter_mut().enumerate() {
            let other = value.get(at).copied().unwrap_or(0);
            match operation {
                BitOperation::And => *byte &= other,
                BitOperation::Or => *byte |= other,
                BitOperation::Xor => *byte ^= other,
                BitOperation::Not => {}
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(signed: bool, bits: u8, offset: u64) -> Field {
        Field { signed, bits, offset }
    }

    #[test]
    fn numbers_of_every_width_come_back() {
        for bits in 1..=64_u8 {
            for offset in [0, 3, 17] {
                let mut value = BytesMut::new();
                let high = if bits == 64 { i64::MAX } else { (1_i64 << (bits - 1)) - 1 };
                for number in [0, -1, high, -high - 1] {
                    write(&mut value, field(true, bits, offset), number);
                    assert_eq!(read(&value, field(true, bits, offset)), number, "i{bits} at {offset}");
                }
                if bits < 64 {
                    write(&mut value, field(false, bits, offset), high);
                    assert_eq!(read(&value, field(false, bits, offset)), high, "u{bits} at {offset}");
                }
            }
        }
    }

    #[test]
    fn overflow_is_handled_as_asked() {
        let (unsigned, signed) = (field(false, 2, 0), field(true, 8, 0));
        assert_eq!(fit(5, unsigned, Overflow::Wrap), Some(1));
        assert_eq!(fit(5, unsigned, Overflow::Saturate), Some(3));
        assert_eq!(fit(5, unsigned, Overflow::Fail), None);
        assert_eq!(fit(-1, unsigned, Overflow::Wrap), Some(3));
        assert_eq!(fit(200, signed, Overflow::Wrap), Some(-56));
        assert_eq!(fit(-200, signed, Overflow::Saturate), Some(-128));
        let widest = field(true, 64, 0);
        assert_eq!(fit(i128::from(i64::MAX) + 1, widest, Overflow::Wrap), Some(i64::MIN));
    }

    #[test]
    fn counts_and_positions_are_those_of_a_plain_walk() {
        let value = [0x00, 0xff, 0x5a, 0x80];
        for from in 0..32 {
            for to in from..32 {
                let ones: Vec<u64> = (from..=to).filter(|at| get(&value, *at)).collect();
                assert_eq!(count(&value, from, to), ones.len() as u64, "{from}..={to}");
                assert_eq!(find(&value, true, from, to), ones.first().copied());
                assert_eq!(find(&value, false, from, to), (from..=to).find(|at| !get(&value, *at)));
            }
        }
    }

    #[test]
    fn shorter_strings_go_on_with_zeros() {
        assert_eq!(combine(BitOperation::And, &[b"\xff\xff", b"\x0f"]), b"\x0f\x00");
        assert_eq!(combine(BitOperation::Or, &[b"\xf0", b"\x0f\x01"]), b"\xff\x01");
        assert_eq!(combine(BitOperation::Xor, &[b"\xff", b"\x0f\x01"]), b"\xf0\x01");
        assert_eq!(combine(BitOperation::Not, &[b"\xf0\x00"]), b"\x0f\xff");
    }
}
