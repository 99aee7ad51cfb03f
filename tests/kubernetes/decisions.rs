//! What may be done, decided by the API server and by us: the same objects, the same questions, no difference.

mod made_up;

use std::{collections::BTreeSet, time::Duration};

use auth::{
    Authorizer, Decision, ResourceAttributes,
    bindings::{self, WatchedBindings},
    rbac::Policy,
};
use futures_util::{StreamExt, stream};
use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngSeed, TestRunner},
};
use serde_json::{Value, json};
use uuid::Uuid;

use self::made_up::{NAMESPACES, Question};
use crate::harness::{
    Cluster,
    cluster::{ADMIN, Api, user_token},
    until,
};

const QUESTIONS: usize = 6000;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

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
    wait_until_all_is_made(&admin, &objects).await;
    wait_until_all_is_known(&admin).await;

    // It lets `system:masters` do everything whatever is bound to them, and has bound that to them: by this they may here, too.
    let masters = admin.get(&format!("{RBAC}/clusterrolebindings/cluster-admin")).await;
    let items = [&objects[..], &[masters]].concat();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let loaded = bindings::load(&[("objects.json".to_owned(), list.to_string().into_bytes())]);
    let policy = loaded.unwrap_or_else(|problems| panic!("{problems}\n{again}")).policy;

    let questions = vec(made_up::question(), QUESTIONS).new_tree(&mut runner).unwrap().current();
    let answers = stream::iter(&questions).map(async |question| (question, decision(&admin, question).await));
    let answers: Vec<_> = answers.buffered(CONNECTIONS).collect().await;

    let differences = answers.iter().filter_map(|(question, (allowed, reason))| {
        difference(&policy, &objects, question, *allowed, reason)
    });
    let differences: Vec<String> = differences.collect();
    if let Some(smallest) = differences.iter().min_by_key(|difference| difference.len()) {
        panic!("{} of {QUESTIONS} decisions differ, such as {smallest}\n{again}", differences.len());
    }

    // What is watched decides alike.
    let kubeconfig = cluster.kubeconfig(&user_token(ADMIN));
    let connected = auth::Cluster::connect(Some(&kubeconfig), Duration::from_secs(60)).await.unwrap();
    let watched = WatchedBindings::read(&connected).await.unwrap();
    for (question, (allowed, reason)) in &answers {
        let ours = watched.decide(&question.caller(), &question.wanted).await.unwrap();
        assert_eq!(ours != Decision::Denied, *allowed, "{question:?}: {ours:?}, {reason}\n{again}");
    }

    let allowed = answers.iter().filter(|(_, (allowed, _))| *allowed).count();
    let few = QUESTIONS / 20;
    assert!((few..QUESTIONS - few).contains(&allowed), "{allowed} of {QUESTIONS} are allowed; {again}");
}

async fn create(admin: &Api, objects: &[Value]) {
    let made = stream::iter(objects).map(async |object| {
        let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        let path = match object["metadata"]["namespace"].as_str() {
            _ if plural == "namespaces" => "/api/v1/namespaces".to_owned(),
            None => format!("{RBAC}/{plural}"),
            Some(namespace) => format!("{RBAC}/namespaces/{namespace}/{plural}"),
        };
        admin.post(&path, object).await;
    });
    made.buffer_unordered(CONNECTIONS).collect().await
}

/// Waits until a controller has given all rules to the roles that are made of others.
async fn wait_until_all_is_made(admin: &Api, objects: &[Value]) {
    let mut made_of_others = Vec::new();
    for object in objects.iter().filter(|object| object["aggregationRule"].is_object()) {
        let mut parts = Vec::new();
        for selector in object["aggregationRule"]["clusterRoleSelectors"].as_array().unwrap() {
            let selector: String = form_urlencoded::byte_serialize(in_words(selector).as_bytes()).collect();
            let selected = admin.get(&format!("{RBAC}/clusterroles?labelSelector={selector}")).await;
            parts.extend(selected["items"].as_array().unwrap().iter().map(|role| name(role).to_owned()));
        }
        let name = name(object).to_owned();
        parts.retain(|part| *part != name);
        made_of_others.push((name, parts));
    }
    until(async || {
        let roles = admin.get(&format!("{RBAC}/clusterroles")).await;
        let rules_of = |wanted: &String| {
            let role = roles["items"].as_array().unwrap().iter().find(|role| name(role) == wanted).unwrap();
            role["rules"].as_array().into_iter().flatten().map(Value::to_string)
        };
        made_of_others.iter().all(|(name, parts)| {
            let theirs: BTreeSet<String> = parts.iter().flat_map(rules_of).collect();
            rules_of(name).collect::<BTreeSet<_>>() == theirs
        })
    })
    .await;
}

/// A label selector as a question has it.
fn in_words(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap()));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten().map(|expression| {
        let key = expression["key"].as_str().unwrap();
        let values =
            expression["values"].as_array().into_iter().flatten().map(|value| value.as_str().unwrap());
        let values = values.collect::<Vec<_>>().join(",");
        match expression["operator"].as_str().unwrap() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            other => panic!("{other} is no operator"),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

/// Waits until the API server decides by all that is there. It learns of the objects of each kind in the order in which
/// they were written, so the last of each tells.
async fn wait_until_all_is_known(admin: &Api) {
    let rules = json!({ "rules": [{ "verbs": ["know"], "apiGroups": ["last"], "resources": ["all"] }] });
    let grant = |kind: &str, user: &str| {
        let subjects = json!([{ "kind": "User", "name": user }]);
        json!({ "roleRef": { "kind": kind, "name": "last" }, "subjects": subjects })
    };
    let everywhere = json!({ "name": "last" });
    let here = json!({ "name": "last", "namespace": NAMESPACES[0] });
    let last = [
        made_up::object("Role", here.clone(), rules.clone()),
        made_up::object("RoleBinding", here, grant("Role", "here")),
        made_up::object("ClusterRole", everywhere.clone(), rules),
        made_up::object("ClusterRoleBinding", everywhere, grant("ClusterRole", "everywhere")),
    ];
    create(admin, &last).await;
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
    let (caller, wanted) = (question.caller(), &question.wanted);
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
        let name = name(object);
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

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}
