//! No `Range` reaches outside the blob, and no byte is sent twice.
#![no_main]

use axum::http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use wharf::api::blobs::range::{Multipart, Selection};

fuzz_target!(|input: (u64, &[u8])| {
    let (size_bytes, header) = input;
    let Ok(header) = HeaderValue::from_bytes(header) else { return };
    let mut ranges = match Selection::parse(&header, size_bytes) {
        Selection::Whole | Selection::Unsatisfiable => return,
        Selection::One(range) => vec![range],
        Selection::Several(ranges) => {
            assert!(ranges.len() > 1);
            ranges
        }
    };
    let multipart = Multipart::new(ranges.clone(), size_bytes, "application/octet-stream");
    let framing: usize =
        (0..ranges.len()).map(|index| multipart.head(index).len()).sum::<usize>() + multipart.tail().len();
    ranges.sort_by_key(|range| range.start());
    assert!(ranges.iter().all(|range| range.start() < range.end() && range.end() <= size_bytes));
    assert!(ranges.windows(2).all(|pair| pair[0].end() <= pair[1].start()));
    let bytes: u64 = ranges.iter().map(|range| range.size_bytes()).sum();
    assert_eq!(multipart.content_length(), bytes.saturating_add(framing as u64));
});
