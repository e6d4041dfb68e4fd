//! Limits as a person writes them: `30d`, `500MiB`, `1000000`, `none`.

use anyhow::Result;

use crate::failure::Failure;

/// A number, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(Option<u64>);

impl Limit {
    pub(crate) fn as_option(self) -> Option<u64> {
        self.0
    }

    /// Where `none` makes no sense.
    pub(crate) fn required(self, flag: &str) -> Result<u64> {
        self.0.ok_or_else(|| Failure::usage(format!("{flag} must be a number, not none")))
    }

    /// Milliseconds of `500ms`, `90s`, `15m`, `12h` or `30d`.
    pub(crate) fn parse_age(text: &str) -> Result<Self, String> {
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        scaled(text, &units).ok_or_else(|| {
            format!("{text:?} is not a time; write it as 500ms, 90s, 15m, 12h, 30d or none")
        })
    }

    /// A plain number.
    pub(crate) fn parse_count(text: &str) -> Result<Self, String> {
        scaled(text, &[("", 1)])
            .ok_or_else(|| format!("{text:?} is not a number; write it as 1000000 or none"))
    }

    /// Bytes of `4096`, `512KiB`, `500MiB` or `2GiB`.
    pub(crate) fn parse_size(text: &str) -> Result<Self, String> {
        let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
        scaled(text, &units).ok_or_else(|| {
            format!("{text:?} is not a size; write it as 4096, 512KiB, 500MiB, 2GiB or none")
        })
    }
}

/// The number before the first unit that leaves nothing but digits.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<Limit> {
    if text == "none" {
        return Some(Limit(None));
    }
    units.iter().find_map(|(unit, scale)| {
        let digits = text.strip_suffix(unit)?;
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = if plain { digits.parse().ok()? } else { return None };
        number.checked_mul(*scale).map(|number| Limit(Some(number)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!(Limit::parse_age("30d"), Ok(Limit(Some(2_592_000_000))));
        assert_eq!(Limit::parse_age("500ms"), Ok(Limit(Some(500))));
        assert_eq!(Limit::parse_age("none"), Ok(Limit(None)));
        assert_eq!(Limit::parse_size("2GiB"), Ok(Limit(Some(2 << 30))));
        assert_eq!(Limit::parse_size("77"), Ok(Limit(Some(77))));
        assert_eq!(Limit::parse_count("5"), Ok(Limit(Some(5))));
        for wrong in ["", "5", "d", "-1d", "1.5h"] {
            assert!(Limit::parse_age(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "5MB", "1e3", "99999999999999999GiB"] {
            assert!(Limit::parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
