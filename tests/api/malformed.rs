//! Requests that are wrong: what each is told, and that none leaves anything behind.

use axum::body::Body;
use axum::http::{HeaderValue, Request, Uri};
use storage::{Algorithm, Digest};

use super::asking::{Answer, INDEX, MANIFEST, TestApi, descriptor, empty, files, noted};

/// A wrong request, and what it is told: status, and the code if there is a body to hold one.
struct Case {
    question: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
}

impl Case {
    fn new(question: impl Into<String>, status: u16, code: &'static str) -> Self {
        Self { question: question.into(), headers: vec![], body: vec![], status, code }
    }

    fn header(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

#[tokio::test]
async fn a_wrong_request_is_told_why_and_changes_nothing() {
    let api = TestApi::on_a_volume();
    let digest = api.push_noted("team/app", "v1", "note").await;
    let upload = api.begin_upload("team/app").await;
    api.send(&format!("PATCH {upload}"), &[], "hello").await.expect(202);
    let before = files(api.folder());

    let cases: Vec<Case> =
        [paths(&digest), queries(), chunks(&upload), manifests(&digest)].into_iter().flatten().collect();
    assert!(cases.len() >= 150, "{} cases", cases.len());
    let mut surprises = Vec::new();
    for case in cases {
        let told = ask(&api, &case).await;
        assert_eq!(told.header("docker-distribution-api-version"), "registry/2.0", "{}", case.question);
        let code = if told.body.is_empty() { String::new() } else { told.code() };
        if (told.status, &*code) != (case.status, case.code) {
            let Case { question, headers, body, status, code: expected } = case;
            let (headers, body) = (format!("{headers:?}"), String::from_utf8_lossy(&body));
            let sent = format!("{question:.200} {headers:.100} {body:.300}");
            surprises.push(format!("{} {code} and not {status} {expected}: {sent}", told.status));
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));

    let after = files(api.folder());
    assert!(
        before == after,
        "{:?}",
        after.keys().filter(|path| !before.contains_key(*path)).collect::<Vec<_>>()
    );
    let hello = Digest::of(Algorithm::Sha256, b"hello");
    api.ask(&format!("PUT {upload}?digest={hello}")).await.expect(201);
    api.push_noted("team/app", "v2", "note").await;
    api.ask("GET /v2/team/app/manifests/v2").await.expect(200);
}

async fn ask(api: &TestApi, case: &Case) -> Answer {
    let (method, target) = case.question.split_once(' ').unwrap();
    let mut request = Request::new(Body::from(case.body.clone()));
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = target.parse::<Uri>().unwrap_or_else(|error| panic!("{target}: {error}"));
    for (name, value) in &case.headers {
        request.headers_mut().append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    api.answer(&case.question, request).await
}

/// Paths that mean nothing, or name what cannot be.
fn paths(digest: &Digest) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |question: String, status, code| cases.push(Case::new(question, status, code));
    for path in [
        "/v2/x",
        "/v2//",
        "/v2/team",
        "/v2/team/app",
        "/v2/team/app/",
        "/v2/tags/list",
        "/v2/team/app/tags",
        "/v2/team/app/tags/",
        "/v2/team/app/tags/list/",
        "/v2/team/app/tags/other",
        "/v2/team/app/TAGS/list",
        "/v2/team/app/blob/x",
        "/v2/_catalog/",
        "/v2/_catalog/x",
        "/v2/_oci",
        "/v2/_oci/ext",
        "/v2/_oci/ext/other",
        "/v2/_other/ext/discover",
        "/v2/uploads/x",
        "/v2/team/app/uploads/x",
        "/v2/..",
        "/v2/../etc/passwd",
        "/v2/%2e%2e/%2e%2e/etc/passwd",
        "/v2/%00",
        "/v2/%",
        "/v2/%zz",
        "/v2/team%2Fapp%2Ftags%2Flist",
        "/v2/manifests/v1",
        "/v2/blobs/uploads/",
    ] {
        case(format!("GET {path}"), 404, "UNSUPPORTED");
    }
    let long = format!("a/{}", "b".repeat(254));
    let names = [
        "A",
        "a/B",
        "a//b",
        "/a",
        "-a",
        "a-",
        "_a",
        "a_",
        ".a",
        "a.",
        "a..b",
        "a___b",
        "a._b",
        "a/-b",
        "a/b-",
        "%2e%2e",
        "a/..",
        "..",
        "../../etc",
        "a/%2e%2e/b",
        "a%00b",
        "a%20b",
        "a+b",
        "a:b",
        "a@b",
        "a%5cb",
        "%ff",
        "a/%ff%fe",
        "%d0%b0",
        "caf%C3%A9",
        "%F0%9F%90%8B",
        "a%252Fb",
        "_catalog",
        "a~b",
        "a!b",
        &long,
    ];
    for name in names {
        case(format!("GET /v2/{name}/tags/list"), 400, "NAME_INVALID");
    }
    for name in ["A", "a//b", "a..b", "%2e%2e/b", "a%00b"] {
        case(format!("GET /v2/{name}/blobs/{digest}"), 400, "NAME_INVALID");
        case(format!("PUT /v2/{name}/manifests/v1"), 400, "NAME_INVALID");
        case(format!("POST /v2/{name}/blobs/uploads/"), 400, "NAME_INVALID");
        case(format!("GET /v2/{name}/referrers/{digest}"), 400, "NAME_INVALID");
    }
    let hex = "a".repeat(64);
    let digests = [
        "sha256:".to_owned(),
        "sha256:short".to_owned(),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{hex}a"),
        format!("sha256:{}", hex.to_uppercase()),
        format!("sha256:{}g", &hex[1..]),
        format!("SHA256:{hex}"),
        format!("sha512:{hex}"),
        format!("md5:{}", &hex[32..]),
        format!("sha384:{hex}"),
        format!(":{hex}"),
        format!("sha256::{}", &hex[1..]),
        format!("sha256:%00{}", &hex[1..]),
        format!("sha256:..%2F..%2F{}", &hex[6..]),
        "sha256:totallywrong".to_owned(),
        "%F0%9F%90%8B:%F0%9F%90%8B".to_owned(),
    ];
    for digest in &digests {
        case(format!("GET /v2/team/app/blobs/{digest}"), 400, "DIGEST_INVALID");
        case(format!("GET /v2/team/app/manifests/{digest}"), 400, "DIGEST_INVALID");
        case(format!("GET /v2/team/app/referrers/{digest}"), 400, "DIGEST_INVALID");
    }
    for digest in ["sha256:short", "md5:x"] {
        case(format!("HEAD /v2/team/app/blobs/{digest}"), 400, "");
        case(format!("DELETE /v2/team/app/blobs/{digest}"), 400, "DIGEST_INVALID");
        case(format!("PUT /v2/team/app/manifests/{digest}"), 400, "DIGEST_INVALID");
        case(format!("DELETE /v2/team/app/manifests/{digest}"), 400, "DIGEST_INVALID");
    }
    case("GET /v2/team/app/blobs/v1".to_owned(), 400, "DIGEST_INVALID");
    let long = "t".repeat(129);
    for tag in ["-v1", ".v1", "v%201", "v1%2Fx", "v+1", "%00", "v1%0a", "caf%C3%A9", "%ff", "", &long] {
        case(format!("GET /v2/team/app/manifests/{tag}"), 404, "MANIFEST_UNKNOWN");
        case(format!("PUT /v2/team/app/manifests/{tag}"), 400, "TAG_INVALID");
    }
    for id in [
        "x",
        "123e4567e89b42d3a456426614174000",
        "123E4567-E89B-42D3-A456-426614174000",
        "..",
        "%2e%2e",
        "%00",
    ] {
        for method in ["GET", "PATCH", "PUT", "DELETE"] {
            case(format!("{method} /v2/team/app/blobs/uploads/{id}"), 404, "BLOB_UPLOAD_UNKNOWN");
        }
    }
    for question in [
        "POST /v2/".to_owned(),
        "DELETE /v2/_catalog".to_owned(),
        "PUT /v2/team/app/tags/list".to_owned(),
        "POST /v2/team/app/manifests/v1".to_owned(),
        format!("PUT /v2/team/app/blobs/{digest}"),
        format!("PATCH /v2/team/app/blobs/{digest}"),
        format!("DELETE /v2/team/app/referrers/{digest}"),
        "GET /v2/team/app/blobs/uploads/".to_owned(),
        "PUT /v2/team/app/blobs/uploads".to_owned(),
        "OPTIONS /v2/team/app/tags/list".to_owned(),
        "TRACE /v2/".to_owned(),
        "PROPFIND /v2/_catalog".to_owned(),
    ] {
        case(question, 405, "UNSUPPORTED");
    }
    cases
}

/// Parameters that are none.
fn queries() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in ["-1", "abc", "1.5", "%2B1", "+1", "0x10", "1e3", "%D9%A1", "%00", "1,2", "%20"] {
        for list in ["_catalog", "team/app/tags/list"] {
            cases.push(Case::new(format!("GET /v2/{list}?n={n}"), 400, "PAGINATION_NUMBER_INVALID"));
        }
    }
    for query in [
        "digest=sha256:short",
        "digest=md5:d41d8cd98f00b204e9800998ecf8427e",
        "digest=%00",
        "digest=%ff",
        "digest-algorithm=md5",
        "digest-algorithm=SHA256",
        "digest-algorithm=%20",
        "digest-algorithm=sha256%00",
    ] {
        let question = format!("POST /v2/team/app/blobs/uploads/?{query}");
        cases.push(Case::new(question, 400, "DIGEST_INVALID").body("hello"));
    }
    let hello = Digest::of(Algorithm::Sha512, b"hello");
    let whole = format!("POST /v2/team/app/blobs/uploads/?digest={hello}");
    cases.push(Case::new(&whole, 400, "DIGEST_INVALID").body("other"));
    cases.push(Case::new(&whole, 400, "DIGEST_INVALID"));
    cases.push(Case::new(&whole, 400, "SIZE_INVALID").body("hello").header("content-range", "0-3"));
    cases.push(Case::new(&whole, 400, "RANGE_INVALID").body("hello").header("content-range", "all"));
    cases.push(Case::new(&whole, 416, "RANGE_INVALID").body("hello").header("content-range", "1-5"));
    cases
}

/// Chunks of an upload that holds `hello`, and ends to it, that cannot be.
fn chunks(upload: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let hello_you = Digest::of(Algorithm::Sha256, b"hello you");
    for (range, status, code) in [
        ("5", 400, "RANGE_INVALID"),
        ("5-", 400, "RANGE_INVALID"),
        ("-5", 400, "RANGE_INVALID"),
        ("-", 400, "RANGE_INVALID"),
        ("", 400, "RANGE_INVALID"),
        ("a-b", 400, "RANGE_INVALID"),
        ("0x5-0x8", 400, "RANGE_INVALID"),
        ("+5-8", 400, "RANGE_INVALID"),
        ("5-8,9-10", 400, "RANGE_INVALID"),
        ("5-8-9", 400, "RANGE_INVALID"),
        ("bytes 5-8/9", 400, "RANGE_INVALID"),
        ("bytes=5-8", 400, "RANGE_INVALID"),
        ("5 - 8", 400, "RANGE_INVALID"),
        ("18446744073709551616-18446744073709551619", 400, "RANGE_INVALID"),
        ("\u{ff}", 400, "RANGE_INVALID"),
        ("5-7", 400, "SIZE_INVALID"),
        ("5-9", 400, "SIZE_INVALID"),
        ("5-18446744073709551615", 400, "SIZE_INVALID"),
        ("0-3", 416, "RANGE_INVALID"),
        ("4-7", 416, "RANGE_INVALID"),
        ("6-9", 416, "RANGE_INVALID"),
        ("8-5", 416, "RANGE_INVALID"),
        ("5-4", 416, "RANGE_INVALID"),
        ("0-18446744073709551615", 416, "RANGE_INVALID"),
        ("18446744073709551615-18446744073709551615", 416, "RANGE_INVALID"),
    ] {
        for question in [format!("PATCH {upload}"), format!("PUT {upload}?digest={hello_you}")] {
            cases.push(Case::new(question, status, code).header("content-range", range).body(" you"));
        }
    }
    for query in
        ["", "?digest", "?digest=", "?digest=hello", "?digest=sha256:", "?Digest=sha256:x", "?digest=%ff"]
    {
        cases.push(Case::new(format!("PUT {upload}{query}"), 400, "DIGEST_INVALID").body(" you"));
    }
    let elsewhere = upload.replace("team/app", "team/other");
    cases.push(Case::new(format!("PATCH {elsewhere}"), 404, "BLOB_UPLOAD_UNKNOWN").body(" you"));
    cases.push(
        Case::new(format!("PUT {elsewhere}?digest={hello_you}"), 404, "BLOB_UPLOAD_UNKNOWN").body(" you"),
    );
    cases.push(Case::new(format!("DELETE {elsewhere}"), 404, "BLOB_UPLOAD_UNKNOWN"));
    cases
}

/// Manifests that are none, or not what they are said to be.
fn manifests(digest: &Digest) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |kind: &'static str, body: Vec<u8>, code| {
        let case = Case::new("PUT /v2/team/app/manifests/wrong", 400, code);
        cases.push(case.header("content-type", kind).body(body));
    };
    let good = noted("good");
    let with = |member: &str, value: serde_json::Value| {
        let mut manifest = good.clone();
        manifest[member] = value;
        manifest.to_string().into_bytes()
    };
    let without = |member: &str| {
        let mut manifest = good.clone();
        manifest.as_object_mut().unwrap().remove(member);
        manifest.to_string().into_bytes()
    };
    let text = good.to_string();
    let config = |member: &str, value: serde_json::Value| {
        let mut config = empty();
        config[member] = value;
        with("config", config)
    };
    for body in [
        b"".to_vec(),
        b"{}".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\"manifest\"".to_vec(),
        b"2".to_vec(),
        b"{".to_vec(),
        b"\xff\xfe".to_vec(),
        b"<html></html>".to_vec(),
        text.as_bytes()[..text.len() - 1].to_vec(),
        format!("{text}x").into_bytes(),
        format!("{text}{text}").into_bytes(),
        format!("\u{feff}{text}").into_bytes(),
        text.replace("note\"", "no\u{0}te\"").into_bytes(),
        [text.replace("good", "").as_bytes(), b"\xff"].concat(),
        text.replacen('{', "{\"schemaVersion\":2,", 1).into_bytes(),
        text.replace("\"layers\":[]", "\"layers\":[],\"layers\":[]").into_bytes(),
        text.replace("\"size\":2", "\"size\":2,\"size\":2").into_bytes(),
        text.replace(":[]", &format!(":{}{}", "[".repeat(10_000), "]".repeat(10_000))).into_bytes(),
        without("schemaVersion"),
        without("config"),
        without("layers"),
        with("schemaVersion", 1.into()),
        with("schemaVersion", 3.into()),
        with("schemaVersion", "2".into()),
        with("mediaType", INDEX.into()),
        with("mediaType", "application/json".into()),
        with("mediaType", 5.into()),
        with("config", serde_json::Value::Null),
        with("config", "sha256:".into()),
        with("layers", empty()),
        with("layers", vec![5].into()),
        with("manifests", vec![empty()].into()),
        with("subject", "sha256:".into()),
        with("annotations", "note".into()),
        with("annotations", serde_json::json!({ "note": 5 })),
        with("artifactType", 5.into()),
        config("digest", "sha256:short".into()),
        config("digest", "md5:d41d8cd98f00b204e9800998ecf8427e".into()),
        config("digest", 5.into()),
        config("size", (-1).into()),
        config("size", "2".into()),
        config("size", 1.5.into()),
        config("size", u64::MAX.into()),
        config("mediaType", serde_json::Value::Null),
        config("urls", "https://elsewhere.example/layer".into()),
    ] {
        push(MANIFEST, body, "MANIFEST_INVALID");
    }
    for kind in [
        INDEX,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.oci.artifact.manifest.v1+json",
        "application/json",
        "text/html; charset=utf-8",
        "",
        ";",
        "\u{ff}",
    ] {
        push(kind, text.clone().into_bytes(), "MANIFEST_INVALID");
    }
    let missing = Digest::of(Algorithm::Sha256, b"missing");
    push(MANIFEST, with("config", descriptor("a/b", &missing, 7)), "MANIFEST_BLOB_UNKNOWN");
    push(MANIFEST, with("layers", vec![descriptor("a/b", &missing, 7)].into()), "MANIFEST_BLOB_UNKNOWN");
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, &missing, 7)],
    });
    push(INDEX, index.to_string().into_bytes(), "MANIFEST_BLOB_UNKNOWN");

    for (reference, code) in [
        (missing.to_string(), "DIGEST_INVALID"),
        (Digest::of(Algorithm::Sha512, b"missing").to_string(), "DIGEST_INVALID"),
        (format!("wrong?digest={missing}"), "DIGEST_INVALID"),
        ("wrong?digest=sha256:short".to_owned(), "DIGEST_INVALID"),
        (format!("{digest}?tag=-wrong"), "TAG_INVALID"),
        (format!("{digest}?tag=fine&tag=a%2Fb"), "TAG_INVALID"),
        (format!("{digest}?tag={}", "t".repeat(129)), "TAG_INVALID"),
    ] {
        let case = Case::new(format!("PUT /v2/team/app/manifests/{reference}"), 400, code);
        cases.push(case.header("content-type", MANIFEST).body(text.clone()));
    }
    let too_large = Case::new("PUT /v2/team/app/manifests/wrong", 413, "SIZE_INVALID");
    cases.push(too_large.header("content-type", MANIFEST).body(vec![b' '; (4 << 20) + 1]));
    cases
}
