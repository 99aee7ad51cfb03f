//! What a decision costs, and what the policy takes, with 10,000 service accounts in 1,000 namespaces and 100,000
//! bindings: `cargo bench -p wharf-auth`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use wharf_auth::rbac::{Binding, RoleKind, RoleRef, Subject};
use wharf_auth::{Decision, Identity, ResourceAttributes};

const NAMESPACES: usize = 1_000;
const ACCOUNTS: usize = 10_000;
const BINDINGS: usize = 100_000;
const ROUNDS: usize = 1_000_000;

fn main() {
    let built_in = wharf_auth::bindings::load(&[]).expect("what is built in is right").policy;
    let before = resident_kib();
    let begun = Instant::now();
    let mut policy = built_in;
    (0..BINDINGS).for_each(|number| policy.put_binding(binding(number)));
    println!("{BINDINGS} bindings: {:?}, {} MiB", begun.elapsed(), (resident_kib() - before) / 1024);

    let callers: Vec<Identity> = (0..ACCOUNTS).map(caller).collect();
    for (what, verb, offset) in
        [("allowed", "get", 0), ("denied", "delete", 0), ("denied elsewhere", "get", 5)]
    {
        let mut slowest = Duration::ZERO;
        let mut allowed = 0;
        let begun = Instant::now();
        for round in 0..ROUNDS {
            let account = round * 7 % ACCOUNTS;
            let namespace = namespace(account % NAMESPACES + offset);
            let wanted = ResourceAttributes {
                verb,
                group: "image.openshift.io",
                resource: "imagestreams",
                subresource: "layers",
                namespace: &namespace,
                name: "app",
            };
            let asked = Instant::now();
            let decision = black_box(policy.decide(&callers[account], &wanted));
            slowest = slowest.max(asked.elapsed());
            allowed += usize::from(decision != Decision::Denied);
        }
        let each = begun.elapsed() / u32::try_from(ROUNDS).expect("it is small");
        println!(
            "{what}: {each:?} each, with making the question; {allowed} of {ROUNDS} allowed; slowest {slowest:?}"
        );
    }

    let begun = Instant::now();
    for number in 0..BINDINGS {
        policy.put_binding(binding(number));
    }
    let each = begun.elapsed() / u32::try_from(BINDINGS).expect("it is small");
    println!("changed one binding: {each:?}");
}

/// The accounts of a namespace are named by ten bindings each: nine of other namespaces, one of their own.
fn binding(number: usize) -> Binding {
    let account = number % ACCOUNTS;
    let distance = number / ACCOUNTS * 100;
    let role = if number.is_multiple_of(3) { "system:image-builder" } else { "system:image-puller" };
    Binding {
        namespace: Some(namespace(account % NAMESPACES + distance)),
        name: format!("binding-{number}"),
        role: RoleRef { kind: RoleKind::ClusterRole, name: role.to_owned() },
        subjects: vec![Subject::ServiceAccount {
            namespace: Some(namespace(account % NAMESPACES)),
            name: format!("account-{account}"),
        }],
    }
}

fn caller(account: usize) -> Identity {
    let namespace = namespace(account % NAMESPACES);
    Identity {
        name: format!("system:serviceaccount:{namespace}:account-{account}"),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ],
        ..Identity::default()
    }
}

fn namespace(number: usize) -> String {
    format!("team-{}", number % NAMESPACES)
}

/// Memory of this process that is in use.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells that");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}
