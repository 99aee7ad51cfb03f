//! What is asked of an API server, and what is made of its answers, by one that does what it is told to.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU16};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::client::Body;
use kube::core::PartialObjectMeta;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tower::{BoxError, service_fn};

use super::*;
use crate::bindings::WatchedBindings;
use crate::keys::tests::{RSA, key_set};
use crate::{
    AccessReviews, Account, Accounts, ApiServerTokens, Attempts, AuthError, Authenticated,
    AuthenticationError, Authenticator, AuthenticatorOptions, Authenticators, Authorizer, Clock,
    ConfirmedAccounts, Credential, Decision, Files, Identity, Issuer, IssuerName, LEGACY_ISSUER,
    OtherAudiences, RegistryTokenKeys, RegistryTokens, ResourceAttributes, Secret, ServiceAccounts, Standing,
    TokenError, TokenReviews, TokenRules, WatchedAccounts,
};

const OUTAGE: Duration = Duration::from_secs(3600);
const NOW: u64 = 1_800_000_000;
const REVOCATION: Duration = Duration::from_secs(60);
/// How long one is not asked about again then: whatever else remembers it does so for twenty seconds.
const KNOWN_FOR: Duration = Duration::from_secs(40);

const ACCOUNTS: &str = "/api/v1/serviceaccounts";
const ROLE_BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/rolebindings";
const CLUSTER_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// An API server that is no more than its answers.
#[derive(Default)]
struct Script {
    objects: Mutex<HashMap<&'static str, Vec<Value>>>,
    watches: Mutex<HashMap<String, Sender<String>>>,
    verdict: Mutex<Value>,
    /// What was asked by POST.
    asked: Mutex<Vec<(String, Value)>>,
    /// The queries of what was listed or watched.
    queries: Mutex<Vec<String>>,
    is_away: AtomicBool,
    /// It takes what is asked and says nothing, not even on watches that are open.
    hangs: AtomicBool,
    is_old: AtomicBool,
    /// It says of each watch, once all is told, that it does not remember from where that goes on.
    forgets: AtomicBool,
    /// The status of its answers to what is asked by POST, unless that is 0.
    refuses: AtomicU16,
    /// How long each of these answers takes.
    takes: Mutex<Duration>,
    /// What happens to bindings while they are told for the first time.
    meanwhile: Mutex<Vec<Value>>,
}

type Answer = Response<BoxBody<Bytes, BoxError>>;

impl Script {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn in_which_ann_may_pull() -> Arc<Self> {
        let script = Self::new();
        script.has(CLUSTER_ROLES, puller());
        script.has(ROLE_BINDINGS, binding("pullers", "ann"));
        script
    }

    fn cluster(self: &Arc<Self>) -> Cluster {
        let script = Arc::clone(self);
        let service = service_fn(move |request| {
            let script = Arc::clone(&script);
            async move { script.answer(request).await }
        });
        Cluster::of(kube::Client::new(service, "default"), "test".to_owned(), OUTAGE)
    }

    fn says(&self, status: Value) {
        *self.verdict.lock().unwrap() = status;
    }

    fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }

    fn goes_away(&self) {
        self.is_away.store(true, Ordering::SeqCst);
        self.watches.lock().unwrap().clear();
    }

    fn comes_back(&self) {
        self.is_away.store(false, Ordering::SeqCst);
    }

    fn takes(&self, time: Duration) {
        *self.takes.lock().unwrap() = time;
    }

    fn refuses(&self, status: u16) {
        self.refuses.store(status, Ordering::SeqCst);
    }

    fn hangs(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    fn has(&self, kind: &'static str, object: Value) {
        self.objects.lock().unwrap().entry(kind).or_default().push(object);
    }

    /// Tells those who watch.
    fn tells(&self, kind: &str, event: &str, object: Value) {
        let line = json!({ "type": event, "object": object }).to_string();
        self.watches.lock().unwrap()[kind].try_send(line + "\n").unwrap();
    }

    async fn answer(&self, request: Request<Body>) -> Result<Answer, BoxError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err("nobody there".into());
        }
        let hangs = self.hangs.load(Ordering::SeqCst);
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        if head.method == Method::POST {
            let body: Value = serde_json::from_slice(&body.collect_bytes().await?)?;
            self.asked.lock().unwrap().push((path, body["spec"].clone()));
            if hangs {
                pending::<()>().await;
            }
            tokio::task::yield_now().await;
            let takes = *self.takes.lock().unwrap();
            if takes > Duration::ZERO {
                tokio::time::sleep(takes).await;
            }
            let refuses = self.refuses.load(Ordering::SeqCst);
            if refuses != 0 {
                let refusal = json!({ "status": "Failure", "code": refuses, "message": "no" });
                return Ok(json_answer(StatusCode::from_u16(refuses).unwrap(), &refusal));
            }
            let status = self.verdict.lock().unwrap().clone();
            return Ok(json_answer(
                StatusCode::CREATED,
                &json!({ "metadata": {}, "spec": body["spec"], "status": status }),
            ));
        }
        let query = head.uri.query().unwrap_or_default().to_owned();
        self.queries.lock().unwrap().push(format!("{path}?{query}"));
        if hangs {
            pending::<()>().await;
        }
        let objects = self.objects.lock().unwrap().get(path.as_str()).cloned().unwrap_or_default();
        if !query.contains("watch=true") {
            let list = json!({ "metadata": { "resourceVersion": "7" }, "items": objects });
            return Ok(json_answer(StatusCode::OK, &list));
        }
        let streams_list = query.contains("sendInitialEvents=true");
        if streams_list && self.is_old.load(Ordering::SeqCst) {
            let refusal =
                json!({ "status": "Failure", "code": 422, "message": "forbidden", "reason": "Invalid" });
            return Ok(json_answer(StatusCode::UNPROCESSABLE_ENTITY, &refusal));
        }
        let (sender, receiver) = channel(1000);
        if streams_list {
            for object in objects {
                sender.try_send(json!({ "type": "ADDED", "object": object }).to_string() + "\n")?;
            }
            if path == ROLE_BINDINGS {
                for event in self.meanwhile.lock().unwrap().drain(..) {
                    sender.try_send(event.to_string() + "\n")?;
                }
            }
            let annotations = json!({ INITIAL_EVENTS_END: "true" });
            let metadata = json!({ "resourceVersion": "7", "annotations": annotations });
            let mark = json!({ "apiVersion": "v1", "kind": "X", "metadata": metadata });
            sender.try_send(json!({ "type": "BOOKMARK", "object": mark }).to_string() + "\n")?;
        }
        if self.forgets.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let gone = json!({ "type": "ERROR", "object": { "code": 410, "message": "too old" } });
            sender.try_send(gone.to_string() + "\n")?;
        }
        self.watches.lock().unwrap().insert(path, sender);
        let lines = stream::unfold(receiver, |mut receiver| async {
            let line: String = receiver.recv().await?;
            Some((Ok::<_, BoxError>(Frame::data(Bytes::from(line))), receiver))
        });
        Ok(Response::new(BodyExt::boxed(StreamBody::new(lines))))
    }
}

const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {});
    Response::builder().status(status).body(BodyExt::boxed(body)).unwrap()
}

fn account(namespace: &str, name: &str, uid: &str) -> Value {
    let metadata = json!({ "namespace": namespace, "name": name, "uid": uid, "resourceVersion": "8" });
    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata })
}

fn binding(name: &str, user: &str) -> Value {
    json!({
        "metadata": { "namespace": "team", "name": name, "resourceVersion": "8" },
        "subjects": [{ "kind": "User", "name": user }],
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "puller" },
    })
}

