use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::Secret;
use crate::compact_token::MAX_TOKEN_BYTES;
use crate::keys::tests::{RSA, TestKey, key_set};

const CLUSTER: &str = "https://kubernetes.default.svc";
const OTHER_CLUSTER: &str = "https://other.example";
const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;
const LEEWAY: u64 = 60;

/// The keys of two clusters, and one that nobody trusts.
struct World {
    p256: TestKey,
    p384: TestKey,
    p521: TestKey,
    others: TestKey,
    thiefs: TestKey,
}

static WORLD: LazyLock<World> = LazyLock::new(|| World {
    p256: TestKey::p256(),
    p384: TestKey::p384(),
    p521: TestKey::p521(),
    others: TestKey::p256(),
    thiefs: TestKey::p256(),
});

fn authenticator(rules: TokenRules) -> ServiceAccounts {
    let keys = || key_set(&[&RSA, &WORLD.p256, &WORLD.p384, &WORLD.p521]);
    let issuers = vec![
        Issuer { name: IssuerName::Exactly(CLUSTER.to_owned()), keys: keys() },
        Issuer { name: IssuerName::Exactly(OTHER_CLUSTER.to_owned()), keys: key_set(&[&WORLD.others]) },
        Issuer { name: IssuerName::Exactly(LEGACY_ISSUER.to_owned()), keys: keys() },
    ];
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    ServiceAccounts::new(issuers, rules, Clock::new(move || now))
}

/// Those of a deployment that takes its own tokens and, if `api_server` says so, the API server's.
fn rules(api_server: bool) -> TokenRules {
    let mut rules = TokenRules::for_audiences(vec!["registry".to_owned(), "registry.example".to_owned()]);
    if api_server {
        rules.api_server = ApiServerTokens::For(vec![CLUSTER.to_owned()]);
    }
    rules
}

/// What a token is found to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Found {
    Good,
    Refused(TokenError),
    /// The next authenticator is asked.
    NotMine,
    Unavailable,
}

async fn identify(
    authenticator: &ServiceAccounts,
    token: &str,
) -> Result<Option<Authenticated>, AuthenticationError> {
    authenticator.identify(&Credential::Token(Secret::new(token))).await
}

async fn find(authenticator: &ServiceAccounts, token: &str, expected: Found) -> Found {
    match identify(authenticator, token).await {
        Ok(Some(_)) => Found::Good,
        Ok(None) => Found::NotMine,
        Err(AuthenticationError::Unavailable(_)) => Found::Unavailable,
        Err(error) => match expected {
            Found::Refused(reason) if error.to_string() == reason.to_string() => expected,
            _ => panic!("refused because {error}, expected {expected:?}"),
        },
    }
}

/// What `kubectl create token builder -n team --audience registry` signs.
fn bound() -> Value {
    json!({
        "iss": CLUSTER,
        "sub": "system:serviceaccount:team:builder",
        "aud": ["registry"],
        "exp": NOW + HOUR,
        "iat": NOW,
        "nbf": NOW,
        "jti": "5a1f9b2e-0000-4000-8000-000000000001",
        "kubernetes.io": {
            "namespace": "team",
            "serviceaccount": { "name": "builder", "uid": "uid-of-builder" },
        },
    })
}

/// What stands in a Secret of type `kubernetes.io/service-account-token`.
fn legacy() -> Value {
    json!({
        "iss": LEGACY_ISSUER,
        "sub": "system:serviceaccount:team:builder",
        "kubernetes.io/serviceaccount/namespace": "team",
        "kubernetes.io/serviceaccount/secret.name": "builder-token-abcde",
        "kubernetes.io/serviceaccount/service-account.name": "builder",
        "kubernetes.io/serviceaccount/service-account.uid": "uid-of-builder",
    })
}

/// `claims` with one of them changed, found by its JSON pointer; `null` removes it.
fn with(mut claims: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let name = name.replace("~1", "/");
    let members = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        members.remove(&name);
    } else {
        members.insert(name, value);
    }
    claims
}

fn header(key: &TestKey) -> Value {
    json!({ "alg": key.algorithm(), "kid": key.id() })
}

fn signed(claims: &Value) -> String {
    WORLD.p256.token(&header(&WORLD.p256), claims)
}

