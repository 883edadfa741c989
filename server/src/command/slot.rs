//! Redis Cluster's hash slot of a key, needed for `-MOVED` and CLUSTER KEYSLOT.
//!
//! Source: Redis Cluster specification, appendix A (CRC-16/XMODEM) and "Hash tags".

/// Slots of a Redis Cluster.
pub const SLOTS: u16 = 16384;

const TABLE: [u16; 256] = table();

/// One step per byte: polynomial 0x1021, not reflected, initial value 0.
#[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "the index runs from 0 to 255")]
const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// CRC-16/XMODEM.
#[expect(clippy::indexing_slicing, reason = "a byte indexes 256 entries")]
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// Slot of a key, 0 to 16383. With a non-empty `{tag}` only the first tag counts.
#[must_use]
pub fn of(key: &[u8]) -> u16 {
    crc16(tag(key).unwrap_or(key)) % SLOTS
}

fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = key.get(open + 1..)?;
    let close = rest.iter().position(|byte| *byte == b'}')?;
    if close == 0 { None } else { rest.get(..close) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(of(b""), 0);
        assert_eq!(of(b"foo"), 12182);
        assert_eq!(of(b"somekey"), 11058);
    }

    #[test]
    fn only_the_first_non_empty_tag_counts() {
        assert_eq!(of(b"{user1000}.following"), of(b"user1000"));
        assert_eq!(of(b"foo{bar}{zap}"), of(b"bar"));
        assert_eq!(of(b"foo{{bar}}zap"), of(b"{bar"));
        assert_ne!(of(b"foo{}{bar}"), of(b"bar"));
        assert_eq!(of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
    }
}
