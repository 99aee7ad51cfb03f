//! How single words are understood: distribution's durations, YAML 1.1's booleans, addresses, sizes.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use regex::Regex;
use rustls::CipherSuite;

use super::{Address, LogFormat, LogLevel};

/// Something that is written as one word.
pub(super) trait Value: Sized {
    /// Says what it is, as in "a duration".
    fn noun() -> String;
    /// Says what to write instead, as in `try "10s"`.
    fn remedy(text: &str) -> String;
    /// Understands a word.
    fn parse(text: &str) -> Option<Self>;
    /// Writes it as it could be typed.
    fn show(&self) -> String;
}

/// Something that is one of a few words.
pub(super) trait Choice: Copy + PartialEq + 'static {
    /// The words; of several for one thing the first is how it is shown.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Choice> Value for T {
    fn noun() -> String {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        format!("one of {}", words.join(", "))
    }

    fn remedy(text: &str) -> String {
        let near = T::WORDS.iter().max_by(|(one, _), (other, _)| {
            let likeness = |word: &str| strsim::jaro_winkler(word, &text.to_lowercase());
            likeness(one).total_cmp(&likeness(other))
        });
        near.map_or_else(String::new, |(word, _)| format!("try \"{word}\""))
    }

    fn parse(text: &str) -> Option<Self> {
        T::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
    }

    fn show(&self) -> String {
        T::WORDS
            .iter()
            .find(|(_, value)| value == self)
            .map_or_else(String::new, |(word, _)| (*word).to_owned())
    }
}

impl Choice for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("warning", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
    ];
}

impl Choice for LogFormat {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("text", Self::Text), ("json", Self::Json), ("logstash", Self::Json)];
}

impl Value for String {
    fn noun() -> String {
        "text".to_owned()
    }