fn changed(pointer: &str, value: Value) -> String {
    signed(&with(bound(), pointer, value))
}

#[tokio::test]
async fn tokens_are_good_or_not_as_their_claims_say() {
    use Found::{Good, NotMine, Refused};
    use TokenError::{Audience, Claims, Expired, IssuedInFuture, NotYetValid, Subject, TooOld};
    let too_old = TooOld(Duration::from_secs(DAY));
    let at = |exp: u64, iat: u64| with(with(bound(), "/exp", json!(exp)), "/iat", json!(iat));
    let cases = [
        // As issued.
        ("as issued", signed(&bound()), Good),
        ("one audience, not in a list", changed("/aud", json!("registry")), Good),
        ("the second of our audiences", changed("/aud", json!(["registry.example"])), Good),
        ("several audiences, one of them ours", changed("/aud", json!(["vault", "registry"])), Good),
        ("without nbf", changed("/nbf", Value::Null), Good),
        ("without jti", changed("/jti", Value::Null), Good),
        ("claims that are not known", changed("/kubernetes.io/attestations", json!([{ "a": 1 }])), Good),
        ("times with fractions", changed("/exp", json!(NOW as f64 + 0.5)), Good),
        ("ends as far away as numbers reach", changed("/exp", json!(4_000_000_000_000_u64)), Good),
        // Times.
        ("ends now", signed(&at(NOW, NOW - HOUR)), Good),
        ("ended within the leeway", signed(&at(NOW - LEEWAY, NOW - HOUR)), Good),
        ("ended before the leeway", signed(&at(NOW - LEEWAY - 1, NOW - HOUR)), Refused(Expired)),
        ("ended long ago", signed(&at(NOW - 2 * DAY, NOW - 3 * DAY)), Refused(Expired)),
        ("ended in 1970", changed("/exp", json!(0)), Refused(Expired)),
        ("begins within the leeway", changed("/nbf", json!(NOW + LEEWAY)), Good),
        ("begins after the leeway", changed("/nbf", json!(NOW + LEEWAY + 1)), Refused(NotYetValid)),
        ("issued within the leeway", changed("/iat", json!(NOW + LEEWAY)), Good),
        ("issued after the leeway", changed("/iat", json!(NOW + LEEWAY + 1)), Refused(IssuedInFuture)),
        ("good for a year, issued just now", signed(&at(NOW + YEAR, NOW)), Good),
        ("good for a year, issued a day ago", signed(&at(NOW + YEAR, NOW - DAY)), Good),
        (
            "good for a year, issued long ago",
            signed(&at(NOW + YEAR, NOW - DAY - LEEWAY - 1)),
            Refused(too_old),
        ),
        ("issued in 1970", changed("/iat", json!(0)), Refused(too_old)),
        ("without exp", changed("/exp", Value::Null), Refused(Claims)),
        ("without iat", changed("/iat", Value::Null), Refused(Claims)),
        (
            "exp is null",
            WORLD.p256.token_of_texts(
                &header(&WORLD.p256).to_string(),
                &bound().to_string().replace(&format!("\"exp\":{}", NOW + HOUR), "\"exp\":null"),
            ),
            Refused(Claims),
        ),
        ("exp is text", changed("/exp", json!((NOW + HOUR).to_string())), Refused(Claims)),
        ("exp is negative", changed("/exp", json!(-1)), Refused(Claims)),
        ("exp is beyond all time", changed("/exp", json!(1e300)), Refused(Claims)),
        ("exp is a list", changed("/exp", json!([NOW + HOUR])), Refused(Claims)),
        ("nbf is true", changed("/nbf", json!(true)), Refused(Claims)),
        // Audiences.
        ("for the API server", changed("/aud", json!([CLUSTER])), Refused(Audience)),
        ("for another service", changed("/aud", json!(["vault"])), Refused(Audience)),
        (
            "for one whose name begins like ours",
            changed("/aud", json!(["registry.evil.example"])),
            Refused(Audience),
        ),
        ("for ours in capitals", changed("/aud", json!(["REGISTRY"])), Refused(Audience)),
        ("for ours with a slash", changed("/aud", json!(["registry/"])), Refused(Audience)),
        ("for all", changed("/aud", json!(["*"])), Refused(Audience)),
        ("for an empty audience", changed("/aud", json!([""])), Refused(Audience)),
        ("for nobody", changed("/aud", json!([])), Refused(Claims)),
        ("without aud", changed("/aud", Value::Null), Refused(Claims)),
        ("aud is a number", changed("/aud", json!(7)), Refused(Claims)),
        ("aud has a list in it", changed("/aud", json!([["registry"]])), Refused(Claims)),
        // Issuers.
        ("of an issuer that is not ours", changed("/iss", json!("https://accounts.example")), NotMine),
        ("of our issuer with a slash", changed("/iss", json!(format!("{CLUSTER}/"))), NotMine),
        ("of our issuer in capitals", changed("/iss", json!("HTTPS://KUBERNETES.DEFAULT.SVC")), NotMine),
        ("without iss", changed("/iss", Value::Null), NotMine),
        ("iss is a list", changed("/iss", json!([CLUSTER])), NotMine),
        ("iss is empty", changed("/iss", json!("")), NotMine),
        (
            "of another cluster, by this one's key",
            changed("/iss", json!(OTHER_CLUSTER)),
            Refused(TokenError::Key),
        ),
        // Subjects.
        (
            "subject is another account",
            changed("/sub", json!("system:serviceaccount:team:admin")),
            Refused(Subject),
        ),
        (
            "subject is in another namespace",
            changed("/sub", json!("system:serviceaccount:kube-system:builder")),
            Refused(Subject),
        ),
        ("subject is no account", changed("/sub", json!("alice")), Refused(Subject)),
        ("subject is empty", changed("/sub", json!("")), Refused(Subject)),
        ("without sub", changed("/sub", Value::Null), Refused(Claims)),
        ("sub is a number", changed("/sub", json!(7)), Refused(Claims)),
        ("without kubernetes.io", changed("/kubernetes.io", Value::Null), Refused(Claims)),
        ("kubernetes.io is text", changed("/kubernetes.io", json!("team")), Refused(Claims)),
        ("without namespace", changed("/kubernetes.io/namespace", Value::Null), Refused(Claims)),
        ("without account", changed("/kubernetes.io/serviceaccount", Value::Null), Refused(Claims)),
        ("without name", changed("/kubernetes.io/serviceaccount/name", Value::Null), Refused(Claims)),
        ("without uid", changed("/kubernetes.io/serviceaccount/uid", Value::Null), Refused(Claims)),
        ("uid is empty", changed("/kubernetes.io/serviceaccount/uid", json!("")), Refused(Claims)),
        (
            "a colon moved from namespace to name",
            signed(&with(
                with(
                    with(bound(), "/kubernetes.io/namespace", json!("team:builder")),
                    "/kubernetes.io/serviceaccount/name",
                    json!("x"),
                ),
                "/sub",
                json!("system:serviceaccount:team:builder:x"),
            )),
            Refused(Claims),
        ),
        (
            "a namespace of no characters",
            signed(&with(
                with(bound(), "/kubernetes.io/namespace", json!("")),
                "/sub",
                json!("system:serviceaccount::builder"),
            )),
            Refused(Claims),
        ),
        (
            "a name with a line break",
            signed(&with(
                with(bound(), "/kubernetes.io/serviceaccount/name", json!("builder\n")),
                "/sub",
                json!("system:serviceaccount:team:builder\n"),
            )),
            Refused(Claims),
        ),
        // Kept in Secrets: for the API server, which is not accepted here.
        ("legacy", signed(&legacy()), Refused(Audience)),
        (
            "legacy claims by the issuer of bound ones",
            signed(&with(legacy(), "/iss", json!(CLUSTER))),
            Refused(Claims),
        ),
        ("bound claims by the legacy issuer", changed("/iss", json!(LEGACY_ISSUER)), Refused(Claims)),
    ];
    let authenticator = authenticator(rules(false));
    for (name, token, expected) in &cases {
        assert_eq!(find(&authenticator, token, *expected).await, *expected, "{name}");
    }
}