fn puller() -> Value {
    let rule = json!({ "verbs": ["get"], "apiGroups": ["image.openshift.io"], "resources": ["imagestreams/layers"] });
    json!({ "metadata": { "name": "puller", "resourceVersion": "8" }, "rules": [rule] })
}

fn user(name: &str) -> Identity {
    Identity { name: name.to_owned(), groups: vec!["system:authenticated".to_owned()], ..Identity::default() }
}

const PULL: ResourceAttributes<'static> = ResourceAttributes {
    verb: "get",
    group: "image.openshift.io",
    resource: "imagestreams",
    subresource: "layers",
    namespace: "team",
    name: "app",
};

/// Lets the clock run until something is so.
async fn until(so: impl AsyncFn() -> bool) {
    for _ in 0..10_000 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never happened");
}

fn running<'a>(upkeep: impl IntoIterator<Item = &'a Upkeep>) -> JoinSet<()> {
    let mut set = JoinSet::new();
    for upkeep in upkeep {
        set.spawn(upkeep.begin());
    }
    set
}

async fn may_pull(bindings: &WatchedBindings, name: &str) -> Option<bool> {
    let decision = bindings.decide(&user(name), &PULL).await.ok();
    let may_pull = decision.map(|decision| matches!(decision, Decision::Allowed(_)));
    assert_eq!(may_pull, bindings.allows(&user(name), &PULL).await.ok());
    may_pull
}

