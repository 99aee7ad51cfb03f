//! Whoever is known by a token was named by a key of ours, in one reading, and is a service account. An input is header and
//! claims, with a NUL byte between, which are then signed; or any text, which nobody signed.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use auth::{
    ApiServerTokens, Authenticated, AuthenticationError, Authenticator, Clock, Credential, Files, Issuer,
    IssuerName, KeySet, LEGACY_ISSUER, RegistryTokenKeys, RegistryTokens, Secret, ServiceAccounts,
    TokenRules,
};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;

const ISSUER: &str = "https://kubernetes.default.svc";

static WORLD: LazyLock<(EcdsaKeyPair, ServiceAccounts, RegistryTokens)> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("there is randomness");
    let der = pair.public_key().as_der().expect("a key has an encoding");
    let folder = tempfile::tempdir().expect("there is a folder for temporary files");
    let path = folder.path().join("keys");
    let body = BASE64_STANDARD.encode(der.as_ref());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
    std::fs::write(&path, pem).expect("there is room");
    let keys = || KeySet::from_files(&[&path], &Files::new()).expect("the key is one");
    let issuers = [ISSUER, LEGACY_ISSUER]
        .map(|name| Issuer { name: IssuerName::Exactly(name.to_owned()), keys: keys() });
    let mut rules = TokenRules::for_audiences(vec!["registry".to_owned()]);
    rules.api_server = ApiServerTokens::For(vec![ISSUER.to_owned()]);
    let clock = || Clock::new(|| UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let accounts = ServiceAccounts::new(issuers.into(), rules, clock());
    let keys = RegistryTokenKeys::random().expect("there is randomness");
    let minutes = Duration::from_secs(300);
    (pair, accounts, RegistryTokens::new(keys, "registry".to_owned(), minutes, None, clock()))
});

fn identify(
    authenticator: &dyn Authenticator,
    token: &str,
) -> Result<Option<Authenticated>, AuthenticationError> {
    let credential = Credential::Token(Secret::new(token));
    authenticator.identify(&credential).now_or_never().expect("keys of a file are waited for by nobody")
}

fuzz_target!(|text: &str| {
    let (pair, accounts, registry) = &*WORLD;
    let Some((header, claims)) = text.split_once('\0') else {
        assert!(!matches!(identify(accounts, text), Ok(Some(_))));
        assert!(!matches!(identify(registry, text), Ok(Some(_))));
        return;
    };
    let signed = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a key signs");
    let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
    if let Ok(Some(known)) = identify(accounts, &token) {
        let parts: Vec<_> = known.identity.name.split(':').collect();
        assert!(
            matches!(parts[..], ["system", "serviceaccount", namespace, name] if !namespace.is_empty() && !name.is_empty())
        );
        assert_eq!(known.identity.groups.len(), 3);
        assert!(known.identity.uid.as_ref().is_some_and(|uid| !uid.is_empty()));
        let claims: serde_json::Value = serde_json::from_str(claims).expect("what was believed is JSON");
        assert_eq!(claims["sub"], *known.identity.name);
        assert!(known.expires.is_some() || claims["iss"] == LEGACY_ISSUER);
        assert!(
            !registry.issue(&known, Some(&Secret::new(&*token))).is_ok_and(|given| given
                .token
                .expose()
                .len()
                > 4096)
        );
    }
});