#[tokio::test]
async fn tokens_for_the_api_server_are_good_where_that_is_configured() {
    use Found::{Good, Refused};
    use TokenError::{Audience, Claims, Expired, OtherAudience, Subject};
    let cases = [
        ("legacy", signed(&legacy()), Good),
        ("legacy, with an end", signed(&with(legacy(), "/exp", json!(NOW + HOUR))), Good),
        ("legacy, ended", signed(&with(legacy(), "/exp", json!(NOW - HOUR))), Refused(Expired)),
        ("legacy, for another", signed(&with(legacy(), "/aud", json!(["vault"]))), Refused(Audience)),
        (
            "legacy, another subject",
            signed(&with(legacy(), "/sub", json!("system:serviceaccount:team:admin"))),
            Refused(Subject),
        ),
        (
            "legacy, no namespace",
            signed(&with(legacy(), "/kubernetes.io~1serviceaccount~1namespace", Value::Null)),
            Refused(Claims),
        ),
        (
            "legacy, no secret",
            signed(&with(legacy(), "/kubernetes.io~1serviceaccount~1secret.name", Value::Null)),
            Refused(Claims),
        ),
        (
            "legacy, empty secret",
            signed(&with(legacy(), "/kubernetes.io~1serviceaccount~1secret.name", json!(""))),
            Refused(Claims),
        ),
        (
            "legacy, no name",
            signed(&with(legacy(), "/kubernetes.io~1serviceaccount~1service-account.name", Value::Null)),
            Refused(Claims),
        ),
        (
            "legacy, no uid",
            signed(&with(legacy(), "/kubernetes.io~1serviceaccount~1service-account.uid", Value::Null)),
            Refused(Claims),
        ),
        (
            "legacy, empty uid",
            signed(&with(legacy(), "/kubernetes.io~1serviceaccount~1service-account.uid", json!(""))),
            Refused(Claims),
        ),
        ("bound, for the API server", changed("/aud", json!([CLUSTER])), Good),
        ("bound, for the API server and us", changed("/aud", json!([CLUSTER, "registry"])), Good),
        ("bound, without aud", changed("/aud", Value::Null), Refused(Claims)),
    ];
    let tolerant = authenticator(rules(true));
    for (name, token, expected) in &cases {
        assert_eq!(find(&tolerant, token, *expected).await, *expected, "{name}");
    }

    // Where a token must be for the registry alone.
    let sole = authenticator(TokenRules { other_audiences: OtherAudiences::Refused, ..rules(false) });
    let cases = [
        (changed("/aud", json!(["registry"])), Good),
        (changed("/aud", json!(["registry", "registry.example"])), Good),
        (changed("/aud", json!(["registry", CLUSTER])), Refused(OtherAudience)),
        (changed("/aud", json!([CLUSTER])), Refused(Audience)),
    ];
    for (token, expected) in &cases {
        assert_eq!(find(&sole, token, *expected).await, *expected);
    }
}

