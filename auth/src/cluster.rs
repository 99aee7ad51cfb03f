//! A cluster's API server: who is asked about tokens, keys and permissions, and who tells of accounts, roles and bindings.
//!
//! It may be away for a while. What it said before then goes on to count, for a stated time, and whoever needs more than that
//! is told at once that it cannot be known.

mod answers;
mod contact;
mod queue;
mod watch;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Resource};
use tokio::task::JoinError;
use tokio::time::Instant;

pub use self::contact::{Contact, Lost};

pub(crate) use self::answers::{Answer, Answers, Lasting};
pub(crate) use self::queue::About;
pub(crate) use self::watch::Listener;

use self::contact::Contacts;
use self::queue::Queue;
use self::watch::watch;
use crate::{FetchKeys, Secret, Upkeep};

/// How long one question may take from when it is put, and how long it may wait for that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connecting may take: less, so that an API server that is not there is told from one that is slow.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long nobody asks again after an API server could not be reached. Then one asks, and the others wait no longer than before.
const AWAY_FOR: Duration = Duration::from_secs(1);

/// How many questions may be under way, so that whoever makes up tokens or names does not keep the API server from its other work.
const QUESTIONS: usize = 64;

/// How many more may be about nobody in particular. They take nobody else's turn, and are few, since nothing limits who asks them.
const QUESTIONS_OF_NOBODY: usize = 8;

/// The status by which an API server that has too much to do puts off whoever asks it.
const TOO_MANY_REQUESTS: u16 = 429;

/// After how long it is asked again then. That it goes on for longer must be known well before [`ANSWER_TIMEOUT`].
const PUT_OFF_FOR: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];

/// An API server. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    client: kube::Client,
    address: String,
    contacts: Contacts,
    last: Mutex<Last>,
    of_somebody: Queue,
    of_nobody: Queue,
    answered: AtomicU64,
    unanswered: AtomicU64,
    unasked: AtomicU64,
}

/// What became of the last question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Last {
    Answered,
    /// Nobody answered in time. One question may be hard: others need not be.
    Unanswered,
    /// It could not be reached then; or then somebody began to find out whether it can again.
    Missed(Instant),
}

/// Why an API server cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file of the address and credentials cannot be used.
    #[error("cannot use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KubeconfigError,
    },
    /// There is no such file, and this is no pod that has an account.
    #[error(
        "no cluster is found around this process: it is no pod with a service account (name a kubeconfig, or a folder of \
         roles and bindings)"
    )]
    NotInCluster(#[source] kube::config::InClusterError),
    /// What they say makes no client.
    #[error("cannot prepare to talk to the API server")]
    Client(#[source] kube::Error),
}

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The API server refuses to answer the registry, most often for lack of a right.
    #[error("the API server refuses ({code}): {message}")]
    Refused {
        /// The status of its answer.
        code: u16,
        /// Its reason.
        message: String,
    },
    /// It took too long.
    #[error("the API server did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    TimedOut,
    /// It was not asked, as it was asked so much else.
    #[error("the API server is asked too much else: there was no turn within {} s", ANSWER_TIMEOUT.as_secs())]
    Busy,
    /// It could not be reached a moment ago.
    #[error("the API server could not be reached a moment ago")]
    Away,
    /// The question did not get there, or the answer not back.
    #[error("the API server cannot be asked")]
    Failed(#[source] Box<kube::Error>),
    /// What it answered is none. Nothing of that is kept, since it may repeat the question.
    #[error("the API server's answer cannot be read (line {line}, column {column})")]
    Unreadable {
        /// Where it ceases to make sense.
        line: usize,
        /// The place in that line.
        column: usize,
    },
    /// A fault of our own.
    #[error("the question broke off")]
    BrokeOff(#[source] JoinError),
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused { code: status.code, message: status.message },
            kube::Error::SerdeError(error) => Self::Unreadable { line: error.line(), column: error.column() },
            error => Self::Failed(Box::new(error)),
        }
    }
}

impl ClusterError {
    /// The same, without a reason that quotes `secret`.
    pub(crate) fn without(self, secret: &Secret) -> Self {
        match self {
            Self::Refused { code, message } if message.contains(secret.expose()) => {
                Self::Refused { code, message: "its reason quotes what it was asked".to_owned() }
            }
            error => error,
        }
    }

    /// Whether there is nobody who answers, so that what was answered before may count for longer. A refusal stands: whoever took
    /// a right away from the registry means it.
    ///
    /// Nor is it an outage that the API server or the registry itself has too much to do. It does answer, and most of those who
    /// ask can bring that about: if old answers counted then, whoever has lost a right would only have to see to it that many ask.
    /// So nothing outlives its time, and whoever is not told what they may is told to come back.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Refused { code, .. } => *code >= 500,
            Self::TimedOut | Self::Away | Self::Failed(_) | Self::Unreadable { .. } => true,
            Self::Busy | Self::BrokeOff(_) => false,
        }
    }

    /// Whether the API server wants to be asked later.
    fn is_put_off(&self) -> bool {
        matches!(self, Self::Refused { code: TOO_MANY_REQUESTS, .. })
    }
}

impl Cluster {
    /// The cluster that `kubeconfig` names or, without one, the one that this process is a pod of. It need not answer yet.
    /// What it tells counts for `outage` after it has fallen silent.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(kubeconfig: Option<&Path>, outage: Duration) -> Result<Self, ConnectError> {
        let mut config = match kubeconfig {
            Some(path) => {
                let wrong = |source| ConnectError::Kubeconfig { path: path.to_owned(), source };
                let file = Kubeconfig::read_from(path).map_err(wrong)?;
                let options = KubeConfigOptions::default();
                kube::Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?
            }
            None => kube::Config::incluster().map_err(ConnectError::NotInCluster)?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // Put off, the client would ask again unseen until no time is left, and an API server that is busy would look silent.
        config.default_retry = false;
        let address = config.cluster_url.to_string();
        let client = kube::Client::try_from(config).map_err(ConnectError::Client)?;
        Ok(Self::of(client, address, outage))
    }

