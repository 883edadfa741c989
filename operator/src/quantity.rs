//! Kubernetes quantities to bytes. Pure.

/// Reads a quantity of bytes: `10Gi`, `1.5G`, `1e9`, `512`. A fraction of a byte counts as a whole one, as it does in
/// Kubernetes. `None` for what is none, is negative, or does not fit.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    // value = digits * factor / divisor
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let mut divisor = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let factor = match suffix {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        "k" => 10u128.pow(3),
        "M" => 10u128.pow(6),
        "G" => 10u128.pow(9),
        "T" => 10u128.pow(12),
        "P" => 10u128.pow(15),
        "E" => 10u128.pow(18),
        "m" => {
            divisor = divisor.checked_mul(1000)?;
            1
        }
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10u128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 {
                divisor = divisor.checked_mul(power)?;
                1
            } else {
                power
            }
        }
    };
    u64::try_from(digits.checked_mul(factor)?.div_ceil(divisor)).ok()
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn every_form_is_read() {
        let table = [
            ("0", 0),
            ("512", 512),
            ("10Gi", 10 << 30),
            ("1.5Gi", 3 << 29),
            (".5Ki", 512),
            ("1k", 1000),
            ("2M", 2_000_000),
            ("1e3", 1000),
            ("1E3", 1000),
            ("1.5e3", 1500),
            ("1500e-3", 2),
            ("1500m", 2),
            ("1E", 1_000_000_000_000_000_000),
            ("8Ei", 8 << 60),
        ];
        for (text, expected) in table {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for wrong in ["", ".", "Gi", "-1", "+1", "1Kib", "1e", "1.2.3", "16Ei", "1 Gi", "1e99"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
