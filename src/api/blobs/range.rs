//! Byte ranges of a blob: what a `Range` header asks for (RFC 9110 §14), and how several ranges travel in one answer.
//!
//! Ranges are merged only where they overlap. Adjacent ones stay apart and the order of the request is kept, because
//! podman's partial pulls tell the parts of an answer by their number and order.

use std::{iter, str};

use axum::http::HeaderValue;
use uuid::Uuid;

/// The most ranges that one request is answered for; a request for more gets the whole blob. Podman asks for up to this many.
const MOST_RANGES: usize = 1024;

/// A run of bytes within a blob: never empty, never past the blob's end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ByteRange {
    first: u64,
    last: u64,
}

impl ByteRange {
    /// The offset of the first byte.
    pub fn start(self) -> u64 {
        self.first
    }

    /// The offset just behind the last byte.
    pub fn end(self) -> u64 {
        self.last + 1
    }

    /// How many bytes there are: at least one.
    pub fn size_bytes(self) -> u64 {
        self.end() - self.first
    }

    /// The value of `Content-Range` for this part of a blob of `size_bytes`.
    pub fn content_range(self, size_bytes: u64) -> String {
        format!("bytes {}-{}/{size_bytes}", self.first, self.last)
    }
}

/// Which bytes of a blob a request selects.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Selection {
    /// All of it: no range was asked for, or none that has a meaning here.
    Whole,
    /// One run of bytes: 206 with `Content-Range`.
    One(ByteRange),
    /// At least two runs of bytes that do not overlap: 206 as `multipart/byteranges`.
    Several(Vec<ByteRange>),
    /// Nothing that was asked for is there: 416.
    Unsatisfiable,
}

impl Selection {
    /// Reads a `Range` header against a blob of `size_bytes`.
    ///
    /// Another unit, malformed ranges or too many of them select the whole blob, as RFC 9110 §14.2 allows; so does
    /// anything asked of an empty blob, which has no byte that a 206 could name. A range that ends before it
    /// begins counts as one that is not there.
    pub fn parse(header: &HeaderValue, size_bytes: u64) -> Self {
        if size_bytes == 0 {
            return Self::Whole;
        }
        let Some(asked) = str::from_utf8(header.as_bytes()).ok().and_then(Asked::parse_header) else {
            return Self::Whole;
        };
        let mut found = merge_overlapping(asked.iter().filter_map(|range| range.within(size_bytes)));
        match found.len() {
            0 => Self::Unsatisfiable,
            1 => Self::One(found.remove(0)),
            _ => Self::Several(found),
        }
    }
}

/// The framing of a `multipart/byteranges` body: what stands before, between and behind the parts' bytes.
#[derive(Clone, Debug)]
pub struct Multipart {
    boundary: String,
    part_type: &'static str,
    size_bytes: u64,
    parts: Vec<ByteRange>,
}

impl Multipart {
    /// Frames `parts` of a blob of `size_bytes`, each labelled as `part_type`. The boundary is random, so that nobody
    /// can push a blob which contains it.
    pub fn new(parts: Vec<ByteRange>, size_bytes: u64, part_type: &'static str) -> Self {
        Self { boundary: Uuid::new_v4().simple().to_string(), part_type, size_bytes, parts }
    }

    /// The parts, in the order in which they are sent.
    pub fn parts(&self) -> &[ByteRange] {
        &self.parts
    }

    /// The value of the answer's `Content-Type`.
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// The exact size of the body, known before any of it is read.
    pub fn content_length(&self) -> u64 {
        let heads = (0..self.parts.len()).map(|index| self.head(index).len() as u64);
        let bytes = self.parts.iter().map(|part| part.size_bytes());
        heads.chain(bytes).chain(iter::once(self.tail().len() as u64)).fold(0, u64::saturating_add)
    }

    /// What precedes the bytes of the part at `index`.
    ///
    /// # Panics
    /// If there is no such part.
    pub fn head(&self, index: usize) -> String {
        let lead = if index == 0 { "" } else { "\r\n" };
        let content_range = self.parts[index].content_range(self.size_bytes);
        format!(
            "{lead}--{}\r\nContent-Type: {}\r\nContent-Range: {content_range}\r\n\r\n",
            self.boundary, self.part_type
        )
    }