#[tokio::test(start_paused = true)]
async fn nothing_is_decided_before_everything_has_been_read() {
    for is_old in [false, true] {
        let script = Script::in_which_ann_may_pull();
        script.is_old.store(is_old, Ordering::SeqCst);
        let cluster = script.cluster();
        let (bindings, watching) = WatchedBindings::watch(&cluster).unwrap();
        assert!(bindings.decide(&user("ann"), &PULL).await.is_err());
        assert!(matches!(cluster.contact(), Contact::Lost(Lost::Unread(_))));
        let _running = running(&watching);
        until(async || may_pull(&bindings, "ann").await == Some(true)).await;
        assert_eq!(may_pull(&bindings, "bob").await, Some(false));
        assert_eq!(cluster.contact(), Contact::Current);
        let listed = script.queries.lock().unwrap().iter().any(|query| query.contains("limit=500"));
        assert_eq!(listed, is_old);
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_counts_at_once_and_what_was_missed_is_found_by_reading_all_again() {
    let script = Script::in_which_ann_may_pull();
    let cluster = script.cluster();
    let (bindings, watching) = WatchedBindings::watch(&cluster).unwrap();
    let _running = running(&watching);
    until(async || may_pull(&bindings, "ann").await == Some(true)).await;
    script.tells(ROLE_BINDINGS, "ADDED", binding("more", "bob"));
    until(async || may_pull(&bindings, "bob").await == Some(true)).await;
    script.tells(ROLE_BINDINGS, "MODIFIED", binding("more", "cid"));
    until(async || may_pull(&bindings, "cid").await == Some(true)).await;
    assert_eq!(may_pull(&bindings, "bob").await, Some(false));
    script.tells(ROLE_BINDINGS, "DELETED", binding("more", "cid"));
    until(async || may_pull(&bindings, "cid").await == Some(false)).await;

    // It forgot what happened since: all is read again, and nobody is refused meanwhile.
    script
        .objects
        .lock()
        .unwrap()
        .insert(ROLE_BINDINGS, vec![binding("pullers", "ann"), binding("new", "eve")]);
    let gone = json!({ "status": "Failure", "code": 410, "message": "too old", "reason": "Expired" });
    script.tells(ROLE_BINDINGS, "ERROR", gone);
    until(async || {
        assert_eq!(may_pull(&bindings, "ann").await, Some(true));
        may_pull(&bindings, "eve").await == Some(true)
    })
    .await;
    script.objects.lock().unwrap().insert(ROLE_BINDINGS, vec![binding("new", "eve")]);
    script.tells(ROLE_BINDINGS, "ERROR", json!({ "code": 410, "message": "too old" }));
    until(async || may_pull(&bindings, "ann").await == Some(false)).await;
    assert_eq!(may_pull(&bindings, "eve").await, Some(true));
}

#[tokio::test(start_paused = true)]
async fn while_the_cluster_is_away_what_it_told_counts_for_a_while() {
    let script = Script::in_which_ann_may_pull();
    let cluster = script.cluster();
    let (bindings, watching) = WatchedBindings::watch(&cluster).unwrap();
    let _running = running(&watching);
    until(async || may_pull(&bindings, "ann").await == Some(true)).await;
    script.goes_away();
    until(async || matches!(cluster.contact(), Contact::Silent(_))).await;
    tokio::time::sleep(OUTAGE - Duration::from_secs(60)).await;
    assert_eq!(may_pull(&bindings, "ann").await, Some(true));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(may_pull(&bindings, "ann").await, None);
    assert!(matches!(cluster.contact(), Contact::Lost(Lost::Silent(_))));
    script.comes_back();
    until(async || may_pull(&bindings, "ann").await == Some(true)).await;
    until(async || cluster.contact() == Contact::Current).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_dead_without_saying_so_is_noticed() {
    let script = Script::new();
    let cluster = script.cluster();
    let (_, watching) = WatchedAccounts::watch(&cluster);
    let _running = running([&watching]);
    until(async || cluster.contact() == Contact::Current).await;
    // The stream stays open and says nothing; a new one is refused.
    script.is_away.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert_eq!(cluster.contact(), Contact::Current);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(matches!(cluster.contact(), Contact::Silent(_)));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_not_begun_again_is_noticed_as_soon_as_one_that_is_dead() {
    let script = Script::new();
    let cluster = script.cluster();
    let (_, watching) = WatchedAccounts::watch(&cluster);
    let _running = running([&watching]);
    until(async || cluster.contact() == Contact::Current).await;
    // It ends as it should, and then nobody answers, although somebody listens.
    tokio::time::sleep(Duration::from_secs(60)).await;
    script.hangs(true);
    script.watches.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(cluster.contact(), Contact::Current);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(matches!(cluster.contact(), Contact::Silent(_)));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_forgets_at_once_what_it_told_is_not_stormed() {
    for is_old in [false, true] {
        let script = Script::in_which_ann_may_pull();
        script.is_old.store(is_old, Ordering::SeqCst);
        script.forgets.store(true, Ordering::SeqCst);
        let (bindings, watching) = WatchedBindings::watch(&script.cluster()).unwrap();
        let _running = running(&watching);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(may_pull(&bindings, "ann").await, Some(true));
        let beginning = if is_old { "?&limit=" } else { "sendInitialEvents" };
        let lists = script.queries.lock().unwrap().iter().filter(|query| query.contains(beginning)).count();
        assert!((5..=15).contains(&(lists / watching.len())), "{lists} in a minute");
    }
}

/// Breaks when it is told of an account of a certain name.
#[derive(Clone, Default)]
struct Fragile(Arc<Mutex<Vec<String>>>);

impl Listener for Fragile {
    type Object = PartialObjectMeta<ServiceAccount>;
    type Item = String;

    fn read(object: Self::Object) -> String {
        object.metadata.name.unwrap()
    }

    fn all(&mut self, names: Vec<String>) {
        *self.0.lock().unwrap() = names;
    }

    fn put(&mut self, name: String) {
        assert_ne!(name, "odd", "a fault");
    }

    fn remove(&mut self, _: String) {}
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_says_so_until_it_is_begun_anew_and_has_read_all() {
    let script = Script::new();
    script.has(ACCOUNTS, account("team", "builder", "1"));
    let cluster = script.cluster();
    let heard = Fragile::default();
    let watching = cluster.watch("service accounts", heard.clone());
    let mut first = running([&watching]);
    until(async || cluster.contact() == Contact::Current).await;
    script.has(ACCOUNTS, account("team", "odd", "2"));
    script.tells(ACCOUNTS, "ADDED", account("team", "odd", "2"));
    assert!(first.join_next().await.unwrap().unwrap_err().is_panic());
    assert!(matches!(cluster.contact(), Contact::Silent(_)));
    let _second = running([&watching]);
    until(async || cluster.contact() == Contact::Current).await;
    assert_eq!(*heard.0.lock().unwrap(), ["builder", "odd"]);
}

#[tokio::test(start_paused = true)]
async fn an_account_is_the_one_with_its_uid() {
    let script = Script::new();
    script.has(ACCOUNTS, account("team", "builder", "1"));
    let cluster = script.cluster();
    let (accounts, watching) = WatchedAccounts::watch(&cluster);
    let standing = |uid| accounts.standing(&Account { full_name: "team:builder", uid });
    assert_eq!(standing("1"), Standing::Unknown);
    let _running = running([&watching]);
    until(async || standing("1") == Standing::Current).await;
    assert_eq!(standing("2"), Standing::Unheard);
    assert_eq!(standing(""), Standing::Unheard);
    script.tells(ACCOUNTS, "DELETED", account("team", "builder", "1"));
    until(async || standing("1") == Standing::Gone).await;
    script.tells(ACCOUNTS, "ADDED", account("team", "builder", "2"));
    until(async || standing("2") == Standing::Current).await;
    // That it went may not be told, but that there is another, or others without it.
    script.tells(ACCOUNTS, "MODIFIED", account("team", "builder", "3"));
    until(async || standing("3") == Standing::Current).await;
    script.objects.lock().unwrap().insert(ACCOUNTS, vec![account("team", "other", "4")]);
    script.tells(ACCOUNTS, "ERROR", json!({ "code": 410, "message": "too old" }));
    until(async || standing("3") == Standing::Gone).await;
    script.goes_away();
    until(async || cluster.contact() != Contact::Current).await;
    assert_eq!(["1", "2", "3"].map(standing), [Standing::Gone; 3]);
    let made_again = accounts.standing(&Account { full_name: "team:other", uid: "5" });
    assert_eq!(made_again, Standing::Unknown, "it may have been, since");
    assert_eq!(standing("5"), Standing::Unknown);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_not_heard_of_yet_is_asked_about_and_one_that_went_is_not() {
    let script = Script::new();
    let cluster = script.cluster();
    let (accounts, watching) = WatchedAccounts::watch(&cluster);
    let accounts: Arc<dyn Accounts> = Arc::new(accounts);
    let _running = running([&watching]);
    until(async || cluster.contact() == Contact::Current).await;
    let clock = Clock::new(|| SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
    let rules = TokenRules::for_audiences(vec!["registry".to_owned()]);
    let reviews = TokenReviews::new(cluster, Arc::clone(&accounts), rules, REVOCATION, clock.clone());
    let chain = Authenticators::new(&AuthenticatorOptions::default(), clock)
        .unwrap()
        .as_long_as_in(Arc::clone(&accounts))
        .then(Arc::new(reviews.unwrap()), Attempts::Limited);
    script.says(json!({
        "authenticated": true, "audiences": ["registry"],
        "user": { "username": "system:serviceaccount:team:robot", "uid": "7" },
    }));
    let token = token_with(&json!({ "iss": "x", "kubernetes.io": {} }));
    let show = async || {
        let shown = Credential::Token(Secret::new(token.clone()));
        chain.identify(&shown, std::net::Ipv4Addr::LOCALHOST.into()).await
    };
    for _ in 0..100 {
        show().await.expect("the API server knows its token");
    }
    assert_eq!(script.asked().len(), 1);
    // It is soon asked again, and while it cannot be, nobody knows.
    tokio::time::sleep(Duration::from_secs(11)).await;
    script.refuses.store(503, Ordering::SeqCst);
    assert!(matches!(show().await, Err(AuthenticationError::Unavailable(_))));
    script.refuses.store(0, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(show().await.is_ok());

    // Whatever the API server remembers of the token.
    let robot = Account { full_name: "team:robot", uid: "7" };
    script.tells(ACCOUNTS, "ADDED", account("team", "robot", "7"));
    until(async || accounts.standing(&robot) == Standing::Current).await;
    assert!(show().await.is_ok());
    script.tells(ACCOUNTS, "DELETED", account("team", "robot", "7"));
    until(async || accounts.standing(&robot) == Standing::Gone).await;
    let asked = script.asked().len();
    for _ in 0..3 {
        assert!(matches!(show().await, Err(AuthenticationError::Rejected(_))));
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    assert!(script.asked().len() > asked, "it was asked, and not believed");
}

/// No account is ever gone.
#[derive(Debug)]
struct AllThere;

impl Accounts for AllThere {
    fn standing(&self, _: &Account<'_>) -> Standing {
        Standing::Current
    }
}

fn reviews(script: &Arc<Script>, audiences: &[&str]) -> TokenReviews {
    let audiences: Vec<_> = audiences.iter().map(|&audience| audience.to_owned()).collect();
    reviews_by(script, TokenRules::for_audiences(audiences))
}

fn reviews_by(script: &Arc<Script>, rules: TokenRules) -> TokenReviews {
    let clock = Clock::new(|| SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
    TokenReviews::new(script.cluster(), Arc::new(AllThere), rules, REVOCATION, clock).unwrap()
}

fn known(name: &str, audiences: &[&str]) -> Value {
    json!({ "authenticated": true, "user": { "username": name, "groups": ["g"] }, "audiences": audiences })
}

/// A JSON Web Token with these claims beside what every account's has, which nobody signed.
fn token_with(claims: &Value) -> String {
    let mut all = json!({ "sub": "x", "aud": ["registry"], "iat": NOW, "exp": NOW + 3600 });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    let claims = &all;
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
    let part = |value: &Value| BASE64.encode(value.to_string());
    format!("{}.{}.{}", part(&json!({ "alg": "RS256" })), part(claims), BASE64.encode("signature"))
}

async fn name(reviews: &TokenReviews, token: &str) -> Result<Option<String>, String> {
    let known = reviews.identify(&Credential::Token(Secret::new(token))).await;
    known.map(|known| known.map(|known| known.identity.name.clone())).map_err(|error| match error {
        AuthenticationError::Unavailable(_) => "unavailable".to_owned(),
        error => error.to_string(),
    })
}

#[tokio::test(start_paused = true)]
async fn the_audiences_that_are_asked_about_depend_on_the_form_of_the_token() {
    let script = Script::new();
    let reviews = reviews(&script, &["registry"]);
    script.says(known("ann", &["registry"]));
    let of_account = token_with(&json!({ "iss": "x", "kubernetes.io": {} }));
    let legacy = token_with(&json!({ "iss": "kubernetes/serviceaccount" }));
    let of_person = token_with(&json!({ "iss": "https://login.example" }));
    for (token, audiences) in [
        (of_account.as_str(), json!(["registry"])),
        (&legacy, json!(["registry"])),
        (&of_person, Value::Null),
        ("sha256~opaque", Value::Null),
    ] {
        assert_eq!(name(&reviews, token).await, Ok(Some("ann".to_owned())));
        let (path, spec) = script.asked().pop().unwrap();
        assert_eq!(path, TOKEN_REVIEWS);
        assert_eq!((&spec["token"], &spec["audiences"]), (&json!(token), &audiences));
    }
    // Whoever answers about other audiences, or about none, did not say that the token is for the registry.
    for audiences in [&["other"][..], &[]] {
        script.says(known("ann", audiences));
        let other = token_with(&json!({ "iss": "x", "kubernetes.io": {}, "for": audiences }));
        assert!(name(&reviews, &other).await.unwrap_err().contains("for others"));
    }
    // What holds several words would be read up to the first.
    assert_eq!(name(&reviews, "good behind").await, Ok(None));
    assert_eq!(name(&reviews, "good\tbehind").await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_token_ends_when_it_says_so_whatever_was_answered_about_it() {
    let script = Script::new();
    let reviews = reviews(&script, &["registry"]);
    script.says(known("ann", &["registry"]));
    let known = async |claims: Value| {
        let token = token_with(&claims);
        let known = reviews.identify(&Credential::Token(Secret::new(token))).await;
        known.map(|known| {
            known.unwrap().expires.map(|end| end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        })
    };
    let of_person = |end: u64| json!({ "iss": "https://login.example", "exp": end });
    assert_eq!(known(of_person(NOW + 20)).await.unwrap(), Some(NOW + 20));
    assert!(known(of_person(NOW - 100)).await.is_err());
    // One of an account is good for a day, if not for less, although nobody verified it here.
    let of_account =
        |issued: u64, end: u64| json!({ "iss": "x", "kubernetes.io": {}, "iat": issued, "exp": end });
    assert_eq!(known(of_account(NOW, NOW + 20)).await.unwrap(), Some(NOW + 20));
    assert_eq!(known(of_account(NOW, NOW + 200_000)).await.unwrap(), Some(NOW + 86_400));
    assert!(known(of_account(NOW - 200_000, NOW + 200_000)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_for_others_too_is_refused_where_none_may_be_whoever_knows_its_key() {
    let script = Script::new();
    let for_one = TokenRules::for_audiences(vec!["registry".to_owned()]);
    let reviews = reviews_by(&script, TokenRules { other_audiences: OtherAudiences::Refused, ..for_one });
    script.says(known("system:serviceaccount:team:builder", &["registry"]));
    let of_account = |audiences: &[&str]| {
        token_with(&json!({ "iss": "x", "kubernetes.io": {}, "aud": audiences, "iat": NOW, "exp": NOW + 20 }))
    };
    assert!(name(&reviews, &of_account(&["registry"])).await.is_ok());
    let refused = name(&reviews, &of_account(&["registry", "vault"])).await.unwrap_err();
    assert_eq!(refused, TokenError::OtherAudience.to_string());
}

#[tokio::test(start_paused = true)]
async fn an_account_is_not_let_in_by_a_token_whose_audience_was_not_asked_about() {
    let script = Script::new();
    let reviews = reviews(&script, &["registry"]);
    script.says(known("system:serviceaccount:team:builder", &[]));
    assert!(name(&reviews, "{not.compact}").await.unwrap_err().contains("another form"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_no_outage() {
    let script = Script::new();
    let reviews = reviews(&script, &[]);
    script.says(known("ann", &[]));
    assert!(name(&reviews, "token").await.is_ok());
    tokio::time::sleep(KNOWN_FOR).await;
    for status in [403, 429] {
        script.refuses(status);
        assert_eq!(name(&reviews, "token").await, Err("unavailable".to_owned()), "{status}");
    }
    script.refuses(503);
    assert!(name(&reviews, "token").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_happens_while_everything_is_told_is_not_lost() {
    let script = Script::in_which_ann_may_pull();
    script.has(ROLE_BINDINGS, binding("others", "bob"));
    *script.meanwhile.lock().unwrap() = vec![
        json!({ "type": "DELETED", "object": binding("pullers", "ann") }),
        json!({ "type": "MODIFIED", "object": binding("others", "cid") }),
    ];
    let (bindings, watching) = WatchedBindings::watch(&script.cluster()).unwrap();
    let _running = running(&watching);
    until(async || may_pull(&bindings, "cid").await == Some(true)).await;
    assert_eq!(may_pull(&bindings, "ann").await, Some(false));
    assert_eq!(may_pull(&bindings, "bob").await, Some(false));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_asked_about_once_however_many_show_it() {
    let script = Script::new();
    let reviews = Arc::new(reviews(&script, &[]));
    script.says(known("ann", &[]));
    let mut nodes = JoinSet::new();
    for _ in 0..1000 {
        let reviews = Arc::clone(&reviews);
        nodes.spawn(async move { name(&reviews, "token").await });
    }
    assert!(nodes.join_all().await.iter().all(|name| *name == Ok(Some("ann".to_owned()))));
    assert_eq!(script.asked().len(), 1);
    // Whoever asks alone may hang up without taking the answer from others.
    tokio::time::sleep(KNOWN_FOR).await;
    {
        let mut hung_up = std::pin::pin!(name(&reviews, "token"));
        assert!(hung_up.as_mut().now_or_never().is_none());
    }
    script.goes_away();
    assert_eq!(name(&reviews, "token").await, Ok(Some("ann".to_owned())), "the old answer counts");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_good_any_more_is_forgotten() {
    let script = Script::new();
    let reviews = reviews(&script, &[]);
    script.says(known("ann", &[]));
    assert!(name(&reviews, "token").await.is_ok());
    script.says(json!({ "authenticated": false, "error": "token expired" }));
    tokio::time::sleep(KNOWN_FOR - Duration::from_secs(1)).await;
    assert!(name(&reviews, "token").await.is_ok());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(name(&reviews, "token").await.unwrap_err().contains("does not know"));
    // Even if nobody can be asked then: what was said last was no.
    script.goes_away();
    assert!(name(&reviews, "token").await.unwrap_err().contains("does not know"));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(name(&reviews, "token").await, Err("unavailable".to_owned()));
}

/// Registries that ask the cluster of a script, and know each other's tokens.
struct Replicas {
    script: Arc<Script>,
    keys: tempfile::NamedTempFile,
    revocation: Duration,
    clock: Clock,
}

impl Replicas {
    fn new() -> Self {
        let keys = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&keys, "a key that all of the replicas have\n").unwrap();
        let (start, began) = (SystemTime::UNIX_EPOCH + Duration::from_secs(NOW), Instant::now());
        let clock = Clock::new(move || start + began.elapsed());
        Self { script: Script::new(), keys, revocation: REVOCATION, clock }
    }

    fn one(&self, accounts: Arc<dyn Accounts>) -> (Arc<TokenReviews>, RegistryTokens) {
        let rules = TokenRules::for_audiences(vec!["registry".to_owned()]);
        let (cluster, clock) = (self.script.cluster(), self.clock.clone());
        let reviews = Arc::new(TokenReviews::new(cluster, accounts, rules, self.revocation, clock).unwrap());
        let keys = RegistryTokenKeys::from_file(self.keys.path(), &Files::new()).unwrap();
        let (minutes, asked) = (Duration::from_secs(300), Some(Arc::clone(&reviews)));
        (reviews, RegistryTokens::new(keys, "registry".to_owned(), minutes, asked, self.clock.clone()))
    }

    /// What a registry gives for a token.
    async fn log_in(&self, (reviews, tokens): &(Arc<TokenReviews>, RegistryTokens), token: &str) -> Secret {
        let shown = Secret::new(token);
        let known = reviews.identify(&Credential::Token(shown.clone())).await.unwrap().unwrap();
        let given = tokens.issue(&known, Some(&shown)).unwrap();
        assert_eq!(given.lifetime.as_secs(), 300);
        given.token
    }
}

/// What is made of a token of the registry.
async fn used(
    (_, tokens): &(Arc<TokenReviews>, RegistryTokens),
    given: &Secret,
) -> Result<(), AuthenticationError> {
    tokens.identify(&Credential::Token(given.clone())).await.map(|known| {
        assert_eq!(
            known.expect("it is a token of the registry").identity.name,
            "system:serviceaccount:team:robot"
        );
    })
}

fn robot_of_audience(audience: &str) -> Value {
    let user = json!({ "username": "system:serviceaccount:team:robot", "uid": "7" });
    json!({ "authenticated": true, "user": user, "audiences": [audience] })
}

/// What a kubelet gets for a pod: as long as such tokens are.
fn token_of_pod() -> String {
    let object = |name: &str| json!({ "name": name, "uid": "5a1f9b2e-0000-4000-8000-000000000001" });
    let header = json!({ "alg": "RS256", "kid": "kd8hX1uS0tqYpIqDqXH1V3tWb0oXgk2f0rPzT5kYw4c" });
    let claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "aud": ["registry"],
        "sub": "system:serviceaccount:team:robot", "iat": NOW, "nbf": NOW, "exp": NOW + 3600,
        "jti": "5a1f9b2e-0000-4000-8000-000000000001",
        "kubernetes.io": {
            "namespace": "team", "serviceaccount": object("robot"), "pod": object("frontend-6d5f9c7b8-x2x9z"),
            "node": object("ip-10-0-123-45.eu-central-1.compute.internal"),
        },
    });
    RSA.token(&header, &claims)
}

#[tokio::test(start_paused = true)]
async fn a_token_of_the_registry_is_confirmed_again_like_the_one_it_was_given_for() {
    let replicas = Replicas::new();
    let (here, there) = (replicas.one(Arc::new(AllThere)), replicas.one(Arc::new(AllThere)));
    let script = &replicas.script;
    script.says(robot_of_audience("registry"));
    let of_pod = token_of_pod();
    let given = replicas.log_in(&here, &of_pod).await;
    for part in of_pod.split('.') {
        assert!(!given.expose().contains(part), "what was shown shows");
    }
    // What one has heard the others need not ask about, for as long as it counts.
    let verdict = script.verdict.lock().unwrap().clone();
    script.says(json!({ "authenticated": false, "error": "the pod is gone" }));
    for _ in 0..2 {
        used(&here, &given).await.unwrap();
        used(&there, &given).await.unwrap();
        assert_eq!(script.asked().len(), 1);
        tokio::time::sleep(KNOWN_FOR - Duration::from_secs(2)).await;
    }
    // Then the pod is gone everywhere, long before the token ends by itself.
    for (replica, asked) in [(&here, 2), (&there, 3)] {
        for _ in 0..3 {
            assert!(matches!(used(replica, &given).await, Err(AuthenticationError::Rejected(_))));
        }
        assert_eq!(script.asked().len(), asked);
    }
    assert_eq!(script.asked().last().unwrap().1["token"], json!(of_pod));
    // It is for the registry no more if the API server says so.
    tokio::time::sleep(Duration::from_secs(10)).await;
    script.says(robot_of_audience("another"));
    assert!(matches!(used(&here, &given).await, Err(AuthenticationError::Rejected(_))));
    tokio::time::sleep(Duration::from_secs(10)).await;
    script.says(verdict);
    used(&here, &given).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_pod_is_gone_is_good_as_long_as_revocation_says_and_no_longer() {
    const MOMENT: Duration = Duration::from_millis(10);
    const STEP: Duration = Duration::from_millis(500);
    /// How long the API server remembers a token, and how long we do who asked it.
    const REMEMBERED: Duration = Duration::from_secs(10);
    for seconds in [60, 20, 300] {
        let revocation = Duration::from_secs(seconds);
        let replicas = Replicas { revocation, ..Replicas::new() };
        let (script, of_pod, gone) = (&replicas.script, token_of_pod(), Instant::now());
        script.says(robot_of_audience("registry"));
        // The API server is asked in the last moment in which it still remembers the pod.
        sleep_until(gone + REMEMBERED - MOMENT).await;
        let here = replicas.one(Arc::new(AllThere));
        let mut shown = vec![Secret::new(of_pod.as_str())];
        while STEP * u32::try_from(shown.len()).unwrap() < revocation - REMEMBERED {
            shown.push(replicas.log_in(&here, &of_pod).await);
        }
        let chain = |(reviews, tokens): (Arc<TokenReviews>, RegistryTokens)| {
            Authenticators::new(&AuthenticatorOptions::default(), replicas.clock.clone())
                .unwrap()
                .then(Arc::new(tokens), Attempts::Unlimited)
                .then(reviews, Attempts::Limited)
        };
        let (here, there) = (chain(here), chain(replicas.one(Arc::new(AllThere))));
        let is_good = async |replica: &Authenticators, shown: &Secret| {
            let shown = Credential::Token(shown.clone());
            replica.identify(&shown, std::net::Ipv4Addr::LOCALHOST.into()).await.is_ok()
        };
        assert!(is_good(&here, &shown[0]).await);
        script.says(json!({ "authenticated": false, "error": "the pod is gone" }));
        // Each is shown for the first time in another moment from then on, and remembered if it is still good.
        for (moment, shown) in (0..).zip(&shown) {
            sleep_until(gone + REMEMBERED + STEP * moment - 2 * MOMENT).await;
            is_good(&here, shown).await;
            is_good(&there, shown).await;
        }
        sleep_until(gone + revocation - 3 * MOMENT).await;
        let mut good = 0;
        for shown in &shown {
            good += u32::from(is_good(&here, shown).await);
        }
        assert!(good > 0, "{revocation:?} is not made use of");
        sleep_until(gone + revocation).await;
        for (replica, shown) in
            [&here, &there].into_iter().flat_map(|one| shown.iter().map(move |shown| (one, shown)))
        {
            assert!(!is_good(replica, shown).await, "{revocation:?} have passed");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_the_registry_is_good_where_the_same_is_asked_as_where_it_was_given() {
    let replicas = Replicas::new();
    let asking = replicas.one(Arc::new(AllThere));
    let keys = RegistryTokenKeys::from_file(replicas.keys.path(), &Files::new()).unwrap();
    let (minutes, clock) = (Duration::from_secs(300), replicas.clock.clone());
    let alone = RegistryTokens::new(keys, "registry".to_owned(), minutes, None, clock);
    let robot = Identity::named("system:serviceaccount:team:robot", vec![]);
    for (identity, is_good) in [(robot, false), (user("ann"), true)] {
        let known = Authenticated::new(Arc::new(identity));
        let given = Credential::Token(alone.issue(&known, None).unwrap().token);
        assert!(alone.identify(&given).await.is_ok());
        assert_eq!(asking.1.identify(&given).await.is_ok(), is_good);
    }
    replicas.script.says(robot_of_audience("registry"));
    let given = replicas.log_in(&asking, &token_of_pod()).await;
    assert!(alone.identify(&Credential::Token(given)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn while_nobody_answers_a_token_of_the_registry_is_good_at_every_replica() {
    let replicas = Replicas::new();
    let (here, there) = (replicas.one(Arc::new(AllThere)), replicas.one(Arc::new(AllThere)));
    replicas.script.says(robot_of_audience("registry"));
    let given = replicas.log_in(&here, &token_of_pod()).await;
    replicas.script.goes_away();
    tokio::time::sleep(Duration::from_secs(290)).await;
    used(&here, &given).await.unwrap();
    used(&there, &given).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(matches!(used(&there, &given).await, Err(AuthenticationError::Rejected(_))), "it has ended");
}

#[tokio::test(start_paused = true)]
async fn a_new_account_goes_on_with_what_the_registry_gave_it_and_one_that_went_does_not() {
    let replicas = Replicas::new();
    let cluster = replicas.script.cluster();
    let (accounts, watching) = WatchedAccounts::watch(&cluster);
    let _running = running([&watching]);
    until(async || cluster.contact() == Contact::Current).await;
    let accounts: Arc<dyn Accounts> = Arc::new(accounts);
    let registry = replicas.one(Arc::clone(&accounts));
    replicas.script.says(robot_of_audience("registry"));
    let given = replicas.log_in(&registry, &token_of_pod()).await;
    used(&registry, &given).await.expect("it is new");
    let robot = Account { full_name: "team:robot", uid: "7" };
    for (event, standing) in [("ADDED", Standing::Current), ("DELETED", Standing::Gone)] {
        replicas.script.tells(ACCOUNTS, event, account("team", "robot", "7"));
        until(async || accounts.standing(&robot) == standing).await;
        assert_eq!(used(&registry, &given).await.is_ok(), standing == Standing::Current);
    }
}

#[tokio::test(start_paused = true)]
async fn while_nobody_answers_known_tokens_are_good_and_others_are_not_judged() {
    let script = Script::new();
    let reviews = reviews(&script, &[]);
    script.says(known("ann", &[]));
    assert!(name(&reviews, "token").await.is_ok());
    script.goes_away();
    tokio::time::sleep(OUTAGE - Duration::from_secs(1)).await;
    assert_eq!(name(&reviews, "token").await, Ok(Some("ann".to_owned())));
    assert_eq!(name(&reviews, "other").await, Err("unavailable".to_owned()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(name(&reviews, "token").await, Err("unavailable".to_owned()));
    script.comes_back();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(name(&reviews, "other").await, Ok(Some("ann".to_owned())));
}

/// How long something takes.
async fn taken<T>(something: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (something.await, began.elapsed())
}

const AT_ONCE: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn an_api_server_that_hangs_keeps_nobody_waiting_who_is_known() {
    let script = Script::new();
    let reviews = Arc::new(reviews(&script, &[]));
    script.says(known("ann", &[]));
    let ann = Ok(Some("ann".to_owned()));
    for token in ["token", "another"] {
        assert_eq!(name(&reviews, token).await, ann);
    }
    tokio::time::sleep(KNOWN_FOR).await;
    script.hangs(true);
    // Nobody knows yet that it hangs: they all wait, for the same answer.
    let mut nodes = JoinSet::new();
    for _ in 0..100 {
        let reviews = Arc::clone(&reviews);
        nodes.spawn(async move { name(&reviews, "token").await });
    }
    let (names, time) = taken(nodes.join_all()).await;
    assert!(names.iter().all(|name| *name == ann));
    assert_eq!((time.as_secs(), script.asked().len()), (5, 3));

    // Then it is asked again and again, in vain, and nobody waits for that.
    for _ in 0..100 {
        assert_eq!(taken(name(&reviews, "token")).await, (ann.clone(), AT_ONCE));
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(script.asked().len(), 103);
    // Another question may be easier; if it is not, that is soon clear.
    let (another, time) = taken(name(&reviews, "another")).await;
    assert!(another == ann && time.as_secs() == SOON.as_secs(), "{time:?}");
    assert_eq!(taken(name(&reviews, "another")).await, (ann.clone(), AT_ONCE));
    let (unknown, time) = taken(name(&reviews, "unknown")).await;
    assert_eq!((unknown, time.as_secs()), (Err("unavailable".to_owned()), 5));
    tokio::time::sleep(OUTAGE).await;
    assert_eq!(name(&reviews, "token").await, Err("unavailable".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_away_while_the_api_server_hung_ends_when_it_is_back() {
    let script = Script::new();
    let reviews = reviews(&script, &[]);
    script.says(known("ann", &[]));
    for token in ["first", "second", "third"] {
        assert!(name(&reviews, token).await.is_ok());
    }
    tokio::time::sleep(KNOWN_FOR).await;
    script.hangs(true);
    for token in ["first", "second"] {
        assert!(name(&reviews, token).await.is_ok());
    }
    script.hangs(false);
    script.says(json!({ "authenticated": false }));
    tokio::time::sleep(Duration::from_secs(10)).await;
    // Whoever did not hang before is asked and heeded, although it is not known yet whether anybody answers …
    assert!(name(&reviews, "third").await.unwrap_err().contains("does not know"));
    // … and as soon as one question has been answered the others are, too.
    assert!(name(&reviews, "first").await.unwrap_err().contains("does not know"));
    assert!(name(&reviews, "second").await.unwrap_err().contains("does not know"));
}

#[tokio::test(start_paused = true)]
async fn an_act_that_was_allowed_is_allowed_at_once_while_the_api_server_hangs() {
    let script = Script::new();
    let reviews = AccessReviews::new(script.cluster()).unwrap();
    script.says(json!({ "allowed": true }));
    let ann = user("ann");
    let is_allowed = async || matches!(reviews.decide(&ann, &PULL).await, Ok(Decision::Allowed(_)));
    assert!(is_allowed().await);
    script.hangs(true);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let (all, time) = taken(futures_util::future::join_all((0..100).map(|_| is_allowed()))).await;
    assert!(all.into_iter().all(|is_allowed| is_allowed));
    assert_eq!(time.as_secs(), 5);
    for _ in 0..100 {
        assert_eq!(taken(is_allowed()).await, (true, AT_ONCE));
    }
    let (decision, time) = taken(reviews.decide(&user("bob"), &PULL)).await;
    assert_eq!((decision.is_err(), time.as_secs()), (true, 5));
    script.hangs(false);
    script.says(json!({ "allowed": false }));
    tokio::time::sleep(Duration::from_secs(5)).await;
    until(async || !is_allowed().await).await;
}

#[tokio::test(start_paused = true)]
async fn an_act_is_asked_about_once_however_many_try_it() {
    let script = Script::new();
    let reviews = Arc::new(AccessReviews::new(script.cluster()).unwrap());
    script.says(json!({ "allowed": true }));
    script.takes(SOON);
    for (asked, caller) in [(1, user("ann")), (2, Identity::anonymous())] {
        let mut nodes = JoinSet::new();
        for _ in 0..1000 {
            let (reviews, caller) = (Arc::clone(&reviews), caller.clone());
            nodes.spawn(async move { reviews.decide(&caller, &PULL).await });
        }
        let (decisions, time) = taken(nodes.join_all()).await;
        assert!(decisions.iter().all(|decision| matches!(decision, Ok(Decision::Allowed(_)))));
        assert_eq!((time.as_secs(), script.asked().len()), (1, asked));
    }
}

/// Asks for `caller` about one made-up name after another, 500 a second, and waits for no answer.
async fn flood(reviews: Arc<AccessReviews>, caller: Identity) {
    let mut under_way = JoinSet::new();
    for number in 0_u64.. {
        let (reviews, caller) = (Arc::clone(&reviews), caller.clone());
        under_way.spawn(async move {
            let name = format!("made-up-{number}");
            reviews.decide(&caller, &ResourceAttributes { name: &name, ..PULL }).await
        });
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Whether it was not asked, for want of a turn.
fn is_busy(decision: &Result<Decision, AuthError>) -> bool {
    matches!(decision, Err(AuthError::Unavailable(error)) if error.to_string().contains("no turn"))
}

#[tokio::test(start_paused = true)]
async fn a_right_that_was_taken_away_does_not_count_again_however_many_questions_wait() {
    for (flooder, waiting) in [("system:anonymous", Identity::anonymous()), ("eve", user("ann"))] {
        let script = Script::new();
        let cluster = script.cluster();
        let reviews = Arc::new(AccessReviews::new(cluster.clone()).unwrap());
        script.says(json!({ "allowed": true }));
        assert!(matches!(reviews.decide(&waiting, &PULL).await, Ok(Decision::Allowed(_))));
        script.says(json!({ "allowed": false }));
        script.takes(SOON);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let mut flooding = JoinSet::new();
        flooding.spawn(flood(Arc::clone(&reviews), Identity { name: flooder.to_owned(), ..waiting.clone() }));
        tokio::time::sleep(Duration::from_millis(5_500)).await;
        // Whoever asks for the same waits among those, and is not told that it is known from before.
        let (decision, time) = taken(reviews.decide(&waiting, &PULL)).await;
        assert!(is_busy(&decision), "{flooder}: {decision:?}");
        assert_eq!(time.as_secs(), 5);
        assert_eq!(*cluster.last(), Last::Answered, "the API server is well");
        let [(_, answered), (_, unanswered), (_, unasked)] = cluster.questions();
        assert!(answered > 50 && unanswered == 0 && unasked > 1000, "{answered}, {unanswered}, {unasked}");
        // That one question is hard does not change it: others are answered.
        *cluster.last() = Last::Unanswered;
        let (decision, time) = taken(reviews.decide(&waiting, &PULL)).await;
        assert!(is_busy(&decision), "{flooder}: {decision:?}");
        assert_eq!(time.as_secs(), 5);
        flooding.shutdown().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(reviews.decide(&waiting, &PULL).await.unwrap(), Decision::Denied);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_shows_nothing_takes_no_turn_from_others_however_much_they_ask() {
    let script = Script::new();
    let cluster = script.cluster();
    let reviews = Arc::new(AccessReviews::new(cluster.clone()).unwrap());
    let clock = Clock::new(|| SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
    let rules = TokenRules::for_audiences(vec![]);
    let tokens = TokenReviews::new(cluster.clone(), Arc::new(AllThere), rules, REVOCATION, clock).unwrap();
    let (ann, cid) = (user("ann"), user("cid"));
    let says = |is_allowed: bool| {
        let user = json!({ "username": "ann" });
        script.says(json!({ "allowed": is_allowed, "authenticated": true, "user": user }));
    };
    says(true);
    assert!(matches!(reviews.decide(&ann, &PULL).await, Ok(Decision::Allowed(_))));
    script.takes(SOON);
    let mut flooding = JoinSet::new();
    flooding.spawn(flood(Arc::clone(&reviews), Identity::anonymous()));
    tokio::time::sleep(Duration::from_millis(11_500)).await;
    assert!(is_busy(&reviews.decide(&Identity::anonymous(), &PULL).await));

    let (known, time) = taken(name(&tokens, "token")).await;
    assert_eq!((known, time.as_secs()), (Ok(Some("ann".to_owned())), 1));
    for caller in [&ann, &cid] {
        let (decision, time) = taken(reviews.decide(caller, &PULL)).await;
        assert!(matches!(decision, Ok(Decision::Allowed(_))), "{decision:?}");
        assert_eq!(time.as_secs(), 1);
    }
    assert!(cluster.fetch().await.is_ok(), "the keys");
    // What is taken away now is gone after ten seconds, as ever.
    says(false);
    tokio::time::sleep(Duration::from_secs(10)).await;
    for caller in [&ann, &cid] {
        let (decision, time) = taken(reviews.decide(caller, &PULL)).await;
        assert_eq!((decision.unwrap(), time.as_secs()), (Decision::Denied, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_take_its_time_from_when_it_is_its_turn() {
    let script = Script::new();
    let reviews = AccessReviews::new(script.cluster()).unwrap();
    script.says(json!({ "allowed": true }));
    script.takes(Duration::from_secs(4));
    let nobody = Identity::anonymous();
    let names: Vec<_> = (0..2 * QUESTIONS_OF_NOBODY).map(|number| number.to_string()).collect();
    let all = names.iter().map(async |name| {
        let decision = reviews.decide(&nobody, &ResourceAttributes { name, ..PULL }).await;
        matches!(decision, Ok(Decision::Allowed(_)))
    });
    let (all, time) = taken(futures_util::future::join_all(all)).await;
    assert!(all.into_iter().all(|is_allowed| is_allowed));
    assert_eq!(time.as_secs(), 8);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_behind_questions_that_nobody_answers_is_known_as_before() {
    let script = Script::new();
    let reviews = AccessReviews::new(script.cluster()).unwrap();
    script.says(json!({ "allowed": true }));
    let users: Vec<_> = (0..3 * QUESTIONS).map(|number| user(&number.to_string())).collect();
    let all_are_allowed = async || {
        let decisions = users.iter().map(|user| reviews.decide(user, &PULL));
        let decisions = futures_util::future::join_all(decisions).await;
        decisions.iter().all(|decision| matches!(decision, Ok(Decision::Allowed(_))))
    };
    assert!(all_are_allowed().await);
    script.hangs(true);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let (all, time) = taken(all_are_allowed()).await;
    assert!(all && time.as_secs() <= 10, "{time:?}");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(taken(all_are_allowed()).await, (true, AT_ONCE));
}

#[tokio::test(start_paused = true)]
async fn no_answer_outlives_its_time_because_the_api_server_is_busy() {
    let script = Script::new();
    let cluster = script.cluster();
    let reviews = AccessReviews::new(cluster.clone()).unwrap();
    let ann = user("ann");
    let is_allowed = async || {
        let decision = reviews.decide(&ann, &PULL).await;
        decision.ok().map(|decision| matches!(decision, Decision::Allowed(_)))
    };
    script.says(json!({ "allowed": true }));
    assert_eq!(is_allowed().await, Some(true));
    script.refuses(TOO_MANY_REQUESTS);
    assert_eq!(is_allowed().await, Some(true), "it is not asked yet");
    tokio::time::sleep(Duration::from_secs(11)).await;
    let (decision, time) = taken(is_allowed()).await;
    assert_eq!((decision, time.as_secs(), script.asked().len()), (None, 1, 4));
    assert_eq!(*cluster.last(), Last::Answered);
    // Nor where it seemed silent a moment ago.
    *cluster.last() = Last::Unanswered;
    let (decision, time) = taken(is_allowed()).await;
    assert_eq!((decision, time.as_secs()), (None, 1));

    // If it says no more, it was heard all the same.
    let soon = Duration::from_millis(700);
    let freezes = async {
        tokio::time::sleep(soon).await;
        script.hangs(true);
    };
    let ((decision, time), ()) = tokio::join!(taken(is_allowed()), freezes);
    assert_eq!((decision, time.as_secs()), (None, 5));
    script.hangs(false);
    // One that is soon done with what it has to do keeps nobody from being answered.
    script.says(json!({ "allowed": false }));
    let is_done = async {
        tokio::time::sleep(soon).await;
        script.refuses(0);
    };
    let (decision, ()) = tokio::join!(is_allowed(), is_done);
    assert_eq!(decision, Some(false));

    // But nobody answers where it fails.
    script.says(json!({ "allowed": true }));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(is_allowed().await, Some(true));
    tokio::time::sleep(Duration::from_secs(11)).await;
    script.refuses(503);
    assert_eq!(taken(is_allowed()).await, (Some(true), AT_ONCE));
}

#[tokio::test]
async fn the_client_hides_no_api_server_that_is_busy() {
    const BUSY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [authority, kubeconfig] = ["ca.pem", "kubeconfig"].map(|name| folder.path().join(name));
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&authority, own.cert.pem()).unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let file = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{ "name": "test", "cluster": { "server": server, "certificate-authority": authority } }],
        "users": [{ "name": "wharf", "user": {} }],
        "contexts": [{ "name": "here", "context": { "cluster": "test", "user": "wharf" } }],
    });
    std::fs::write(&kubeconfig, file.to_string()).unwrap();
    let mut connections = JoinSet::new();
    connections.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while stream.read(&mut head).await.is_ok_and(|length| length > 0) {
                    stream.write_all(BUSY).await.unwrap();
                }
            });
        }
    });
    let cluster = Cluster::connect(Some(&kubeconfig), OUTAGE).await.unwrap();
    let error = cluster.fetch().await.unwrap_err();
    let error = error.downcast_ref::<ClusterError>();
    assert!(matches!(error, Some(ClusterError::Refused { code: TOO_MANY_REQUESTS, .. })), "{error:?}");
}

/// What a Secret of an account holds: such a token does not end by itself.
fn token_of_secret(secret: &str, account: &str, uid: &str) -> String {
    let claims = json!({
        "iss": LEGACY_ISSUER,
        "sub": format!("system:serviceaccount:team:{account}"),
        "kubernetes.io/serviceaccount/namespace": "team",
        "kubernetes.io/serviceaccount/secret.name": secret,
        "kubernetes.io/serviceaccount/service-account.name": account,
        "kubernetes.io/serviceaccount/service-account.uid": uid,
    });
    RSA.token(&json!({ "alg": "RS256" }), &claims)
}

#[tokio::test(start_paused = true)]
async fn an_account_whose_token_was_good_today_is_known_when_the_api_server_falls_silent() {
    const HOUR: Duration = Duration::from_secs(3600);
    let script = Script::new();
    script.has(ACCOUNTS, account("team", "robot", "7"));
    script.has(ACCOUNTS, account("team", "deleted", "8"));
    let cluster = script.cluster();
    let (accounts, watching) = WatchedAccounts::watch(&cluster);
    let accounts: Arc<dyn Accounts> = Arc::new(accounts);
    let _running = running([&watching]);
    let is_heard = async || cluster.contact() == Contact::Current;
    let clock = Clock::new(|| SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
    let mut rules = TokenRules::for_audiences(vec!["registry".to_owned()]);
    rules.api_server = ApiServerTokens::For(vec!["https://kubernetes".to_owned()]);
    let issuer = Issuer { name: IssuerName::Exactly(LEGACY_ISSUER.to_owned()), keys: key_set(&[&RSA]) };
    let verified = ServiceAccounts::new(vec![issuer], rules.clone(), clock.clone());
    let reviews = TokenReviews::new(cluster.clone(), Arc::clone(&accounts), rules, REVOCATION, clock);
    let reviews = Arc::new(reviews.unwrap());
    let confirmed = ConfirmedAccounts::new(verified, Arc::clone(&reviews));
    let show = async |token: &str| match confirmed.identify(&Credential::Token(Secret::new(token))).await {
        Ok(known) => known.expect("it is an account's").identity.uid.clone().unwrap(),
        Err(AuthenticationError::Unavailable(_)) => "unavailable".to_owned(),
        Err(_) => "rejected".to_owned(),
    };
    let says = |name: &str, uid: &str| {
        let user = json!({ "username": format!("system:serviceaccount:team:{name}"), "uid": uid });
        script.says(json!({ "authenticated": true, "user": user, "audiences": ["registry"] }));
    };
    let [used, revoked, old, unused] =
        ["used", "revoked", "old", "unused"].map(|s| token_of_secret(s, "robot", "7"));
    let deleted = token_of_secret("another", "deleted", "8");

    until(is_heard).await;
    says("deleted", "8");
    assert_eq!(show(&deleted).await, "8");
    says("robot", "7");
    for token in [&old, &revoked] {
        assert_eq!(show(token).await, "7");
    }
    tokio::time::sleep(20 * HOUR).await;
    assert_eq!(show(&used).await, "7");
    tokio::time::sleep(5 * HOUR).await;
    until(is_heard).await;
    script.says(json!({ "authenticated": false }));
    assert_eq!(show(&revoked).await, "rejected");
    script.tells(ACCOUNTS, "DELETED", account("team", "deleted", "8"));
    let of_deleted = Account { full_name: "team:deleted", uid: "8" };
    until(async || accounts.standing(&of_deleted) == Standing::Gone).await;
    let asked = script.asked().len();
    assert_eq!(show(&deleted).await, "rejected");
    assert_eq!(script.asked().len(), asked, "whatever the API server remembers of it");
    script.refuses.store(503, Ordering::SeqCst);
    assert_eq!(
        show(&used).await,
        "unavailable",
        "the cluster is heard, and somebody keeps it from answering"
    );

    script.goes_away();
    until(async || matches!(cluster.contact(), Contact::Silent(_))).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    for (token, is) in [
        (&used, "7"),
        (&revoked, "unavailable"),
        (&old, "unavailable"),
        (&unused, "unavailable"),
        (&deleted, "rejected"),
    ] {
        assert_eq!(show(token).await, is);
    }
    assert_eq!(name(&reviews, &used).await, Err("unavailable".to_owned()), "no known key has signed it");
    tokio::time::sleep(OUTAGE - Duration::from_secs(120)).await;
    assert_eq!(show(&used).await, "7");
    tokio::time::sleep(Duration::from_secs(240)).await;
    assert_eq!(show(&used).await, "unavailable");
}

#[tokio::test(start_paused = true)]
async fn an_access_review_asks_with_all_that_is_known_of_the_caller() {
    let script = Script::new();
    let reviews = AccessReviews::new(script.cluster()).unwrap();
    let scopes = [("scopes.authorization.openshift.io".to_owned(), vec!["user:info".to_owned()])];
    let caller = Identity { uid: Some("17".to_owned()), extra: scopes.into(), ..user("ann") };
    script.says(json!({ "allowed": true, "reason": "because" }));
    let decided = async |caller: &Identity, wanted| reviews.decide(caller, wanted).await;
    assert_eq!(decided(&caller, &PULL).await.unwrap(), Decision::Allowed("because".into()));
    let (path, spec) = script.asked().pop().unwrap();
    assert_eq!(path, ACCESS_REVIEWS);
    let act = json!({
        "verb": "get", "group": "image.openshift.io", "resource": "imagestreams", "subresource": "layers",
        "namespace": "team", "name": "app",
    });
    let asked = json!({
        "user": "ann", "uid": "17", "groups": ["system:authenticated"], "extra": caller.extra, "resourceAttributes": act,
    });
    assert_eq!(spec, asked);
    // It is remembered for that very question.
    script.says(json!({ "allowed": false }));
    assert!(matches!(decided(&caller, &PULL).await.unwrap(), Decision::Allowed(_)));
    let push = ResourceAttributes { verb: "update", ..PULL };
    assert_eq!(decided(&caller, &push).await.unwrap(), Decision::Denied);
    assert_eq!(decided(&user("ann"), &PULL).await.unwrap(), Decision::Denied);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(decided(&caller, &PULL).await.unwrap(), Decision::Denied);
    // A contradiction is a no, and silence is neither.
    script.says(json!({ "allowed": true, "denied": true }));
    assert_eq!(decided(&user("bob"), &PULL).await.unwrap(), Decision::Denied);
    script.goes_away();
    assert!(decided(&user("cid"), &PULL).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn whoever_carries_scopes_is_asked_about() {
    let script = Script::in_which_ann_may_pull();
    let (bindings, watching) = WatchedBindings::watch(&script.cluster()).unwrap();
    let _running = running(&watching);
    until(async || may_pull(&bindings, "ann").await == Some(true)).await;
    assert!(script.asked().is_empty());
    let scopes = [("scopes.authorization.openshift.io".to_owned(), vec!["user:info".to_owned()])];
    let restricted = Identity { extra: scopes.into(), ..user("ann") };
    script.says(json!({ "allowed": false }));
    assert_eq!(bindings.decide(&restricted, &PULL).await.unwrap(), Decision::Denied);
    assert_eq!(script.asked().len(), 1);
    assert!(!bindings.allows(&restricted, &PULL).await.unwrap());
}
