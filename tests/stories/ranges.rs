//! Parts of blobs, as programs ask for them that do not need the whole.

use hyper::StatusCode;

use crate::harness::{Layer, TestRegistry};

/// A layer that can be read without the whole of it, as an eStargz is: files, where each lies, and where that is said.
fn layer_with_contents(files: &[(&str, Layer)]) -> Layer {
    let mut bytes = Vec::new();
    let mut contents = serde_json::Map::new();
    for (name, file) in files {
        contents.insert((*name).to_owned(), serde_json::json!([bytes.len(), file.bytes().len()]));
        bytes.extend_from_slice(&file.bytes());
    }
    let start = bytes.len();
    bytes.extend_from_slice(serde_json::Value::from(contents).to_string().as_bytes());
    bytes.extend_from_slice(format!("{start:016x}").as_bytes());
    Layer::from_bytes(bytes.into())
}

#[tokio::test]
async fn one_file_of_a_layer_is_found_and_read_alone() {
    let registry = TestRegistry::start().await;
    let files = [
        ("first", Layer::random(70_000)),
        ("second", Layer::random(1_000)),
        ("third", Layer::random(70_000)),
    ];
    let layer = layer_with_contents(&files);
    let alice = registry.user("alice");
    let digest = alice.push_blob("team/app", layer.bytes()).await;

    let size = layer.bytes().len();
    let footer = alice.pull_range("team/app", digest, "bytes=-16").await.expect(StatusCode::PARTIAL_CONTENT);
    let start = usize::from_str_radix(str::from_utf8(&footer.body).unwrap(), 16).unwrap();
    let range = format!("bytes={start}-{}", size - 17);
    let contents =
        alice.pull_range("team/app", digest, &range).await.expect(StatusCode::PARTIAL_CONTENT).json();
    let (offset, length) = (contents["second"][0].as_u64().unwrap(), contents["second"][1].as_u64().unwrap());
    let last = offset + length - 1;
    let file = alice.pull_range("team/app", digest, &format!("bytes={offset}-{last}")).await;
    assert_eq!(file.header("content-range"), Some(&*format!("bytes {offset}-{last}/{size}")));
    assert_eq!(file.expect(StatusCode::PARTIAL_CONTENT).body, files[1].1.bytes());
}

#[tokio::test]
async fn many_parts_come_in_one_answer() {
    let registry = TestRegistry::start().await;
    let layer = Layer::random(10_000);
    let alice = registry.user("alice");
    let digest = alice.push_blob("team/app", layer.bytes()).await;
    let answer = alice.pull_range("team/app", digest, "bytes=0-9,5000-5009,-10").await;
    let answer = answer.expect(StatusCode::PARTIAL_CONTENT);
    let media_type = answer.header("content-type").unwrap();
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").unwrap().trim_matches('"');
    let parts: Vec<_> = split(&answer.body, format!("--{boundary}").as_bytes());
    // Before the first boundary is nothing, and after the last one the two dashes that end it.
    let parts = &parts[1..parts.len() - 1];
    let whole = layer.bytes();
    for (part, expected) in parts.iter().zip([&whole[..10], &whole[5000..5010], &whole[9990..]]) {
        assert!(part.ends_with(&[b"\r\n\r\n", expected, b"\r\n"].concat()));
    }
    assert_eq!(parts.len(), 3);
}

fn split<'a>(bytes: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(separator.len()).position(|window| window == separator) {
        parts.push(&rest[..at]);
        rest = &rest[at + separator.len()..];
    }
    parts.push(rest);
    parts
}