    /// What follows the bytes of the last part.
    pub fn tail(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

/// One `range-spec` of RFC 9110 §14.1.1, as asked. A number too large for 64 bits counts as the largest.
#[derive(Clone, Copy)]
enum Asked {
    From { first: u64, last: u64 },
    Suffix(u64),
}

impl Asked {
    /// `None` if this is no list of byte ranges, or a list too long.
    fn parse_header(text: &str) -> Option<Vec<Self>> {
        let (unit, list) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let ranges: Vec<_> = list
            .split(',')
            .map(|range| range.trim_matches([' ', '\t']))
            .filter(|range| !range.is_empty()) // RFC 9110 §5.6.1.2: empty elements of a list do not count.
            .map(Self::parse)
            .take(MOST_RANGES + 1)
            .collect::<Option<_>>()?;
        (1..=MOST_RANGES).contains(&ranges.len()).then_some(ranges)
    }

    fn parse(text: &str) -> Option<Self> {
        match text.split_once('-')? {
            ("", length) => Some(Self::Suffix(parse_number(length)?)),
            (first, "") => Some(Self::From { first: parse_number(first)?, last: u64::MAX }),
            (first, last) => Some(Self::From { first: parse_number(first)?, last: parse_number(last)? }),
        }
    }

    /// The part of this range that lies within a blob of `size_bytes`, which is not 0.
    fn within(self, size_bytes: u64) -> Option<ByteRange> {
        let end = size_bytes - 1;
        let (first, last) = match self {
            Self::From { first, last } => (first, last.min(end)),
            Self::Suffix(0) => return None,
            Self::Suffix(length) => (size_bytes.saturating_sub(length), end),
        };
        (first <= last).then_some(ByteRange { first, last })
    }
}

fn parse_number(digits: &str) -> Option<u64> {
    let well_formed = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Joins ranges that share bytes; the joint range takes the place of the earliest of them.
fn merge_overlapping(ranges: impl Iterator<Item = ByteRange>) -> Vec<ByteRange> {
    let mut placed: Vec<(usize, ByteRange)> = ranges.enumerate().collect();
    placed.sort_by_key(|(_, range)| range.first);
    placed.dedup_by(|(place, range), (kept_place, kept)| {
        let overlap = range.first <= kept.last;
        if overlap {
            kept.last = kept.last.max(range.last);
            *kept_place = (*kept_place).min(*place);
        }
        overlap
    });
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, range)| range).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn select(header: &str, size_bytes: u64) -> Selection {
        Selection::parse(&HeaderValue::from_str(header).unwrap(), size_bytes)
    }

    fn range(first: u64, last: u64) -> ByteRange {
        ByteRange { first, last }
    }

    #[test]
    fn one_range_is_cut_at_the_end_of_the_blob() {
        for (header, first, last) in [
            ("bytes=0-0", 0, 0),
            ("bytes=500-1499", 500, 1499),
            ("bytes=500-", 500, 1999),
            ("bytes=-500", 1500, 1999),
            ("bytes=-5000", 0, 1999),
            ("bytes=1000-5000", 1000, 1999),
            ("bytes=0-99999999999999999999999", 0, 1999),
            ("bytes=-99999999999999999999999", 0, 1999),
            ("Bytes = , 7-9 ,", 7, 9),
            ("bytes=0-1, 9000-", 0, 1),
        ] {
            assert_eq!(select(header, 2000), Selection::One(range(first, last)), "{header}");
        }
    }

    #[test]
    fn what_is_not_there_is_unsatisfiable() {
        for header in [
            "bytes=2000-",
            "bytes=5000-10000",
            "bytes=500-0",
            "bytes=-0",
            "bytes=99999999999999999999999-",
            "bytes=4000-,3000-3001",
        ] {
            assert_eq!(select(header, 2000), Selection::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn what_has_no_meaning_selects_the_whole() {
        for header in [
            "lines=0-1",
            "bytes",
            "bytes=",
            "bytes= , ,",
            "bytes=-",
            "bytes=a-b",
            "bytes=0-1,x",
            "bytes=+1-2",
            "bytes=1 -2",
            "bytes=0x1-2",
            "bytes=--1",
            "bytes 0-1",
        ] {
            assert_eq!(select(header, 2000), Selection::Whole, "{header}");
        }
        assert_eq!(
            Selection::parse(&HeaderValue::from_bytes(b"bytes=\xff-").unwrap(), 2000),
            Selection::Whole
        );
    }

    #[test]
    fn an_empty_blob_is_always_whole() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=5-"] {
            assert_eq!(select(header, 0), Selection::Whole, "{header}");
        }
    }

    #[test]
    fn only_overlapping_ranges_are_merged_and_the_order_is_kept() {
        let several = |ranges: &[(u64, u64)]| {
            Selection::Several(ranges.iter().map(|(first, last)| range(*first, *last)).collect())
        };
        assert_eq!(select("bytes=0-9,10-19", 100), several(&[(0, 9), (10, 19)]));
        assert_eq!(select("bytes=50-59,0-9", 100), several(&[(50, 59), (0, 9)]));
        assert_eq!(select("bytes=50-59,0-9,55-70", 100), several(&[(50, 70), (0, 9)]));
        assert_eq!(select("bytes=90-,0-9,-5,200-", 100), several(&[(90, 99), (0, 9)]));
        assert_eq!(select("bytes=0-60,50-99", 100), Selection::One(range(0, 99)));
    }

    #[test]
    fn as_many_ranges_as_podman_sends_are_answered_and_not_one_more() {
        let header = |count: u64| {
            let ranges: Vec<_> =
                (0..count).map(|index| format!("{}-{}", index * 10, index * 10 + 5)).collect();
            format!("bytes={}", ranges.join(","))
        };
        assert!(matches!(select(&header(1024), 1 << 20), Selection::Several(ranges) if ranges.len() == 1024));
        assert_eq!(select(&header(1025), 1 << 20), Selection::Whole);
    }

    #[test]
    fn a_multipart_body_is_framed_as_the_rfc_shows_it() {
        let mut multipart = Multipart::new(vec![range(0, 1), range(4, 4)], 9, "application/octet-stream");
        multipart.boundary = "AAA".to_owned();
        let body = [multipart.head(0), "01".into(), multipart.head(1), "4".into(), multipart.tail()].concat();
        assert_eq!(multipart.content_type(), "multipart/byteranges; boundary=AAA");
        assert_eq!(
            body,
            "--AAA\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-1/9\r\n\r\n01\r\n\
             --AAA\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 4-4/9\r\n\r\n4\r\n--AAA--\r\n"
        );
        assert_eq!(multipart.content_length(), body.len() as u64);
    }

    proptest! {
        #[test]
        fn no_header_and_no_size_makes_it_panic_or_reach_outside_the_blob(
            header in prop_oneof![any::<String>(), "bytes=([0-9]{0,21}-[0-9]{0,21}[, ]{0,2}){0,9}"],
            size in prop_oneof![any::<u64>(), 0_u64..50],
        ) {
            let Ok(header) = HeaderValue::from_str(&header) else { return Ok(()) };
            let ranges = match Selection::parse(&header, size) {
                Selection::Whole | Selection::Unsatisfiable => vec![],
                Selection::One(range) => vec![range],
                Selection::Several(ranges) => {
                    prop_assert!(ranges.len() >= 2);
                    ranges
                }
            };
            for range in &ranges {
                prop_assert!(range.first <= range.last && range.last < size);
            }
            Multipart::new(ranges, size, "application/octet-stream").content_length();
        }

        #[test]
        fn what_is_selected_is_exactly_what_was_asked_for(
            asked in prop::collection::vec((0_u64..60, 0_u64..60), 1..12),
            size in 1_u64..50,
        ) {
            let list: Vec<_> = asked.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            let header = HeaderValue::from_str(&format!("bytes={}", list.join(","))).unwrap();
            let selected = match Selection::parse(&header, size) {
                Selection::Whole => return Err(TestCaseError::fail("a well-formed range was ignored")),
                Selection::Unsatisfiable => vec![],
                Selection::One(range) => vec![range],
                Selection::Several(ranges) => ranges,
            };
            for offset in 0..size {
                let wanted = asked.iter().any(|(first, last)| (*first..=*last).contains(&offset));
                let times = selected.iter().filter(|range| (range.start()..range.end()).contains(&offset)).count();
                prop_assert_eq!(times, usize::from(wanted), "offset {}", offset);
            }
        }

        #[test]
        fn ranges_apart_come_back_in_the_order_asked(ranges in prop::collection::vec(0_u64..100, 2..20)) {
            let mut seen = std::collections::HashSet::new();
            let apart: Vec<_> = ranges.into_iter().filter(|index| seen.insert(*index)).collect();
            prop_assume!(apart.len() > 1);
            let list: Vec<_> = apart.iter().map(|index| format!("{}-{}", index * 10, index * 10 + 9)).collect();
            let header = HeaderValue::from_str(&format!("bytes={}", list.join(","))).unwrap();
            let expected = apart.iter().map(|index| range(index * 10, index * 10 + 9)).collect();
            prop_assert_eq!(Selection::parse(&header, 1000), Selection::Several(expected));
        }
    }
}
