//! What may be done, decided by the API server and by us: the same objects, the same questions, no difference.

mod made_up;

use auth::{Decision, Identity, ResourceAttributes, bindings, rbac::Policy};
use futures_util::{StreamExt, stream};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngSeed, TestRunner},
};
use serde_json::{Value, json};
use uuid::Uuid;

use self::made_up::{MADE_OF_OTHERS, NAMESPACES, Question};
use crate::harness::{Cluster, cluster::Api, until};

const QUESTIONS: usize = 6000;

/// How many requests are under way at once.
const CONNECTIONS: usize = 16;

#[tokio::test]
async fn we_decide_as_the_api_server_does() {
    let Some(cluster) = Cluster::start() else { return };
    let cluster = cluster.await;
    let admin = cluster.admin();
    let mut config = Config::default();
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(Uuid::new_v4().as_u64_pair().0);
    }
    let again = format!("again with PROPTEST_RNG_SEED={}", config.rng_seed);
    let mut runner = TestRunner::new(config);

    // The roles that we have built in and it has not.
    cluster.apply(include_str!("../../deploy/rbac/roles.yaml")).await;
    let objects = made_up::objects().new_tree(&mut runner).unwrap().current();
    let namespaces = NAMESPACES.map(|name| json!({ "kind": "Namespace", "metadata": { "name": name } }));
    create(&admin, &namespaces).await;
    create(&admin, &objects).await;
    wait_until_all_is_known(&admin).await;
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    let loaded = bindings::load(&[("objects.json".to_owned(), list.to_string().into_bytes())]);
    let policy = loaded.unwrap_or_else(|problems| panic!("{problems}\n{again}")).policy;

    let questions: Vec<Question> =
        (0..QUESTIONS).map(|_| made_up::question().new_tree(&mut runner).unwrap().current()).collect();
    let answers = stream::iter(&questions).map(async |question| (question, decision(&admin, question).await));
    let answers: Vec<_> = answers.buffer_unordered(CONNECTIONS).collect().await;

    let differences = answers.iter().filter_map(|(question, (allowed, reason))| {
        difference(&policy, &objects, question, *allowed, reason)
    });
    let differences: Vec<String> = differences.collect();
    if let Some(smallest) = differences.iter().min_by_key(|difference| difference.len()) {
        panic!("{} of {QUESTIONS} decisions differ, such as {smallest}\n{again}", differences.len());
    }
    let allowed = answers.iter().filter(|(_, (allowed, _))| *allowed).count();
    let few = QUESTIONS / 20;
    assert!((few..QUESTIONS - few).contains(&allowed), "{allowed} of {QUESTIONS} are allowed; {again}");
}

async fn create(admin: &Api, objects: &[Value]) {
    let made = stream::iter(objects).map(async |object| {
        let namespace = object["metadata"]["namespace"].as_str();
        let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        let path = match namespace {
            _ if plural == "namespaces" => "/api/v1/namespaces".to_owned(),
            None => format!("/apis/rbac.authorization.k8s.io/v1/{plural}"),
            Some(namespace) => format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/{plural}"),
        };
        admin.post(&path, object).await;
    });
    made.buffer_unordered(CONNECTIONS).collect().await
}

/// Waits until the API server decides by all that was created before.
///
/// It learns of the objects of each kind in the order in which they were made, so the last of each tells. Roles that are
/// made of others are worked out by a controller, step by step: the last of a chain that is longer than any tells.
async fn wait_until_all_is_known(admin: &Api) {
    let rules = json!([{ "verbs": ["know"], "apiGroups": ["last"], "resources": ["all"] }]);
    let last = |kind: &str, metadata: Value, rest: Value| made_up::object(kind, metadata, rest);
    let link = |index: usize| {
        let metadata = json!({ "name": format!("last-{index}"), "labels": { "last": index.to_string() } });
        match index.checked_sub(1) {
            None => last("ClusterRole", metadata, json!({ "rules": rules })),
            Some(before) => {
                let selectors = json!([{ "matchLabels": { "last": before.to_string() } }]);
                let rule = json!({ "clusterRoleSelectors": selectors });
                last("ClusterRole", metadata, json!({ "aggregationRule": rule }))
            }
        }
    };
    let chain: Vec<Value> = (0..=MADE_OF_OTHERS + 1).map(link).collect();
    create(admin, &chain).await;
    let end = format!("last-{}", MADE_OF_OTHERS + 1);
    let everywhere = json!({ "name": "last" });
    let here = json!({ "name": "last", "namespace": NAMESPACES[0] });
    let grant = |kind: &str, role: &str, user: &str| json!({ "roleRef": { "kind": kind, "name": role }, "subjects": [{ "kind": "User", "name": user }] });
    let lasts = [
        last("Role", here.clone(), json!({ "rules": rules })),
        last("RoleBinding", here, grant("Role", "last", "here")),
        last("ClusterRoleBinding", everywhere, grant("ClusterRole", &end, "everywhere")),
    ];
    create(admin, &lasts).await;
    for user in ["here", "everywhere"] {
        let (verb, group, resource, namespace) = ("know", "last", "all", NAMESPACES[0]);
        let wanted = ResourceAttributes { verb, group, resource, subresource: "", namespace, name: "" };
        let question = Question { user, groups: &[], wanted };
        until(async || decision(admin, &question).await.0).await;
    }
}

/// Whether the API server allows it, and what it says to that.
async fn decision(admin: &Api, question: &Question) -> (bool, String) {
    let Question { user, groups, wanted } = question;
    let ResourceAttributes { verb, group, resource, subresource, namespace, name } = wanted;
    let review = json!({ "spec": { "user": user, "groups": groups, "resourceAttributes": {
        "verb": verb, "group": group, "resource": resource, "subresource": subresource,
        "namespace": namespace, "name": name,
    } } });
    let answer = admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await;
    let status = &answer["status"];
    (status["allowed"].as_bool().unwrap(), status["reason"].as_str().unwrap_or("no reason").to_owned())
}

/// What there is to say if we decide otherwise than the API server: both reasons, and the objects that they name.
fn difference(
    policy: &Policy,
    objects: &[Value],
    question: &Question,
    allowed: bool,
    reason: &str,
) -> Option<String> {
    let Question { user, groups, wanted } = question;
    let groups = groups.iter().map(|&group| group.to_owned()).collect();
    let caller = Identity { name: (*user).to_owned(), groups, ..Identity::default() };
    let ours = policy.decide(&caller, wanted);
    if allowed == (ours != Decision::Denied) {
        return None;
    }
    let reasons = format!(
        "the API server: {}, {reason}\nWharf: {ours:?}, {}",
        if allowed { "allowed" } else { "denied" },
        policy.explain(&caller, wanted)
    );
    let is_named = |object: &&Value| {
        let (kind, metadata) = (object["kind"].as_str().unwrap(), &object["metadata"]);
        let name = metadata["name"].as_str().unwrap();
        match metadata["namespace"].as_str() {
            Some(namespace) => {
                [format!("{kind} {namespace}/{name} "), format!("{kind} \"{name}/{namespace}\"")]
            }
            None => [format!("{kind} {name} "), format!("{kind} \"{name}\"")],
        }
        .iter()
        .any(|label| reasons.contains(label))
    };
    let named: Vec<String> = objects.iter().filter(is_named).map(Value::to_string).collect();
    Some(format!("{caller:?}: {wanted}\n{reasons}\n{}", named.join("\n")))
}
