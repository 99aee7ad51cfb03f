//! Who may do what: each line of `authorization/table.txt` is a request to the real server, which obeys `authorization/objects.yaml`.

mod content;
mod people;
mod table;

use std::collections::HashSet;

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;

use self::{
    content::{Content, HELLO},
    people::People,
    table::{Case, cases},
};
use crate::harness::{Image, TestRegistry, user::Answer};

/// The heading of the lines that are asked when something has been taken away.
const AFTERWARDS: &str = "After it was taken away";

#[tokio::test]
async fn everybody_may_do_what_the_table_says_and_no_more() {
    let cases = cases();
    let different: HashSet<_> = cases.iter().map(|case| (&case.who, &case.request)).collect();
    assert!(different.len() >= 200, "{} cases", different.len());

    let desk = Desk::open().await;
    let mut surprises = Vec::new();
    let (first, last): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.heading != AFTERWARDS);
    for case in first {
        surprises.extend(desk.surprise(case).await);
    }
    assert!(!last.is_empty(), "something is taken away");
    desk.people.take_away_from(&desk.guarded).await;
    for case in last {
        surprises.extend(desk.surprise(case).await);
    }
    assert!(surprises.is_empty(), "{} lines do not hold:\n{}", surprises.len(), surprises.join("\n"));
    desk.people.assert_that_no_token_was_followed();
}

/// Where it is asked.
struct Desk {
    /// The same content, and nobody who guards it.
    content: Content,
    /// The registry that is asked, and another that obeys the same objects and has keys of its own.
    guarded: TestRegistry,
    another: TestRegistry,
    people: People,
}

/// A request, ready to be sent.
#[derive(Clone)]
struct Request {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Desk {
    async fn open() -> Self {
        let (content, people) = (Content::push().await, People::gather());
        let guarded = content.registry.replica_with(people.settings()).await;
        let another = content.registry.replica_with(people.settings()).await;
        Self { content, guarded, another, people }
    }

    /// What is not as the line says, if anything is.
    async fn surprise(&self, case: &Case) -> Option<String> {
        let request = self.prepare(case).await;
        let answer = self.send(&request).await;
        let (status, code, told) = (answer.status.as_u16(), code(&answer), told(&answer));
        if (status, &*code) != (case.status, case.code) || !told.contains(case.said) {
            return Some(format!("{case}\n  answers {status} {code}\n{told}"));
        }
        // Whoever is to log in is told where, and by nobody else.
        let host = self.guarded.host();
        let challenge = format!("www-authenticate: Bearer realm=\"http://{host}/token\",service=\"{host}\"");
        let challenges = told.matches("www-authenticate:").count();
        if status == 401 && challenges != 1 {
            return Some(format!("{case}\n  has {challenges} challenges\n{told}"));
        }
        if status == 401 && case.path.starts_with("/v2/") && !told.contains(&challenge) {
            return Some(format!("{case}\n  does not say how to log in\n{told}"));
        }
        let repository = case.repository().filter(|_| matches!(status, 401 | 403))?;
        // Another name as long, of the same namespace. What is called otherwise in the answer is called so in turn.
        let name = repository.rsplit('/').next()?;
        let absent = "q".repeat(name.len());
        let end = "/v2/".len() + repository.len();
        let mut path = request.path.clone();
        path.replace_range(end - name.len()..end, &absent);
        let answer = self.send(&Request { path, ..request }).await;
        let of_absent = self::told(&answer).replace(&absent, name);
        let differs = answer.status.as_u16() != status || of_absent != told;
        differs.then(|| format!("{case}\n  answers\n{told}\n  and for what is not there\n{of_absent}"))
    }

    async fn prepare(&self, case: &Case) -> Request {
        let repository = case.repository().unwrap_or_default();
        let image = match case.method {
            Method::DELETE => self.content.push_another(repository, case.tag().unwrap_or("old")).await,
            _ => self.content.image(repository),
        };
        let fill = async |text: &str| self.fill(text, repository, &image).await;
        let mut headers = vec![("x-forwarded-for", case.source())];
        match case.who.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(values) => {
                for value in values.split("\" \"") {
                    headers.push(("authorization", fill(value).await));
                }
            }
            None => {
                let shown = self.people.shown(case.who, &self.guarded, &self.another).await;
                headers.extend(shown.header().map(|value| ("authorization", value)));
            }
        }
        let (kind, body) = match (&case.form, &case.method) {
            (Some(form), _) => ("application/x-www-form-urlencoded", fill(form).await.into()),
            (None, method) if *method == Method::PUT && case.path.contains("/manifests/") => {
                (Image::MEDIA_TYPE, image.manifest.clone())
            }
            (None, method) if *method == Method::PATCH || case.path.contains("?digest=") => {
                ("application/octet-stream", Bytes::from_static(HELLO))
            }
            (None, _) => ("text/plain", Bytes::new()),
        };
        headers.push(("content-type", kind.to_owned()));
        Request { method: case.method.clone(), path: fill(case.path).await, headers, body }
    }

    /// Puts what they mean in the place of words in braces.
    async fn fill(&self, text: &str, repository: &str, image: &Image) -> String {
        let (mut filled, mut rest) = (String::new(), text);
        while let Some((before, (word, after))) =
            rest.split_once('{').map(|(before, after)| (before, after.split_once('}').expect("it is closed")))
        {
            filled += before;
            filled += &match self.content.word(word, repository, image).await {
                Some(text) => text,
                None => self.people.shown(word, &self.guarded, &self.another).await.secret(),
            };
            rest = after;
        }
        filled + rest
    }

    async fn send(&self, request: &Request) -> Answer {
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.guarded
            .user("somebody")
            .ask(request.method.clone(), &request.path, &headers, request.body.clone())
            .await
    }
}

/// The code of the failure, if there is a body to hold one.
fn code(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
}

/// All that is told but the status, the time, and the name of the request.
fn told(answer: &Answer) -> String {
    let headers = answer.headers.iter().filter(|(name, _)| *name != "date" && *name != "x-request-id");
    let headers: String = headers
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    headers + &String::from_utf8_lossy(&answer.body).replace("\\\"", "\"")
}
