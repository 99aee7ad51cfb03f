use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

use super::*;
use crate::compact_token::CompactToken;
use crate::files::tests::Said;

/// A pair of keys that signs tokens as an API server would, or as somebody would who should not.
pub(crate) struct TestKey {
    pair: Pair,
    algorithm: Algorithm,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Elliptic(EcdsaKeyPair),
}

impl TestKey {
    pub(crate) fn rsa() -> Self {
        let pair = Pair::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));
        Self { pair, algorithm: Algorithm::Rs256 }
    }

    pub(crate) fn p256() -> Self {
        Self::elliptic(Algorithm::Es256, &ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    pub(crate) fn p384() -> Self {
        Self::elliptic(Algorithm::Es384, &ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    pub(crate) fn p521() -> Self {
        Self::elliptic(Algorithm::Es512, &ECDSA_P521_SHA512_FIXED_SIGNING)
    }

    fn elliptic(algorithm: Algorithm, signing: &'static EcdsaSigningAlgorithm) -> Self {
        Self { pair: Pair::Elliptic(EcdsaKeyPair::generate(signing).unwrap()), algorithm }
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        self.algorithm.name()
    }

    pub(crate) fn id(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, &self.der()))
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Pair::Elliptic(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
        }
    }

    pub(crate) fn pem(&self) -> String {
        pem_of(&self.der())
    }

    pub(crate) fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (id, algorithm) = (self.id(), self.algorithm());
        match &self.pair {
            Pair::Rsa(pair) => {
                // SEQUENCE, then INTEGER with its leading zero: nine bytes before the modulus.
                let n = encode(&pair.public_key().as_ref()[9..9 + pair.public_modulus_len()]);
                json!({ "use": "sig", "kty": "RSA", "kid": id, "alg": algorithm, "n": n, "e": "AQAB" })
            }
            Pair::Elliptic(pair) => {
                let curve = match self.algorithm {
                    Algorithm::Es256 => "P-256",
                    Algorithm::Es384 => "P-384",
                    Algorithm::Es512 => "P-521",
                    Algorithm::Rs256 => unreachable!("it is not elliptic"),
                };
                let (x, y) =
                    pair.public_key().as_ref()[1..].split_at((pair.public_key().as_ref().len() - 1) / 2);
                let (x, y) = (encode(x), encode(y));
                json!({ "use": "sig", "kty": "EC", "kid": id, "alg": algorithm, "crv": curve, "x": x, "y": y })
            }
        }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Elliptic(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
        }
    }

    /// A token whose header and claims are these, whatever they are.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        self.token_of_texts(&header.to_string(), &claims.to_string())
    }

    pub(crate) fn token_of_texts(&self, header: &str, claims: &str) -> String {
        let signed = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn pem_of(der: &[u8]) -> String {
    let body = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// RSA keys take long to make.
pub(crate) static RSA: LazyLock<TestKey> = LazyLock::new(TestKey::rsa);

/// A set of these keys, from a file.
pub(crate) fn key_set(keys: &[&TestKey]) -> KeySet {
    let keys: String = keys.iter().map(|key| key.pem()).collect();
    KeySet(Source::Files(vec![Watched::fixed(parse(keys.as_bytes()).unwrap())]))
}

async fn ids(set: &KeySet, key_id: Option<&str>) -> Vec<String> {
    set.named(key_id).await.unwrap().iter().map(|key| key.id.clone()).collect()
}

/// Public keys, their names and a token signed by each, made with the `openssl` command line.
const OF_OPENSSL: [(&str, &str, &str); 4] = [
    (
        "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAvcH9n3tBWyujT2wrBgiG
33qEuAQ0WrbRdj421qdiNn4bMsve8vRHqkm9fE72Om8fDgY24imxL0365QX3SvKJ
JwMxDY9nvO0HixrrFblfY68TelBc3vlYwLAnZ6zx4rmqgfPHqEBvUwnJRC/o33+c
6eR+vx0Y8cF3iIp1OkjBYaF+0us9anlYY5EOoYRqO2tEKpgVyW0nzN9azcqdsA5u
YNRZ2TjOB9BncWVnE2eQ9Czh0ATEGekqGYRCQZyOaPXF46Ykb2slsvHBK+msK/gp
JweKDMZiZANTMQhJXsNskrjW/ceap0m/aRpXVU6qjacKqmpDEr/fFHkWkIXLNcyI
sQIDAQAB
-----END PUBLIC KEY-----\n",
        "TDBJqMKyDpZM4UnuG69abDPinRzKubnoz7tm_3BEOg4",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJvcGVuc3NsIn0.px706bbIvWgUkeTBBu_DwCKrBwXMq4Nay58oslKRxmU_l3Cqo5trg\
         rvI_xRJZxLe6ybnHJMcY4jfRKUSNYXXp4fXW93JwS2r164v7xaCu2BvnKC9QBpMWZxdsnHjabC7h4mKCV-QznnI3ijx-wvWn_N\
         SI0HWCJVbhZCX2N0U8jkWeclbFoi8cA2XAnbb8JMhEs7ESLysxy_wk3ixEAjoxsr7b1NCdYluJr-5NpBC84hgZHC6TiAb8ffse\
         SZDg9ORYuoqolHE995vbLaqGGhlOmxuIModStCDRG3tjc9s16A6XNIcE18TEgIP_wCSxgC82gooiJKZCiJ903BX6UWplw",
    ),
    (
        "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAErOemElknW3oKo+g4bu09ZJhN8RIC
ya9Rs9P+XrexafGTOkrHSqN3paPTrtmI33jOwKfpD6YQd97tGntkEdhrsQ==
-----END PUBLIC KEY-----\n",
        "SFKDStidPkaYqDqqy5LuY9LHms_ko2g7df7VhAlvDhk",
        "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJvcGVuc3NsIn0.fh0LgHvARsNrdHlhL86_wDtVxgtLdmNMGu0r07hzdmL__tbOld21e\
         kGwg2ooPRJ33h8SiHuKTrcqJan-o0qptg",
    ),
    (
        "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEQIGMb4zLd3NHMm+jX+6sR5z1zS5fao6R
XZ8YVOKLPfPojwINiack41Pbr6nPyjwQOTXC7wZng3LEcnHi9eR+Jw1beOhcDF9l
E8jwOezz6FHLgB38Hr7p6YH8sTsxJzXv
-----END PUBLIC KEY-----\n",
        "hWeFG0OqqtbZXngKrK0m9msSOqu5DppK2WcMB_M9U80",
        "eyJhbGciOiJFUzM4NCJ9.eyJzdWIiOiJvcGVuc3NsIn0.foPqHTXaKGJ_AksRO4YDBegHPU4-POhsyShsb4Jhk4fc5o2YsufdF\
         MehT6Oh_zcTYt_z3T9A_r6W2AkffDXAz1KIv3yi4RkZBnfPnLaMquC8izAxXpb1ZDnBfwt6eY7j",
    ),
    (
        "-----BEGIN PUBLIC KEY-----
MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQAcJDj2UdfN8XeaLVi1ROoTIQVQWCK
kvf5wNpvRaXiR53ulApmsgCY53fz7xU+vs02C9YwO2b6JdgFGVnr0aWur9wBeVCO
xGSiZZr4EaaoRYg7B48G5ndf4GC3UAfWB9gAIS44AOXN1Pbc3oB8ImY1FVNlnKQ8
3RQAvLffoYnLyGutQVY=
-----END PUBLIC KEY-----\n",
        "aSFFokJG0kuY_nI8tWw3G8Dx5m14X3Sq-Dn-sI7cm58",
        "eyJhbGciOiJFUzUxMiJ9.eyJzdWIiOiJvcGVuc3NsIn0.AWDyo_J16BePUm8RO2E49r-xzR23KA04KKGHsp4PK6qhAAoGd4Qy3\
         FY-HN7fWYcEov4SjSSJ5qyEpM6IAZmQzUc0ARjEetCsew0C-IKBlAT5dnRAUzU63QikwPp_jb8tJkA3KtUeu4ioT1kTDUAGaUs\
         LYrCHV95g8G614EF9jYFfPHvD",
    ),
];

#[test]
fn keys_of_openssl_are_named_as_kubernetes_does_and_verify_what_openssl_signed() {
    for (pem, id, token) in OF_OPENSSL {
        let keys = parse(pem.as_bytes()).unwrap();
        assert_eq!(keys[0].id, id);
        let token = CompactToken::parse(token).unwrap();
        assert!(keys[0].verifies(&token.algorithm, token.signed, &token.signature), "{}", token.algorithm);
        let mut tampered = token.signature.clone();
        tampered[20] ^= 1;
        assert!(!keys[0].verifies(&token.algorithm, token.signed, &tampered));
        assert!(!keys[0].verifies(&token.algorithm, &token.signed[1..], &token.signature));
        for other in Algorithm::ALL.into_iter().filter(|other| other.name() != token.algorithm) {
            assert!(!keys[0].verifies(other.name(), token.signed, &token.signature));
        }
    }
}

#[tokio::test]
async fn several_keys_in_one_file_and_several_files_are_one_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (first, second, third) = (TestKey::p256(), TestKey::p384(), TestKey::p521());
    std::fs::write(path("pem"), format!("# ours\n{}\nof old\n{}", first.pem(), second.pem())).unwrap();
    std::fs::write(path("jwks"), json!({ "keys": [third.jwk()] }).to_string()).unwrap();
    let files = Files::new();
    let set = KeySet::from_files(&[path("pem"), path("jwks")], &files).unwrap();
    assert_eq!(ids(&set, None).await, [first.id(), second.id(), third.id()]);
    assert_eq!(ids(&set, Some(&third.id())).await, [third.id()]);
    assert_eq!(ids(&set, Some("other")).await, [""; 0]);

    // Rotation: the file changes, also if there are keys of other kinds in it; one that became useless does not.
    let next = TestKey::p256();
    std::fs::write(path("pem"), EDWARDS.to_owned() + &next.pem()).unwrap();
    std::fs::write(path("jwks"), "{}").unwrap();
    files.use_what_is_new();
    assert_eq!(ids(&set, None).await, [next.id(), third.id()]);
}

#[test]
fn entries_that_are_not_understood_are_skipped() {
    let key = TestKey::p256();
    let mut named = key.jwk();
    named["kid"] = json!("chosen by a signer");
    named["x5c"] = json!(["ignored"]);
    let with = |name: &str, value: Value| {
        let mut jwk = key.jwk();
        jwk[name] = value;
        jwk
    };
    let (x, y) = (key.jwk()["x"].clone(), key.jwk()["y"].clone());
    let unusable = [
        json!({ "kty": "AKP", "alg": "ML-DSA-65", "kid": "post-quantum", "pub": "AAAA" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": "edwards", "x": x }),
        json!({ "kty": "oct", "kid": "secret", "k": "AAAA" }),
        json!({ "kid": "no kind" }),
        json!("no object"),
        with("use", json!("enc")),
        with("alg", json!("ES384")),
        with("alg", json!("HS256")),
        with("crv", json!("P-384")),
        with("crv", json!("secp256k1")),
        with("y", json!("AAAA")),
        with("y", x.clone()),
        with("x", json!(format!("{}=", x.as_str().unwrap()))),
        with("kid", json!(7)),
        json!({ "kty": "RSA", "alg": "RS256", "n": y, "e": "AQAB" }),
    ];
    for entry in unusable.clone() {
        assert!(parse(json!({ "keys": [entry] }).to_string().as_bytes()).is_err(), "{entry}");
    }
    let entries: Vec<_> = unusable.into_iter().chain([named, RSA.jwk()]).collect();
    let keys = parse(json!({ "keys": entries }).to_string().as_bytes()).unwrap();
    let ids: Vec<_> = keys.iter().map(|key| key.id.as_str()).collect();
    assert_eq!(ids, ["chosen by a signer", &RSA.id()]);
}

#[test]
fn a_jwk_without_a_name_has_the_one_that_kubernetes_would_give() {
    for key in [&*RSA, &TestKey::p256(), &TestKey::p384(), &TestKey::p521()] {
        let mut jwk = key.jwk();
        jwk.as_object_mut().unwrap().remove("kid");
        let keys = parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        assert_eq!(keys[0].id, key.id());
        let signature = key.sign(b"message");
        assert!(keys[0].verifies(key.algorithm(), b"message", &signature));
    }
}

/// RSA of 1024 bits.
const WEAK: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC4d5G9V2yIVxd0Ftgz5ow3OVaU
9cGHqtquob5+oT7XhLIVYMzABshrFIhsz3wDt56vyFOxanv8D9qSH4QMz569u6i+
xGTv5gy4TkZqDAU1uX1LX/+j8beMc44OKl1tBdjYIugvRkMVDVNS3Jh9K//15G/N
Q+8TPF3k4UO4pI94XQIDAQAB
-----END PUBLIC KEY-----\n";

const EDWARDS: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAXLDOFsSKREXE6XzbYaf7KXP1jzVMTrv1LivtDkK2000=
-----END PUBLIC KEY-----\n";

#[test]
fn a_key_of_another_kind_spoils_no_other_in_its_file_and_is_told_of_once() {
    // ML-DSA-65, and P-256's neighbour that Bitcoin uses, each as far as anybody looks.
    let post_quantum = pem_of(b"\x30\x14\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x12\x03\x05\0key!");
    let koblitz =
        b"\x30\x56\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\0\x0a\x03\x42\0\x04";
    let koblitz = pem_of(&[&koblitz[..], &[7; 64]].concat());
    let (first, last) = (TestKey::p256(), TestKey::p521());
    let file = first.pem() + &post_quantum + EDWARDS + &koblitz + WEAK + &last.pem();
    let said = Said::default();
    let keys = tracing::subscriber::with_default(said.clone(), || parse(file.as_bytes())).unwrap();
    let ids: Vec<_> = keys.iter().map(|key| key.id.as_str()).collect();
    assert_eq!((ids, said.count()), (vec![&*first.id(), &*last.id()], 1));
    tracing::subscriber::with_default(said.clone(), || parse(first.pem().as_bytes())).unwrap();
    assert_eq!(said.count(), 1, "there is nothing to tell of that");
}

#[test]
fn a_file_without_usable_keys_says_what_it_has_instead() {
    let mut of_no_curve = TestKey::p256().der();
    *of_no_curve.last_mut().unwrap() ^= 1;
    let cases = [
        (String::new(), "no `PUBLIC KEY`"),
        ("ssh-ed25519 AAAA".to_owned(), "no `PUBLIC KEY`"),
        (
            WEAK.to_owned() + EDWARDS,
            "none of its public keys is RSA of 2048 to 8192 bits, P-256, P-384 or P-521",
        ),
        (TestKey::p256().pem() + EDWARDS + &pem_of(b"0*0"), "public key number 3 cannot be read"),
        (TestKey::p256().pem() + &pem_of(&of_no_curve), "public key number 2 cannot be read"),
        (
            TestKey::p256()
                .pem()
                .replace("BEGIN PUBLIC", "BEGIN PRIVATE")
                .replace("END PUBLIC", "END PRIVATE"),
            "private key",
        ),
        (TestKey::p256().pem().replace("PUBLIC KEY", "CERTIFICATE"), "openssl x509"),
        (TestKey::p256().pem().replace("END PUBLIC KEY", "END"), "not PEM"),
        ("{".to_owned(), "not a JSON Web Key Set"),
        (r#"{"keys":[]}"#.to_owned(), "no RSA, P-256, P-384 or P-521 key"),
    ];
    for (contents, expected) in cases {
        let problem = parse(contents.as_bytes()).unwrap_err();
        assert!(problem.contains(expected), "{contents}: {problem}");
    }
}

proptest::proptest! {
    #[test]
    fn no_file_is_too_odd_to_be_parsed(contents: Vec<u8>, entry in r#"\{"kty":"(RSA|EC)","crv":"P-256","[nexy]":"[A-Za-z_]{0,9}"\}"#) {
        let _ = parse(&contents);
        let _ = parse(format!(r#"{{"keys":[{entry}]}}"#).as_bytes());
        let _ = PublicKey::from_der(&contents);
        let _ = is_of_another_kind(&contents);
    }
}
