//! What options take: sizes, rates, durations, ranges, as people write them.

use std::net::SocketAddr;
use std::time::Duration;

use dft_protocol::geometry::PieceSize;
use dft_protocol::wire::Site;
use dft_tracker::catalogue::node::{HOST_NAME_LEN_MAX, HostName};

/// Below this a piece takes longer than any peer waits for it.
const RATE_MIN: u64 = 1024;

/// A rate in bytes per second; `None` for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRate(pub Option<u64>);

/// Bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    /// The first one.
    pub from: u64,
    /// The one behind the last; the end of the file where it is not given.
    pub to: Option<u64>,
}

/// «100-200», «100-», «-200», each number with K, M, G or T where that helps.
pub(super) fn parse_range(text: &str) -> Result<ByteRange, String> {
    let (from, to) = text.split_once('-').ok_or("a range is A-B, A- or -B")?;
    let number = |text: &str| if text.is_empty() { Ok(None) } else { parse_size(text).map(Some) };
    let (from, to) = (number(from)?.unwrap_or(0), number(to)?);
    if to.is_some_and(|to| to < from) {
        return Err("a range does not end before it begins".into());
    }
    Ok(ByteRange { from, to })
}

pub(super) fn parse_socket_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "it is IP:PORT, for example 0.0.0.0:4711 or [::]:4711".into())
}

pub(super) fn parse_site(text: &str) -> Result<Site, String> {
    Site::new(text).ok_or_else(|| "a site is 1 to 64 printable ASCII characters without spaces".into())
}

pub(super) fn parse_node_name(text: &str) -> Result<String, String> {
    let name = HostName::new(text).map(|name| name.to_string());
    name.ok_or_else(|| format!("a node's name is 1 to {HOST_NAME_LEN_MAX} bytes of printable text"))
}

/// A manifest id, or its beginning as `ls -l` prints it.
pub(super) fn parse_id(text: &str) -> Result<String, String> {
    const DIGITS_MIN: usize = 8;
    const DIGITS_MAX: usize = 64;
    let is_hex = text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hex && (DIGITS_MIN..=DIGITS_MAX).contains(&text.len()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!("an id is {DIGITS_MIN} to {DIGITS_MAX} hexadecimal digits, as dft ls -l prints them"))
    }
}

pub(super) fn parse_piece_size(text: &str) -> Result<PieceSize, String> {
    PieceSize::new(parse_size(text)?).map_err(|error| error.to_string())
}

/// «30», «30s», «5m», «1h 30m»: a number alone is seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; for example 30s, 5m, 1h"))
}

/// A size that is not 0.
pub(super) fn parse_some_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("it is at least 1 byte".into()),
        size => Ok(size),
    }
}

/// «65536», «64K», «64KiB», «16M», «1G»: powers of 1024.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("a size is a number and K, M, G or T".into()),
    };
    let number: u64 = number.parse().map_err(|_| "a size is a number and K, M, G or T".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "the size is too large".into())
}

/// «50M», «50M/s», «50MiB/s»: bytes, powers of 1024; «400Mbit», «400Mbit/s»: bits, powers of 1000;
/// «off».
pub(super) fn parse_rate(text: &str) -> Result<ByteRate, String> {
    const FORM: &str = "a rate is bytes per second as 50M, bits as 400Mbit, or off";
    let lower = text.trim().to_ascii_lowercase();
    if lower == "off" {
        return Ok(ByteRate(None));
    }
    let amount = lower.strip_suffix("/s").unwrap_or(&lower);
    let rate = match amount.strip_suffix("bit") {
        None => parse_size(amount).map_err(|_| FORM.to_owned())?,
        Some(bits) => {
            let digits = bits.trim_end_matches(['k', 'm', 'g']);
            let factor: u64 = match &bits[digits.len()..] {
                "" => 1,
                "k" => 1_000,
                "m" => 1_000_000,
                "g" => 1_000_000_000,
                _ => return Err(FORM.into()),
            };
            let number: u64 = digits.trim().parse().map_err(|_| FORM.to_owned())?;
            number.checked_mul(factor).ok_or("the rate is too large")? / 8
        }
    };
    if rate < RATE_MIN {
        return Err(format!("a rate is at least {RATE_MIN} bytes per second; off is no limit"));
    }
    Ok(ByteRate(Some(rate)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, rate) in [
            ("1024", 1024),
            ("50M", 50 << 20),
            ("50MiB/s", 50 << 20),
            ("100k/s", 100 << 10),
            ("50Mbit", 6_250_000),
            ("1gbit/s", 125_000_000),
        ] {
            assert_eq!(parse_rate(text), Ok(ByteRate(Some(rate))), "{text}");
        }
        assert_eq!(parse_rate("off"), Ok(ByteRate(None)));
        for text in ["", "0", "1", "fast", "-5M", "5Mbyte", "5kkbit", "bit", "99999999999Gbit", "1.5M"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_are_read_as_people_write_them() {
        for (text, from, to) in [("1-2", 1, Some(2)), ("1K-", 1024, None), ("-5", 0, Some(5)), ("-", 0, None)]
        {
            assert_eq!(parse_range(text), Ok(ByteRange { from, to }), "{text}");
        }
        for text in ["", "5", "2-1", "a-b", "1-2-3"] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_whole_or_long_enough_to_tell_apart() {
        assert_eq!(parse_id("8608EE83508c"), Ok("8608ee83508c".into()));
        for text in ["", "8608ee8", "8608ee83508g", &"0".repeat(65)] {
            assert!(parse_id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_durations_are_read_as_people_write_them() {
        for (text, bytes) in [("0", 0), ("65536", 65536), ("64K", 65536), ("64KiB", 65536), ("1m", 1 << 20)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1.5M", "1X", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert!(parse_duration("soon").is_err());
    }
}
