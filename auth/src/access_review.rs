//! Permission, as the API server sees it: a `SubjectAccessReview` for each question, for clusters where more than roles decides.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authorization::v1 as objects;
use kube::Api;
use kube::api::PostParams;

use crate::cluster::{About, Answers, Cluster, ClusterError, Lasting};
use crate::keyed_hash::{Hash, KeyedHash, Kind};
use crate::{AuthError, Authorizer, Decision, Identity, NoRandomness, ResourceAttributes};

/// How long an answer is remembered, as the API server's own clients do.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// Asks the API server about each act, and remembers its answers for ten seconds.
#[derive(Debug)]
pub struct AccessReviews {
    cluster: Cluster,
    key: KeyedHash,
    answers: Answers<Decision>,
    /// Apart from the others, so that nobody who makes up names makes the registry forget what it knows, or others wait.
    of_nobody: Answers<Decision>,
}

impl AccessReviews {
    /// Asks `cluster`.
    ///
    /// # Errors
    /// Without randomness.
    pub fn new(cluster: Cluster) -> Result<Self, NoRandomness> {
        let [answers, of_nobody] =
            [About::Somebody, About::Nobody].map(|about| Answers::new(cluster.clone(), about));
        Ok(Self { cluster, key: KeyedHash::new()?, answers, of_nobody })
    }

    /// Everything that the answer may depend on, in a form that has one reading.
    fn question(&self, caller: &Identity, wanted: &ResourceAttributes<'_>) -> Hash {
        let ResourceAttributes { verb, group, resource, subresource, namespace, name } = wanted;
        let act = [verb, group, resource, subresource, namespace, name];
        let question = serde_json::json!([act, caller.name, caller.uid, caller.groups, caller.extra]);
        self.key.of(Kind::Question, question.to_string().as_bytes())
    }

    fn ask(
        &self,
        about: About,
        caller: &Identity,
        wanted: &ResourceAttributes<'_>,
    ) -> impl Future<Output = Result<Decision, ClusterError>> + use<> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let spec = objects::SubjectAccessReviewSpec {
            user: Some(caller.name.clone()),
            uid: caller.uid.clone(),
            groups: Some(caller.groups.clone()),
            extra: Some(caller.extra.clone()),
            resource_attributes: Some(objects::ResourceAttributes {
                verb: text(wanted.verb),
                group: text(wanted.group),
                resource: text(wanted.resource),
                subresource: text(wanted.subresource),
                namespace: text(wanted.namespace),
                name: text(wanted.name),
                ..objects::ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        };
        let review = objects::SubjectAccessReview { spec, ..objects::SubjectAccessReview::default() };
        let cluster = self.cluster.clone();
        async move {
            let api: Api<objects::SubjectAccessReview> = Api::all(cluster.client());
            let params = PostParams::default();
            let answer = cluster.ask(about, || api.create(&params, &review)).await?;
            let status = answer.status.unwrap_or_default();
            Ok(if status.allowed && status.denied != Some(true) {
                let reason = status.reason.filter(|reason| !reason.is_empty());
                Decision::Allowed(reason.map_or_else(|| "the API server".into(), Arc::from))
            } else {
                Decision::Denied
            })
        }
    }
}

#[async_trait]
impl Authorizer for AccessReviews {
    async fn decide(
        &self,
        caller: &Identity,
        wanted: &ResourceAttributes<'_>,
    ) -> Result<Decision, AuthError> {
        let question = self.question(caller, wanted);
        let answers = if caller.is_anonymous() { &self.of_nobody } else { &self.answers };
        let lasting = Lasting { fresh: REMEMBERED_FOR, outage: self.cluster.outage() };
        let ask = |about| self.ask(about, caller, wanted);
        let answer = answers.get(&question, None, |_| lasting, ask).await;
        answer.map(|answer| answer.value).map_err(|error| AuthError::Unavailable(error.into()))
    }
}
