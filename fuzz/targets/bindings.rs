//! Any file is a policy or a list of what is wrong with it. What is explained is what is decided, and what is advised helps.
#![no_main]

use auth::rbac::{Binding, Subject};
use auth::{Decision, Identity, ResourceAttributes, bindings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match bindings::load(&[("file.yaml".to_owned(), text.as_bytes().to_vec())]) {
        Ok(loaded) => {
            let mut policy = loaded.policy;
            let caller = Identity { name: "alice".to_owned(), ..Identity::default() };
            let wanted = ResourceAttributes {
                verb: "get",
                group: "image.openshift.io",
                resource: "imagestreams",
                subresource: "layers",
                namespace: "team",
                name: "app",
            };
            let allowed = policy.decide(&caller, &wanted) != Decision::Denied;
            assert_eq!(policy.explain(&caller, &wanted).is_allowed(), allowed);
            if let Some(remedy) = policy.remedy(&caller, &[wanted]) {
                policy.put_binding(Binding {
                    namespace: Some(wanted.namespace.to_owned()),
                    name: "remedy".to_owned(),
                    role: remedy.role,
                    subjects: vec![Subject::User(caller.name.clone())],
                });
                assert_ne!(policy.decide(&caller, &wanted), Decision::Denied);
            }
        }
        Err(problems) => {
            assert!(!problems.0.is_empty());
            assert!(problems.0.iter().all(|problem| problem.line > 0 && !problem.what.is_empty()));
        }
    }
});
