//! The audit log: who did what, or was refused, and which binding let them. One JSON object a line.
//!
//! An event is written before its request is answered: whoever was told that something was done finds it there, also after the
//! process was killed. A slow disk makes requests wait, and loses no event. Where the file cannot be written at all, events go to
//! standard error instead and requests go on: a full disk must not keep those from pulling who have nothing to do with it. No
//! credential, and nothing of one, is in an event; the user name that was typed beside a wrong password is not either, since
//! people type passwords there.
//!
//! A request that shows nothing and is asked to log in is no event: every login begins so.

mod output;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use auth::Identity;
use axum::extract::NestedPath;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, header};
use serde::Serialize;
use storage::{Digest, Reference, RepositoryName, Tag};
use tokio::sync::{mpsc, oneshot};

use self::output::Output;
use crate::api::endpoint::Endpoint;
use crate::config;
use crate::logging;
use crate::server::Particulars;

/// What events have as their `target`, among other lines.
const TARGET: &str = "audit";

/// How many events may wait for the disk before those who make more wait too.
const WAITING: usize = 1024;

/// Where events are written. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuditLog(Option<Writer>);

#[derive(Clone, Debug)]
struct Writer {
    lines: mpsc::Sender<Line>,
    /// What the configuration puts on each line.
    fields: Arc<str>,
}

#[derive(Debug)]
struct Line {
    text: String,
    /// Dropped once the line is written.
    _written: oneshot::Sender<()>,
}

/// Something that is done to a repository.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Content, or a list of it, is read. Only denials of it are events.
    Pull,
    /// A blob or manifest is added.
    Push,
    /// A blob is added that another repository has.
    Mount,
    /// A blob, manifest or tag is removed.
    Delete,
}

/// What exactly was done.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Deed<'a> {
    /// What was pushed, mounted or deleted, if it has a digest.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    pub digest: Option<&'a Digest>,
    /// The tags that were set or deleted: the first of them, where they went with a manifest.
    #[serde(skip_serializing_if = "<[Tag]>::is_empty", serialize_with = "names")]
    pub tags: &'a [Tag],
    /// How many tags went with the manifest that was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag_count: Option<usize>,
    /// The media type of the manifest that was pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<&'a str>,
    /// The size of what was pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// The repository that a mounted blob was found in, if it was named.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    pub from: Option<&'a RepositoryName>,
    /// The binding that allowed it to be read there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_binding: Option<&'a str>,
    /// Whether the store failed at it. It may have been done, or some of it, all the same.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

impl AuditLog {
    /// One that forgets everything.
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens what the configuration names.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(log: &config::Log) -> io::Result<Self> {
        let mut output = match &log.audit {
            config::Audit::Off => return Ok(Self::off()),
            config::Audit::AmongOthers => Output::among_others(),
            config::Audit::File(path) => Output::file(path)?,
        };
        let (lines, mut waiting) = mpsc::channel::<Line>(WAITING);
        // A thread of its own, because neither a file nor a pipe may hold up a runtime thread.
        thread::Builder::new().name(TARGET.to_owned()).spawn(move || {
            while let Some(line) = waiting.blocking_recv() {
                output.write(&line.text);
            }
        })?;
        Ok(Self(Some(Writer { lines, fields: logging::json_fields(&log.fields).into() })))
    }

    /// Writes that what a request showed was refused, and why.
    pub async fn refused(&self, request: &Parts, reason: &str) {
        self.write(&Source::of(request), None, Outcome::Refused { act: "login", reason }).await;
    }

    /// Returns when the event was written.
    ///
    /// # Cancel safety
    /// If dropped, the event is written unless it still waited for a place. What changes the registry runs to its end, and this
    /// with it; of a denial that nobody waited for nobody learned.
    async fn write(&self, source: &Source, caller: Option<&Identity>, outcome: Outcome<'_>) {
        let Some(Writer { lines, fields }) = &self.0 else { return };
        let text = match serde_json::to_string(&Event::new(source, caller, outcome)) {
            Ok(text) => format!("{{{fields}{}\n", &text[1..]),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                return tracing::error!(error, "an audit event cannot be written");
            }
        };
        let (_written, written) = oneshot::channel();
        if lines.send(Line { text, _written }).await.is_err() {
            return tracing::error!("the audit log has no writer any more");
        }
        let _ = written.await; // It is dropped, not sent.
    }
}

/// Somebody who asks for something: who they are, and what they sent.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'r> {
    /// Who they are.
    pub caller: &'r Arc<Identity>,
    /// What they sent.
    pub request: &'r Parts,
}

/// Somebody who asks for something, remembered until it is known what became of it.
#[derive(Clone, Debug)]
pub struct Witness {
    log: AuditLog,
    caller: Arc<Identity>,
    source: Source,
}

impl Witness {
    /// Remembers whom to name in `log`.
    pub fn of(asker: Asker<'_>, log: &AuditLog) -> Self {
        Self { log: log.clone(), caller: Arc::clone(asker.caller), source: Source::of(asker.request) }
    }