    fn of(client: kube::Client, address: String, outage: Duration) -> Self {
        Self(Arc::new(Inner {
            client,
            address,
            contacts: Contacts::new(outage),
            last: Mutex::new(Last::Answered),
            of_somebody: Queue::new(QUESTIONS),
            of_nobody: Queue::new(QUESTIONS_OF_NOBODY),
            answered: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            unasked: AtomicU64::new(0),
        }))
    }

    /// Its URL.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Whether it is heard of.
    pub fn contact(&self) -> Contact {
        self.0.contacts.contact()
    }

    /// How many questions there were for it since the start, by what came of them: `yes` if an answer did, `unasked` if they
    /// waited for their turn in vain, else `none`.
    pub fn questions(&self) -> [(&'static str, u64); 3] {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("yes", count(&self.0.answered)),
            ("none", count(&self.0.unanswered)),
            ("unasked", count(&self.0.unasked)),
        ]
    }

    /// Makes sure that what it told still counts.
    pub(crate) fn ensure_known(&self) -> Result<(), Lost> {
        self.0.contacts.ensure_known()
    }

    /// Tells `listener` all objects of one kind, which must be known before anything counts.
    pub(crate) fn watch<L>(&self, kind: &'static str, listener: L) -> Upkeep
    where
        L: Listener + Clone + Sync + 'static,
        <L::Object as Resource>::DynamicType: Default,
    {
        let (client, pulse) = (self.client(), self.0.contacts.add(kind));
        Upkeep::new(kind, move || watch(Api::all(client.clone()), listener.clone(), Arc::clone(&pulse)))
    }

    /// How long its answers count after it has fallen silent.
    pub(crate) fn outage(&self) -> Duration {
        self.0.contacts.outage()
    }

    pub(crate) fn client(&self) -> kube::Client {
        self.0.client.clone()
    }

    /// Asks it one question when it is its turn, unless it could not be reached a moment ago.
    pub(crate) async fn ask<T, F>(&self, about: About, question: impl Fn() -> F) -> Result<T, ClusterError>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let queue = self.queue(about);
        let _turn = queue.turn().await.inspect_err(|_| {
            self.0.unasked.fetch_add(1, Ordering::Relaxed);
        })?;
        self.put(question, || queue.hear()).await
    }

    /// How often it answered such questions. While that stays as it is, it answers none of them.
    fn heard(&self, about: About) -> u64 {
        self.queue(about).heard()
    }

    fn queue(&self, about: About) -> &Queue {
        match about {
            About::Somebody => &self.0.of_somebody,
            About::Nobody => &self.0.of_nobody,
        }
    }

    /// Puts a question whose turn it is. Only from here on does it matter how long that takes. That there is somebody who answers is
    /// noted by `hear` at once, each time that the question is put off, too: whoever waits must know it before they have waited long
    /// enough to think otherwise.
    async fn put<T, F>(&self, question: impl Fn() -> F, hear: impl Fn()) -> Result<T, ClusterError>
    where
        F: Future<Output = kube::Result<T>>,
    {
        if self.seems_away() {
            return Err(ClusterError::Away);
        }
        let mut put_off = None;
        let asked = async {
            let mut pauses = PUT_OFF_FOR.into_iter();
            loop {
                let answer = question().await.map_err(ClusterError::from);
                if !answer.as_ref().is_err_and(ClusterError::is_outage) {
                    hear();
                }
                match answer {
                    Err(error) if error.is_put_off() => {
                        let Some(pause) = pauses.next() else { return Err(error) };
                        put_off = Some(error);
                        tokio::time::sleep(pause).await;
                    }
                    answer => return answer,
                }
            }
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
        // Whoever put us off is there, although nothing came after that.
        let answer = answer.unwrap_or_else(|_| Err(put_off.unwrap_or(ClusterError::TimedOut)));
        let counter = if answer.is_ok() { &self.0.answered } else { &self.0.unanswered };
        counter.fetch_add(1, Ordering::Relaxed);
        *self.last() = match &answer {
            Err(ClusterError::Failed(_)) => Last::Missed(Instant::now()),
            Err(ClusterError::TimedOut) => Last::Unanswered,
            Ok(_)
            | Err(
                ClusterError::Refused { .. }
                | ClusterError::Unreadable { .. }
                | ClusterError::Busy
                | ClusterError::Away
                | ClusterError::BrokeOff(_),
            ) => Last::Answered,
        };
        answer
    }

    /// Whether it cannot be counted on that it answers soon.
    fn seems_silent(&self) -> bool {
        *self.last() != Last::Answered || self.contact() != Contact::Current
    }

    /// Whether somebody else just found out that it is away, or is about to.
    fn seems_away(&self) -> bool {
        let Last::Missed(at) = &mut *self.last() else { return false };
        if at.elapsed() < AWAY_FOR {
            return true;
        }
        *at = Instant::now();
        false
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Cluster").field(&self.0.address).finish()
    }
}

/// The keys that its tokens are signed with, as every account in it may read them.
#[async_trait]
impl FetchKeys for Cluster {
    async fn fetch(&self) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        let request = http::Request::get("/openid/v1/jwks").body(Vec::new())?;
        // They are fetched by one at a time. So they need no turn, and nobody who takes all of these keeps old keys good.
        let answer = self.put(|| self.0.client.request_text(request.clone()), || {}).await?;
        Ok(answer.into_bytes())
    }
}

#[cfg(test)]
mod tests;
