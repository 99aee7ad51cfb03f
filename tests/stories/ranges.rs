//! Parts of blobs, as programs ask for them that do not need the whole.

use std::{
    io::Write,
    process::{Command, Stdio},
    thread,
};

use hyper::StatusCode;
use serde_json::{Value, json};

use super::settings;
use crate::harness::{Layer, TestRegistry};

/// What an eStargz ends with.
const FOOTER_BYTES: usize = 51;

/// A layer as an eStargz is: a tar.gz in which each file is compressed apart, and whose last file tells where each lies. The
/// last bytes, an empty file to gzip, tell where that one is.
fn estargz(files: &[(&str, Layer)]) -> Layer {
    let (mut blob, mut between, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for (name, file) in files {
        between.extend_from_slice(&archive_header(name, file.bytes().len()));
        blob.extend(gzip("--stdout", &between));
        entries.push(json!({
            "name": name, "type": "reg", "mode": 0o644, "size": file.bytes().len(), "offset": blob.len(),
            "digest": file.digest().to_string(), "chunkDigest": file.digest().to_string(),
        }));
        blob.extend(gzip("--stdout", &file.bytes()));
        between = padding(file.bytes().len());
    }
    blob.extend(gzip("--stdout", &between));
    let (toc_offset, toc) = (blob.len(), json!({ "version": 1, "entries": entries }).to_string());
    let mut end = archive_header("stargz.index.json", toc.len());
    end.extend_from_slice(toc.as_bytes());
    end.extend(padding(toc.len()));
    end.extend([0; 1024]);
    blob.extend(gzip("--stdout", &end));
    blob.extend(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0");
    blob.extend(format!("{toc_offset:016x}STARGZ").bytes());
    blob.extend(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    Layer::from_bytes(blob.into())
}

fn archive_header(name: &str, size: usize) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn padding(size: usize) -> Vec<u8> {
    vec![0; size.next_multiple_of(512) - size]
}

/// What gzip makes of `bytes`. They are written by a thread, since gzip writes before it has read all.
fn gzip(how: &str, bytes: &[u8]) -> Vec<u8> {
    let mut gzip =
        Command::new("gzip").arg(how).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = gzip.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).unwrap());
        gzip.wait_with_output().unwrap()
    });
    assert!(output.status.success());
    output.stdout
}

#[tokio::test]
async fn one_file_of_an_estargz_is_found_and_read_alone() {
    let registry = TestRegistry::with(settings()).await;
    let files = [
        ("first", Layer::random(70_000)),
        ("second", Layer::random(1_000)),
        ("third", Layer::random(70_000)),
    ];
    let layer = estargz(&files);
    let alice = registry.user("alice");
    let digest = alice.push_blob("team/app", layer.bytes()).await;
    // To everybody else it is an archive like any other.
    assert_eq!(tar::Archive::new(&*gzip("-dc", &layer.bytes())).entries().unwrap().count(), 4);

    let part = async |range: String| {
        alice.pull_range("team/app", digest, &range).await.expect(StatusCode::PARTIAL_CONTENT).body
    };
    let footer = part(format!("bytes=-{FOOTER_BYTES}")).await;
    let toc_offset = usize::from_str_radix(str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
    let toc_end = layer.bytes().len() - FOOTER_BYTES - 1;
    let toc = gzip("-dc", &part(format!("bytes={toc_offset}-{toc_end}")).await);
    let mut toc = tar::Archive::new(&*toc);
    let toc: Value = serde_json::from_reader(toc.entries().unwrap().next().unwrap().unwrap()).unwrap();
    let (second, third) = (&toc["entries"][1], &toc["entries"][2]);
    let (offset, next) = (second["offset"].as_u64().unwrap(), third["offset"].as_u64().unwrap());
    let file = gzip("-dc", &part(format!("bytes={offset}-{}", next - 1)).await);
    // What follows it is the head of the next one.
    assert_eq!(file[..1000], files[1].1.bytes());
}

#[tokio::test]
async fn many_parts_come_in_one_answer() {
    let registry = TestRegistry::with(settings()).await;
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