fn resigned_by_hmac(header: &Value, secret: &[u8]) -> String {
    let signed = [header, &bound()].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac))
}

#[tokio::test]
async fn no_header_and_no_signature_is_believed_that_no_key_of_ours_made() {
    use Found::{Good, NotMine, Refused};
    use TokenError::{Key, Malformed, Signature};
    let World { p256, p384, p521, others, thiefs } = &*WORLD;
    let claims = bound();
    let good = signed(&claims);
    let (front, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = front.split_once('.').unwrap();
    let by = |key: &TestKey, header: Value| key.token(&header, &claims);
    let named = |algorithm: &str, key: &TestKey| json!({ "alg": algorithm, "kid": key.id() });
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let own_jwk = |kid: Value| {
        json!({ "alg": "ES256", "kid": kid, "jwk": thiefs.jwk(), "jku": "https://evil.example/jwks",
                "x5u": "https://evil.example/x5u", "x5c": ["MIIB"], "x5t": "abc" })
    };
    let texts = |header: &str, claims: &str| p256.token_of_texts(header, claims);
    let malformed = |error| Refused(Malformed(error));
    let (parts, base64, json, head_error) =
        (MalformedToken::Parts, MalformedToken::Base64, MalformedToken::Json, MalformedToken::Header);
    let plain = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, p256.id());
    let twice = |name: &str, value: Value| {
        let text = claims.to_string();
        format!("{},\"{name}\":{value}}}", &text[..text.len() - 1])
    };
    let mut other_last = signature.to_owned();
    other_last.replace_range(0..1, if signature.starts_with('A') { "B" } else { "A" });
    let tampered =
        encode(&with(claims.clone(), "/kubernetes.io/namespace", json!("kube-system")).to_string());
    let cases = [
        ("RS256", by(&RSA, header(&RSA)), Good),
        ("ES256", by(p256, header(p256)), Good),
        ("ES384", by(p384, header(p384)), Good),
        ("ES512", by(p521, header(p521)), Good),
        ("with typ", by(p256, json!({ "alg": "ES256", "kid": p256.id(), "typ": "JWT" })), Good),
        ("names no key", by(p521, json!({ "alg": "ES512" })), Good),
        // Signatures.
        ("one bit of the signature", format!("{front}.{other_last}"), Refused(Signature)),
        ("signature cut off", format!("{front}.{}", &signature[..40]), Refused(Signature)),
        (
            "signature of zeros",
            format!("{front}.{}", BASE64_URL_SAFE_NO_PAD.encode([0; 64])),
            Refused(Signature),
        ),
        ("no signature", format!("{front}."), Refused(Signature)),
        ("other claims under the signature", format!("{head}.{tampered}.{signature}"), Refused(Signature)),
        (
            "other header over the signature",
            format!("{}.{body}.{signature}", encode(r#"{"alg":"ES256"}"#)),
            Refused(Signature),
        ),
        ("signature in DER", format!("{front}.{}", der_of(signature)), Refused(Signature)),
        // Algorithms.
        ("alg none", format!("{}.{body}.", encode(r#"{"alg":"none"}"#)), Refused(Signature)),
        ("alg None", format!("{}.{body}.", encode(r#"{"alg":"None"}"#)), Refused(Signature)),
        ("alg none, signed", by(p256, named("none", p256)), Refused(Signature)),
        ("alg empty", by(p256, named("", p256)), Refused(Signature)),
        ("alg in small letters", by(p256, named("es256", p256)), Refused(Signature)),
        (
            "HS256 by the public key in PEM",
            resigned_by_hmac(&named("HS256", &RSA), RSA.pem().as_bytes()),
            Refused(Signature),
        ),
        (
            "HS256 by the public key in DER",
            resigned_by_hmac(&named("HS256", &RSA), &RSA.der()),
            Refused(Signature),
        ),
        ("RS256, by HMAC", resigned_by_hmac(&named("RS256", &RSA), RSA.pem().as_bytes()), Refused(Signature)),
        ("HS256 by nothing", resigned_by_hmac(&json!({ "alg": "HS256" }), b""), Refused(Signature)),
        ("ES256 by a P-384 key", by(p384, named("ES256", p384)), Refused(Signature)),
        ("ES384 by a P-256 key", by(p256, named("ES384", p256)), Refused(Signature)),
        ("RS256 by a P-256 key", by(p256, named("RS256", p256)), Refused(Signature)),
        ("RS512 by an RSA key", by(&RSA, named("RS512", &RSA)), Refused(Signature)),
        ("PS256 by an RSA key", by(&RSA, named("PS256", &RSA)), Refused(Signature)),
        ("EdDSA", by(p256, named("EdDSA", p256)), Refused(Signature)),
        // Keys.
        ("signed by a stranger, naming our key", by(thiefs, named("ES256", p256)), Refused(Signature)),
        ("signed by a stranger, naming theirs", by(thiefs, header(thiefs)), Refused(Key)),
        ("signed by a stranger, naming none", by(thiefs, json!({ "alg": "ES256" })), Refused(Signature)),
        ("brings its own key under our name", by(thiefs, own_jwk(json!(p256.id()))), Refused(Signature)),
        ("brings its own key under its name", by(thiefs, own_jwk(json!(thiefs.id()))), Refused(Key)),
        ("brings its own key, our signature", by(p256, own_jwk(json!(p256.id()))), Good),
        ("key of another issuer", by(others, header(others)), Refused(Key)),
        ("key of another issuer, unnamed", by(others, json!({ "alg": "ES256" })), Refused(Signature)),
        ("kid of another of our keys", by(p256, named("ES256", p384)), Refused(Signature)),
        ("kid is a path", by(p256, json!({ "alg": "ES256", "kid": "../../etc/passwd" })), Refused(Key)),
        ("kid is SQL", by(p256, json!({ "alg": "ES256", "kid": "' OR 1=1 --" })), Refused(Key)),
        ("kid is empty", by(p256, json!({ "alg": "ES256", "kid": "" })), Refused(Key)),
        (
            "kid with a NUL",
            by(p256, json!({ "alg": "ES256", "kid": format!("{}\0", p256.id()) })),
            Refused(Key),
        ),
        ("kid is a list", by(p256, json!({ "alg": "ES256", "kid": [p256.id()] })), malformed(head_error)),
        (
            "kid is endless",
            by(p256, json!({ "alg": "ES256", "kid": "k".repeat(2000) })),
            malformed(head_error),
        ),
        // Forms.
        (
            "critical extensions",
            by(p256, json!({ "alg": "ES256", "crit": ["b64"], "b64": false })),
            malformed(MalformedToken::Critical),
        ),
        (
            "no critical extensions",
            by(p256, json!({ "alg": "ES256", "crit": [] })),
            malformed(MalformedToken::Critical),
        ),
        ("alg twice", texts(&plain.replace('{', r#"{"alg":"none","#), &claims.to_string()), malformed(json)),
        ("kid twice", texts(&plain.replace('{', r#"{"kid":"x","#), &claims.to_string()), malformed(json)),
        ("iss twice", texts(&plain, &twice("iss", json!(OTHER_CLUSTER))), malformed(json)),
        (
            "sub twice",
            texts(&plain, &twice("sub", json!("system:serviceaccount:team:admin"))),
            malformed(json),
        ),
        ("sub twice, the same", texts(&plain, &twice("sub", claims["sub"].clone())), malformed(json)),
        ("exp twice", texts(&plain, &twice("exp", json!(NOW + YEAR))), malformed(json)),
        ("an unknown member twice", texts(&plain, &twice("x\":1,\"x", json!(2))), malformed(json)),
        ("claims are no object", texts(&plain, "[1]"), malformed(json)),
        ("claims are followed by others", texts(&plain, &format!("{claims}{claims}")), malformed(json)),
        ("claims are encrypted", format!("{front}.{signature}.{signature}.{signature}"), malformed(parts)),
        ("two parts", front.to_owned(), malformed(parts)),
        ("padded", format!("{good}=="), malformed(base64)),
        ("ends with a line break", format!("{good}\n"), malformed(base64)),
        ("in the other alphabet of base64", format!("{front}.{}+/", &signature[2..]), malformed(base64)),
        ("bits that mean nothing", format!("{front}.{}", loosened(signature)), malformed(base64)),
        (
            "larger than allowed",
            signed(&with(claims.clone(), "/x", json!("x".repeat(MAX_TOKEN_BYTES)))),
            malformed(MalformedToken::TooLong),
        ),
        (
            "a list nested deeply",
            texts(&plain, &twice("x", serde_json::from_str(&("[".repeat(100) + &"]".repeat(100))).unwrap())),
            Good,
        ),
        // Whatever is no JSON Web Token is left to others.
        ("an OpenShift token", "sha256~mPN5Xk-8pYw".to_owned(), NotMine),
        ("a password", "correct horse battery staple".to_owned(), NotMine),
        ("a password with dots", "a.b.c".to_owned(), NotMine),
        ("nothing", String::new(), NotMine),
        ("JSON serialization", format!(r#"{{"payload":"{body}","signature":"{signature}"}}"#), NotMine),
        ("a token after a space", format!(" {good}"), NotMine),
    ];
    let authenticator = authenticator(rules(false));
    for (name, token, expected) in &cases {
        assert_eq!(find(&authenticator, token, *expected).await, *expected, "{name}");
    }
}

/// The signature as X.509 writes it, which a token must not.
fn der_of(signature: &str) -> String {
    let raw = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    let number = |bytes: &[u8]| [&[2, 33, 0], bytes].concat();
    let numbers = [number(&raw[..32]), number(&raw[32..])].concat();
    BASE64_URL_SAFE_NO_PAD.encode([&[0x30, 70], numbers.as_slice()].concat())
}

/// The same bytes with another last character: 64 bytes leave four bits of it unused.
fn loosened(signature: &str) -> String {
    let (rest, last) = signature.split_at(signature.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(last).unwrap();
    format!("{rest}{}", &alphabet[place + 1..place + 2])
}

#[tokio::test]
async fn the_identity_is_the_one_that_the_api_server_would_tell() {
    let claims = with(
        with(bound(), "/kubernetes.io/pod", json!({ "name": "builder-7d4", "uid": "uid-of-pod" })),
        "/kubernetes.io/node",
        json!({ "name": "worker-2", "uid": "uid-of-node" }),
    );
    let authenticator = authenticator(rules(true));
    let known = identify(&authenticator, &signed(&claims)).await.unwrap().unwrap();
    let extra =
        |key: &str, value: &str| (format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    let identity = Identity {
        name: "system:serviceaccount:team:builder".to_owned(),
        uid: Some("uid-of-builder".to_owned()),
        groups: ["system:serviceaccounts", "system:serviceaccounts:team", "system:authenticated"]
            .map(str::to_owned)
            .to_vec(),
        extra: [
            extra("credential-id", "JTI=5a1f9b2e-0000-4000-8000-000000000001"),
            extra("node-name", "worker-2"),
            extra("node-uid", "uid-of-node"),
            extra("pod-name", "builder-7d4"),
            extra("pod-uid", "uid-of-pod"),
        ]
        .into(),
    };
    assert_eq!(*known.identity, identity);
    assert_eq!(known.expires, Some(UNIX_EPOCH + Duration::from_secs(NOW + HOUR)));

    // A node's uid is left out by older API servers; a token from a Secret says nothing of all that, and never ends.
    let claims = with(bound(), "/kubernetes.io/node", json!({ "name": "worker-2" }));
    let known = identify(&authenticator, &signed(&claims)).await.unwrap().unwrap();
    let keys: Vec<_> = known.identity.extra.keys().map(|key| key.rsplit('/').next().unwrap()).collect();
    assert_eq!(keys, ["credential-id", "node-name"]);
    let known = identify(&authenticator, &signed(&legacy())).await.unwrap().unwrap();
    assert_eq!(*known.identity, Identity { extra: [].into(), ..identity });
    assert_eq!(known.expires, None);
}

#[tokio::test]
async fn a_token_for_a_year_ends_when_it_is_a_day_old() {
    let claims = with(with(bound(), "/exp", json!(NOW + YEAR)), "/iat", json!(NOW - HOUR));
    let known = identify(&authenticator(rules(false)), &signed(&claims)).await.unwrap().unwrap();
    assert_eq!(known.expires, Some(UNIX_EPOCH + Duration::from_secs(NOW - HOUR + DAY)));
}

#[tokio::test]
async fn a_token_may_be_the_password_of_any_user() {
    let authenticator = authenticator(rules(false));
    for user in ["", "<token>", "unused", "serviceaccount", "system:serviceaccount:team:other"] {
        let credential =
            Credential::Password { user: user.to_owned(), password: Secret::new(signed(&bound())) };
        let known = authenticator.identify(&credential).await.unwrap().unwrap();
        assert_eq!(known.identity.name, "system:serviceaccount:team:builder");
    }
}

#[test]
fn whose_account_an_identity_is_has_one_answer() {
    let of = |name: &str| {
        let identity = Identity { name: name.to_owned(), ..Identity::default() };
        Account::of(&identity).map(|account| (account.namespace().to_owned(), account.full_name.to_owned()))
    };
    assert_eq!(of("system:serviceaccount:a:b"), Some(("a".to_owned(), "a:b".to_owned())));
    assert_eq!(of("system:serviceaccount:a"), None);
    assert_eq!(of("system:serviceaccounts:a:b"), None);
    assert_eq!(of("alice"), None);
}

proptest::proptest! {
    #[test]
    fn no_claims_are_too_odd_to_be_read(
        name in "(iss|sub|aud|exp|nbf|iat|jti|kubernetes.io|x)",
        value in r#"(null|true|-?[0-9]{1,20}(\.[0-9]{1,3})?(e-?[0-9]{1,3})?|"[a-z:]{0,9}"|\[\]|\{\}|\["registry",1\])"#,
    ) {
        let Ok(value) = serde_json::from_str::<Value>(&value) else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut claims = bound();
        claims[name] = value;
        let found = runtime.block_on(identify(&authenticator(rules(true)), &signed(&claims)));
        if let Ok(Some(known)) = found {
            proptest::prop_assert_eq!(&known.identity.name, "system:serviceaccount:team:builder");
        }
    }
}