    /// Writes what was done to `repository`, and which binding allowed it.
    pub async fn allowed(&self, act: Act, repository: &RepositoryName, binding: &str, deed: Deed<'_>) {
        let outcome = Outcome::Allowed { act, repository: repository.as_str(), binding, deed };
        self.log.write(&self.source, Some(&self.caller), outcome).await;
    }

    /// Writes what may not be done to `repository`, and what is missing.
    pub async fn denied(&self, act: Act, repository: &RepositoryName, missing: &str) {
        let endpoint = self.source.endpoint.as_ref();
        let endpoint = endpoint.filter(|endpoint| endpoint.repository() == Some(repository));
        let tag = match endpoint {
            Some(Endpoint::Manifest { reference: Reference::Tag(tag), .. }) => std::slice::from_ref(tag),
            _ => &[],
        };
        let deed = Deed { digest: endpoint.and_then(Endpoint::digest), tags: tag, ..Deed::default() };
        let outcome = Outcome::Denied { act, repository: repository.as_str(), missing, deed };
        self.log.write(&self.source, Some(&self.caller), outcome).await;
    }
}

/// Which request an event comes from.
#[derive(Clone, Debug)]
struct Source {
    method: Method,
    /// None if the path is none of the API's, as that of the token endpoint.
    endpoint: Option<Endpoint>,
    /// As it was asked for, with what comes before it if the API lies below a prefix.
    path: Box<str>,
    user_agent: Option<HeaderValue>,
    particulars: Option<Arc<Particulars>>,
}

impl Source {
    fn of(request: &Parts) -> Self {
        let prefix = request.extensions.get().map_or("", NestedPath::as_str).trim_end_matches('/');
        let path = format!("{prefix}{}", request.uri.path());
        Self {
            method: request.method.clone(),
            endpoint: Endpoint::parse(request.uri.path()).ok(),
            path: beginning(&path).into(),
            user_agent: request.headers.get(header::USER_AGENT).cloned(),
            particulars: request.extensions.get().cloned(),
        }
    }
}

/// A line of the log. What the access log has too is called as it is there.
#[derive(Serialize)]
struct Event<'a> {
    timestamp: String,
    level: &'static str,
    target: &'static str,
    message: &'static str,
    #[serde(rename = "request.id", skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(rename = "client.address", skip_serializing_if = "Option::is_none")]
    client_address: Option<IpAddr>,
    #[serde(rename = "http.user_agent", skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(rename = "http.method")]
    method: &'a str,
    #[serde(rename = "http.path")]
    path: &'a str,
    #[serde(rename = "caller.name", skip_serializing_if = "Option::is_none")]
    caller_name: Option<&'a str>,
    #[serde(rename = "caller.uid", skip_serializing_if = "Option::is_none")]
    caller_uid: Option<&'a str>,
    #[serde(rename = "caller.groups", skip_serializing_if = "Option::is_none")]
    caller_groups: Option<&'a [String]>,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

/// What became of a request.
#[derive(Serialize)]
#[serde(tag = "decision", rename_all = "lowercase")]
enum Outcome<'a> {
    Allowed {
        act: Act,
        repository: &'a str,
        binding: &'a str,
        #[serde(flatten)]
        deed: Deed<'a>,
    },
    Denied {
        act: Act,
        repository: &'a str,
        missing: &'a str,
        #[serde(flatten)]
        deed: Deed<'a>,
    },
    /// It is not known who asks, because what they show is not good.
    Refused { act: &'static str, reason: &'a str },
}

impl<'a> Event<'a> {
    fn new(source: &'a Source, caller: Option<&'a Identity>, outcome: Outcome<'a>) -> Self {
        let particulars = source.particulars.as_deref();
        Self {
            timestamp: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            level: "INFO",
            target: TARGET,
            message: match &outcome {
                Outcome::Allowed { deed: Deed { failed: true, .. }, .. } => "failed",
                Outcome::Allowed { .. } => "done",
                Outcome::Denied { .. } => "denied",
                Outcome::Refused { .. } => "credential refused",
            },
            request_id: particulars.map(|particulars| particulars.request_id().to_string()),
            client_address: particulars.and_then(Particulars::client_address),
            user_agent: source.user_agent.as_ref().and_then(|value| value.to_str().ok()).map(beginning),
            method: source.method.as_str(),
            path: &source.path,
            caller_name: caller.map(|caller| caller.name.as_str()),
            caller_uid: caller.and_then(|caller| caller.uid.as_deref()),
            caller_groups: caller.map(|caller| caller.groups.as_slice()),
            outcome,
        }
    }
}

/// As much of what a client wrote as an event has room for, so that nobody fills the log faster than by asking.
fn beginning(text: &str) -> &str {
    const BYTES: usize = 512;
    text.get(..text.floor_char_boundary(BYTES)).unwrap_or(text)
}

fn shown<S: serde::Serializer>(value: &Option<impl fmt::Display>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn names<S: serde::Serializer>(tags: &&[Tag], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(tags.iter().map(Tag::as_str))
}
