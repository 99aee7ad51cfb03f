//! Every path means one thing: what is understood prints as a path that means the same, and what is not has an answer.
#![no_main]

use axum::http::Method;
use libfuzzer_sys::fuzz_target;
use wharf::api::endpoint::Endpoint;

const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

fuzz_target!(|path: &str| match Endpoint::parse(path) {
    Ok(endpoint) => {
        assert_eq!(Endpoint::parse(&endpoint.to_string()).as_ref(), Ok(&endpoint));
        let known = METHODS.iter().filter(|method| endpoint.right(method).is_some()).count();
        assert_eq!(endpoint.allow().split(", ").count(), known);
        assert!(endpoint.route().as_str().starts_with("/v2/"));
    }
    Err(error) => {
        for method in &METHODS {
            let (status, _) = error.clone().answer_to(method).status_and_code();
            assert!(status.is_client_error());
        }
    }
});