    fn remedy(_: &str) -> String {
        "write a word".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Value for PathBuf {
    fn noun() -> String {
        "a path".to_owned()
    }

    fn remedy(_: &str) -> String {
        "name a file or folder".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.contains('\0')).then(|| Self::from(text))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for bool {
    fn noun() -> String {
        "true or false".to_owned()
    }

    fn remedy(_: &str) -> String {
        "write true or false".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" => Some(true),
            "false" | "no" | "n" | "off" => Some(false),
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for usize {
    fn noun() -> String {
        "a whole number".to_owned()
    }

    fn remedy(_: &str) -> String {
        "write 0 or more, in digits".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.replace('_', "").parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for NonZeroUsize {
    fn noun() -> String {
        "a whole number above 0".to_owned()
    }

    fn remedy(_: &str) -> String {
        "write 1 or more, in digits".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        usize::parse(text).and_then(Self::new)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A number of bytes: `65536` or `64KiB`.
#[derive(Clone, Copy)]
pub(super) struct Size(pub(super) usize);

const UNITS_OF_SIZE: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl Value for Size {
    fn noun() -> String {
        "a size".to_owned()
    }

    fn remedy(_: &str) -> String {
        "try \"32MiB\", or bytes in digits".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        for (unit, bytes) in UNITS_OF_SIZE {
            if let Some(number) = text.strip_suffix(unit) {
                return number.trim().parse::<usize>().ok()?.checked_mul(bytes).map(Self);
            }
        }
        usize::parse(text).map(Self)
    }

    fn show(&self) -> String {
        let unit = UNITS_OF_SIZE.iter().find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes));
        unit.map_or_else(|| self.0.to_string(), |(unit, bytes)| format!("{}{unit}", self.0 / bytes))
    }
}

/// A number of bytes that is not 0.
#[derive(Clone, Copy)]
pub(super) struct NonZeroSize(pub(super) NonZeroUsize);

impl Value for NonZeroSize {
    fn noun() -> String {
        "a size above 0".to_owned()
    }

    fn remedy(text: &str) -> String {
        Size::remedy(text)
    }

    fn parse(text: &str) -> Option<Self> {
        NonZeroUsize::new(Size::parse(text)?.0).map(Self)
    }

    fn show(&self) -> String {
        Size(self.0.get()).show()
    }
}

const UNITS_OF_TIME: [(&str, u64); 8] = [
    ("h", 3_600_000_000_000),
    ("ms", 1_000_000),
    ("m", 60_000_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ns", 1),
    ("s", 1_000_000_000),
];

/// Go's durations: `1h30m`, `1.5s`, `0`. A bare number is nanoseconds, which nobody means below a millisecond.
impl Value for Duration {
    fn noun() -> String {
        "a duration".to_owned()
    }

    fn remedy(text: &str) -> String {
        let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number = number.parse::<u32>().ok();
        match (number, unit.trim().chars().next()) {
            (Some(number), Some('d')) => format!("try \"{}h\"", u64::from(number) * 24),
            (Some(number), Some('w')) => format!("try \"{}h\"", u64::from(number) * 168),
            (Some(number), None) => format!("without a unit it would be nanoseconds; try \"{number}s\""),
            _ => "try \"10s\", \"1m30s\" or \"168h\"".to_owned(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Ok(nanoseconds) = text.parse::<u64>() {
            return (nanoseconds == 0 || nanoseconds >= 1_000_000).then(|| Self::from_nanos(nanoseconds));
        }
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
            let (number, after) = rest.split_at(digits);
            let (unit, nanoseconds) = UNITS_OF_TIME.iter().find(|(unit, _)| after.starts_with(unit))?;
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if whole.is_empty() && fraction.is_empty() {
                return None;
            }
            let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
            total = total.checked_add(whole.checked_mul(*nanoseconds)?)?;
            let mut place = *nanoseconds;
            for digit in fraction.chars() {
                place /= 10;
                total = total.checked_add(u64::from(digit.to_digit(10)?) * place)?;
            }
            rest = &after[unit.len()..];
        }
        (!text.is_empty()).then(|| Self::from_nanos(total))
    }

    fn show(&self) -> String {
        let mut rest = self.as_nanos();
        let mut shown = String::new();
        for (unit, nanoseconds) in [
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("ns", 1),
        ] {
            if rest >= nanoseconds {
                shown.push_str(&format!("{}{unit}", rest / nanoseconds));
                rest %= nanoseconds;
            }
        }
        if shown.is_empty() { "0s".to_owned() } else { shown }
    }
}

impl Value for Address {
    fn noun() -> String {
        "an address".to_owned()
    }

    fn remedy(text: &str) -> String {
        if text.parse::<u16>().is_ok() {
            format!("try \":{text}\"")
        } else {
            "try \":5000\", \"127.0.0.1:5000\", \"[::1]:5000\" or \"/run/wharf.sock\"".to_owned()
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return PathBuf::parse(path).map(Self::Unix);
        }
        if text.starts_with('/') {
            return PathBuf::parse(text).map(Self::Unix);
        }
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().ok()?,
            None if host.is_empty() => return Some(Self::EveryInterface { port }),
            None if host.contains([':', '[', ']', '/', ' ']) => return None,
            None => return Some(Self::Tcp { host: host.to_owned(), port }),
        };
        bracketed.map(|address| Self::Tcp { host: address.to_owned(), port })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Uri {
    fn noun() -> String {
        "a URL".to_owned()
    }

    fn remedy(text: &str) -> String {
        if text.contains("://") {
            "try \"https://registry.example\"".to_owned()
        } else {
            "begin it with https:// or http://".to_owned()
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let uri: Self = text.parse().ok()?;
        (matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()).then_some(uri)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Regex {
    fn noun() -> String {
        "a regular expression".to_owned()
    }

    fn remedy(text: &str) -> String {
        Regex::new(text).err().map_or_else(String::new, |error| {
            // The message draws the pattern over several lines; the last one says what is wrong.
            error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        })
    }

    fn parse(text: &str) -> Option<Self> {
        Self::new(text).ok()
    }

    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

impl Value for HeaderName {
    fn noun() -> String {
        "a header's name".to_owned()
    }

    fn remedy(_: &str) -> String {
        "try \"X-Content-Type-Options\"".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for HeaderValue {
    fn noun() -> String {
        "a header's value".to_owned()
    }

    fn remedy(_: &str) -> String {
        "write it on one line, without control characters".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        Self::from_str(text).ok()
    }

    fn show(&self) -> String {
        String::from_utf8_lossy(self.as_bytes()).into_owned()
    }
}

/// An absolute path of a URL, without a slash at its end: `/so/me/thing`, or nothing for the root.
#[derive(Clone)]
pub(super) struct UrlPath(pub(super) String);

impl Value for UrlPath {
    fn noun() -> String {
        "a path of a URL".to_owned()
    }

    fn remedy(text: &str) -> String {
        if text.starts_with('/') { "try \"/registry\"".to_owned() } else { format!("try \"/{text}\"") }
    }

    fn parse(text: &str) -> Option<Self> {
        let path = text.trim_end_matches('/');
        let plain = |letter: u8| letter.is_ascii_alphanumeric() || b"/-._~".contains(&letter);
        ((path.is_empty() || path.starts_with('/')) && path.bytes().all(plain)).then(|| Self(path.to_owned()))
    }

    fn show(&self) -> String {
        if self.0.is_empty() { "/".to_owned() } else { self.0.clone() }
    }
}

/// The suites of TLS 1.2 that are safe, in Go's and IANA's names.
const SAFE_SUITES: [(&str, CipherSuite); 6] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// What an operator wrote for a cipher suite.
#[derive(Clone, Copy)]
pub(super) enum Suite {
    /// One of TLS 1.2 that Wharf has.
    Safe(CipherSuite),
    /// One of TLS 1.3, which are always offered.
    Always,
    /// One that Go knows and Wharf does not offer, such as all with CBC.
    Missing,
}

impl Value for Suite {
    fn noun() -> String {
        "a cipher suite".to_owned()
    }

    fn remedy(text: &str) -> String {
        let near = SAFE_SUITES.iter().max_by(|(one, _), (other, _)| {
            let likeness = |name: &str| strsim::jaro_winkler(name, text);
            likeness(one).total_cmp(&likeness(other))
        });
        near.map_or_else(String::new, |(name, _)| format!("try \"{name}\""))
    }

    fn parse(text: &str) -> Option<Self> {
        // Go shortens the names of the ChaCha suites, and takes both forms.
        let short = text.strip_suffix("_SHA256").filter(|short| short.ends_with("POLY1305")).unwrap_or(text);
        if let Some((_, suite)) = SAFE_SUITES.iter().find(|(name, _)| *name == short) {
            Some(Self::Safe(*suite))
        } else if matches!(
            short,
            "TLS_AES_128_GCM_SHA256" | "TLS_AES_256_GCM_SHA384" | "TLS_CHACHA20_POLY1305"
        ) {
            Some(Self::Always)
        } else {
            (text.starts_with("TLS_RSA_WITH_") || text.starts_with("TLS_ECDHE_")).then_some(Self::Missing)
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Safe(suite) => suite.as_str().unwrap_or_default().to_owned(),
            Self::Always => "one of TLS 1.3".to_owned(),
            Self::Missing => "not offered".to_owned(),
        }
    }
}

/// Joins words as a YAML list.
pub(super) fn list<T: Display>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    format!("[{}]", words.join(", "))
}

/// Writes a word so that YAML reads that word again.
pub(super) fn quoted(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+".contains(letter);
    let first = |letter: char| letter.is_ascii_alphanumeric() || letter == '/' || letter == '.';
    if text.chars().all(plain) && text.starts_with(first) && text != "null" {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let duration = |text: &str| Duration::parse(text).map(|duration| duration.as_millis());
        assert_eq!(duration("1h30m"), Some(5_400_000));
        assert_eq!(duration("1.5s"), Some(1_500));
        assert_eq!(duration(".5m"), Some(30_000));
        assert_eq!(duration("10000000"), Some(10), "a bare number is nanoseconds");
        assert_eq!(duration("0"), Some(0));
        for wrong in ["", "1", "30", "-1s", "1.2.3s", ".s", "s", "1d", "1h 30m", "9999999999h"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        assert_eq!(Duration::remedy("30"), "without a unit it would be nanoseconds; try \"30s\"");
        assert_eq!(Duration::remedy("2 weeks"), "try \"336h\"");
        assert_eq!(Duration::from_millis(5_400_500).show(), "1h30m500ms");
    }

    #[test]
    fn booleans_are_those_of_yaml_1_1() {
        assert!(["true", "True", "yes", "on", "y"].iter().all(|word| bool::parse(word) == Some(true)));
        assert!(["false", "NO", "off", "n"].iter().all(|word| bool::parse(word) == Some(false)));
        assert_eq!(bool::parse("1"), None);
    }

    #[test]
    fn addresses_are_understood_as_they_are_shown() {
        for address in [":5000", "127.0.0.1:5000", "[::1]:5000", "registry.example:80", "/run/wharf.sock"] {
            assert_eq!(Address::parse(address).unwrap().show(), address);
        }
        for wrong in ["5000", "localhost", "::1:5000", "[localhost]:1", ":70000", "http://x:1", ""] {
            assert_eq!(Address::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Address::remedy("5000"), "try \":5000\"");
    }

    #[test]
    fn sizes_have_units() {
        let size = |text: &str| Size::parse(text).map(|size| size.0);
        assert_eq!((size("64KiB"), size("2 MiB"), size("1_000")), (Some(65_536), Some(2 << 20), Some(1000)));
        assert_eq!((size("1.5MiB"), size("-1"), size("99999999999999999999GiB")), (None, None, None));
        assert_eq!((Size(65_536).show(), Size(1000).show()), ("64KiB".to_owned(), "1000".to_owned()));
    }
}
