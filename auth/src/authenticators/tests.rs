use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::*;
use crate::identity::{AUTHENTICATED, Identity, UNAUTHENTICATED};
use crate::keys::tests::{TestKey, key_set};
use crate::{
    Account, Certificates, Issuer, IssuerName, RegistryTokenKeys, Secret, ServiceAccounts, Standing,
    TokenRules,
};

const NOW: u64 = 1_800_000_000;
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

/// What a script says of every credential.
#[derive(Clone, Debug)]
enum Answer {
    NotMine,
    Is(Identity, Option<SystemTime>),
    Rejected,
    Unavailable,
}

/// Answers by a script, after some time, and counts who asks.
#[derive(Debug)]
struct Scripted {
    answer: Mutex<Answer>,
    takes: Duration,
    asked: AtomicUsize,
}

impl Scripted {
    fn new(answer: Answer) -> Arc<Self> {
        let takes = Duration::from_millis(100);
        Arc::new(Self { answer: Mutex::new(answer), takes, asked: AtomicUsize::new(0) })
    }

    fn says(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Authenticator for Scripted {
    async fn identify(&self, _: &Credential) -> Result<Option<Authenticated>, AuthenticationError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.lock().unwrap().clone();
        tokio::time::sleep(self.takes).await;
        match answer {
            Answer::NotMine => Ok(None),
            Answer::Is(identity, expires) => {
                Ok(Some(Authenticated { expires, ..Authenticated::new(Arc::new(identity)) }))
            }
            Answer::Rejected => Err(rejected("it is wrong")),
            Answer::Unavailable => Err(AuthenticationError::Unavailable("connection refused".into())),
        }
    }
}

fn user(name: &str, groups: &[&str]) -> Identity {
    let groups = groups.iter().map(|&group| group.to_owned()).collect();
    Identity { name: name.to_owned(), groups, ..Identity::default() }
}

fn is(name: &str) -> Answer {
    Answer::Is(user(name, &[]), None)
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn chain() -> Authenticators {
    Authenticators::new(&AuthenticatorOptions::default(), Clock::new(|| at(NOW))).unwrap()
}

/// Where each failure counts for so long that it can be told how many there were.
fn slow_to_forget() -> Authenticators {
    let options =
        AuthenticatorOptions { failure_every: Duration::from_secs(60), ..AuthenticatorOptions::default() };
    Authenticators::new(&options, Clock::new(|| at(NOW))).unwrap()
}

fn token(text: &str) -> Credential {
    Credential::Token(Secret::new(text))
}

fn password(user: &str, text: &str) -> Credential {
    Credential::Password { user: user.to_owned(), password: Secret::new(text) }
}

/// The header that a credential was read from.
fn header(credential: &Credential) -> Option<String> {
    match credential {
        Credential::Password { user, password } => Some(format!("Basic {user}:{}", password.expose())),
        Credential::Token(token) => Some(format!("Bearer {}", token.expose())),
        Credential::Unreadable(text) => Some(text.expose().to_owned()),
        Credential::Certificate { .. } => None,
    }
}

/// Asks as the server does.
async fn name(chain: &Authenticators, credential: &Credential) -> Result<String, String> {
    let header = header(credential);
    let header = header.as_deref().map(str::as_bytes);
    if let Some(identity) = header.and_then(|header| chain.recall(header)) {
        return Ok(identity.name.clone());
    }
    let known = match header {
        Some(header) => chain.identify_by(header, credential, HERE).await,
        None => chain.identify(credential, HERE).await,
    };
    known.map(|known| known.identity.name.clone()).map_err(|error| error.to_string())
}

#[tokio::test(start_paused = true)]
async fn the_first_who_knows_says_who_and_the_rest_is_not_asked() {
    let [first, second, third] = [Answer::NotMine, is("alice"), is("bob")].map(Scripted::new);
    let chain = chain()
        .then(first.clone(), Attempts::Unlimited)
        .then(second.clone(), Attempts::Unlimited)
        .then(third.clone(), Attempts::Limited);
    assert_eq!(name(&chain, &token("a")).await.as_deref(), Ok("alice"));
    assert_eq!([&first, &second, &third].map(|one| one.asked()), [1, 1, 0]);

    // Who says no, or cannot tell, ends it as well: otherwise the next might take it for something else.
    second.says(Answer::Rejected);
    assert_eq!(name(&chain, &token("b")).await.unwrap_err(), "it is wrong");
    second.says(Answer::Unavailable);
    let error = chain.identify(&token("c"), HERE).await.unwrap_err();
    assert!(
        matches!(&error, AuthenticationError::Unavailable(source) if source.to_string() == "connection refused")
    );
    assert_eq!(third.asked(), 0);

    second.says(Answer::NotMine);
    third.says(Answer::NotMine);
    assert_eq!(name(&chain, &token("d")).await.unwrap_err(), "nobody here knows the credential");
    assert_eq!(name(&self::chain(), &token("d")).await.unwrap_err(), "nobody here knows the credential");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_known_is_in_the_group_of_all_who_are() {
    let cases = [
        (user("alice", &["developers"]), ["developers", AUTHENTICATED].as_slice()),
        (user("alice", &[AUTHENTICATED, "developers"]), &[AUTHENTICATED, "developers"]),
        (user("alice", &[UNAUTHENTICATED]), &[UNAUTHENTICATED]),
        (Identity::anonymous(), &[UNAUTHENTICATED]),
        (user("system:anonymous", &[]), &[]),
    ];
    for (identity, groups) in cases {
        let chain = chain().then(Scripted::new(Answer::Is(identity, None)), Attempts::Unlimited);
        assert_eq!(chain.identify(&token("a"), HERE).await.unwrap().identity.groups, groups);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_found_out_is_remembered_for_seconds() {
    let one = Scripted::new(is("alice"));
    let chain = chain().then(one.clone(), Attempts::Unlimited);
    for (answer, seconds, asked) in
        [(is("alice"), 10, 1), (Answer::Rejected, 5, 2), (Answer::Unavailable, 1, 3)]
    {
        one.says(answer);
        let first = name(&chain, &token("a")).await;
        one.says(is("somebody else"));
        tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
        assert_eq!(name(&chain, &token("a")).await, first);
        assert_eq!(one.asked(), asked);
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(name(&chain, &token("a")).await.as_deref(), Ok("somebody else"));
}

/// Knows every token but those that were taken away: it is that of the user who is called like it.
#[derive(Debug, Default)]
struct Namesakes {
    taken_away: Mutex<HashSet<String>>,
    asked: AtomicUsize,
}

#[async_trait]
impl Authenticator for Namesakes {
    async fn identify(&self, credential: &Credential) -> Result<Option<Authenticated>, AuthenticationError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let name = credential.token().unwrap().expose();
        let is_good = !self.taken_away.lock().unwrap().contains(name);
        Ok(is_good.then(|| Authenticated::new(Arc::new(user(name, &[])))))
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_credentials_are_remembered_as_it_says_and_all_others_are_asked_about_again() {
    let default = AuthenticatorOptions::default().remembered;
    for remembered in [100, default] {
        let known = Arc::new(Namesakes::default());
        let options = AuthenticatorOptions { remembered, ..AuthenticatorOptions::default() };
        let chain = Authenticators::new(&options, Clock::new(|| at(NOW)))
            .unwrap()
            .then(known.clone(), Attempts::Unlimited);
        let names: Vec<String> = (0..2 * remembered).map(|number| format!("user-{number}")).collect();
        // Shows these, and tells how many are let in as who they are, and about how many somebody is asked.
        let show = async |names: &[String]| {
            let (before, mut let_in) = (known.asked.load(Ordering::SeqCst), 0);
            for shown in names {
                // As a thread asks that was shown nothing yet.
                match chain.identify(&token(shown), HERE).await {
                    Ok(known) => {
                        assert_eq!(known.identity.name, *shown);
                        let_in += 1;
                    }
                    Err(reason) => assert_eq!(reason.to_string(), "nobody here knows the credential"),
                }
            }
            (let_in, known.asked.load(Ordering::SeqCst) - before)
        };
        // Fewer are all remembered, wherever their hashes fall.
        let few = &names[..remembered / 4];
        assert_eq!(show(few).await, (few.len(), few.len()));
        assert_eq!(show(few).await, (few.len(), 0));

        assert_eq!(show(&names).await, (names.len(), names.len() - few.len()));
        *known.taken_away.lock().unwrap() = names.iter().cloned().collect();
        let (let_in, asked) = show(&names).await;
        assert_eq!(asked, names.len() - let_in, "whoever is not remembered is judged anew");
        assert!(let_in > 0 && let_in <= remembered, "{let_in} of {remembered}");

        tokio::time::advance(options.known_for).await;
        assert_eq!(show(&names).await.0, 0, "in the end nobody is let in by what is remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_is_recalled_as_it_was_shown_to_the_same_registry_and_found_to_be_good() {
    let one = Scripted::new(Answer::Rejected);
    let [chain, other] = [(); 2].map(|()| chain().then(one.clone(), Attempts::Unlimited));
    let recalled = |chain: &Authenticators, header: &str| chain.recall(header.as_bytes());
    assert!(name(&chain, &token("bad")).await.is_err());
    assert_eq!(recalled(&chain, "Bearer bad"), None);

    one.says(is("alice"));
    chain.identify(&token("a"), HERE).await.unwrap();
    assert_eq!(recalled(&chain, "Bearer a"), None, "nobody said that it was read from there");
    name(&chain, &token("a")).await.unwrap();
    let alice = recalled(&chain, "Bearer a").unwrap();
    assert_eq!(*alice, user("alice", &[AUTHENTICATED]));
    for header in ["", "a", "bearer a", "Bearer  a", "Bearer b", "Bearer bad"] {
        assert_eq!(recalled(&chain, header), None, "{header}");
    }
    assert_eq!(recalled(&other, "Bearer a"), None);
    let elsewhere = std::thread::scope(|scope| scope.spawn(|| recalled(&chain, "Bearer a")).join().unwrap());
    assert_eq!(elsewhere, None, "each thread has its own");
}

/// A file that chains depend on.
struct Changing {
    file: tempfile::NamedTempFile,
    all: Files,
}

impl Changing {
    fn new() -> Self {
        let (file, all) = (tempfile::NamedTempFile::new().unwrap(), Files::new());
        std::fs::write(&file, "k".repeat(32)).unwrap();
        let _keys = RegistryTokenKeys::from_file(file.path(), &all).unwrap();
        Self { file, all }
    }

    fn change(&self, contents: &str) {
        std::fs::write(&self.file, contents).unwrap();
        self.all.use_what_is_new();
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_remembered_beyond_a_change_of_the_files() {
    let (file, one) = (Changing::new(), Scripted::new(is("alice")));
    let chain = Arc::new(chain().as_long_as_unchanged(&file.all).then(one.clone(), Attempts::Unlimited));
    let change = |contents: &str| file.change(contents);
    assert!(name(&chain, &token("a")).await.is_ok());
    for (contents, answer, is_good) in [("l", Answer::Rejected, false), ("m", is("alice"), true)] {
        one.says(answer);
        // What cannot be used says nothing new.
        change("too short");
        assert_eq!(name(&chain, &token("a")).await.is_ok(), !is_good);
        change(&contents.repeat(32));
        assert_eq!(name(&chain, &token("a")).await.is_ok(), is_good);
    }
    // What changes while somebody is looked at may not have been seen.
    let asked = one.asked();
    change(&"n".repeat(32));
    let looking = tokio::spawn({
        let chain = Arc::clone(&chain);
        async move { name(&chain, &token("a")).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    change(&"o".repeat(32));
    one.says(Answer::Rejected);
    assert_eq!(looking.await.unwrap().as_deref(), Ok("alice"));
    assert!(name(&chain, &token("a")).await.is_err());
    assert_eq!(one.asked(), asked + 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_remembered_beyond_the_end_of_a_credential() {
    let one = Scripted::new(Answer::Is(user("alice", &[]), Some(at(NOW + 3))));
    let chain = chain().then(one.clone(), Attempts::Unlimited);
    assert_eq!(chain.identify(&token("a"), HERE).await.unwrap().expires, Some(at(NOW + 3)));
    one.says(Answer::Rejected);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(name(&chain, &token("a")).await.is_ok());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(name(&chain, &token("a")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn no_credential_is_taken_for_another() {
    let one = Scripted::new(is("alice"));
    let chain = chain().then(one.clone(), Attempts::Unlimited);
    let certificate = |name: &str, organizations: &[&str]| Credential::Certificate {
        common_name: name.to_owned(),
        organizations: organizations.iter().map(|&text| text.to_owned()).collect(),
    };
    let different = [
        token("ab"),
        token("abc"),
        password("", "ab"),
        password("a", "b"),
        password("ab", "c"),
        password("a", "bc"),
        certificate("a", &["b"]),
        certificate("a", &["b", "c"]),
        certificate("a", &["bc"]),
        certificate("ab", &[]),
    ];
    for (index, credential) in different.iter().enumerate() {
        name(&chain, credential).await.unwrap();
        assert_eq!(one.asked(), index + 1, "{credential:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_who_show_the_same_are_looked_at_once() {
    for answer in [is("alice"), Answer::Rejected, Answer::Unavailable] {
        let one = Scripted::new(answer);
        let chain = Arc::new(chain().then(one.clone(), Attempts::Limited));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let chain = Arc::clone(&chain);
            callers.spawn(async move { name(&chain, &token("a")).await });
        }
        let answers = callers.join_all().await;
        assert!(answers.iter().all(|answer| *answer == answers[0]));
        assert_eq!(one.asked(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_leaves_the_question_to_the_next() {
    let one = Scripted::new(is("alice"));
    let chain = chain().then(one.clone(), Attempts::Unlimited);
    let credential = token("a");
    let hung_up = tokio::time::timeout(Duration::from_millis(10), chain.identify(&credential, HERE));
    let (hung_up, next) = tokio::join!(hung_up, name(&chain, &credential));
    assert!(hung_up.is_err());
    assert_eq!(next.as_deref(), Ok("alice"));
    assert_eq!(one.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_guesses_waits_and_nobody_else_does() {
    let (offline, guessable) = (Scripted::new(Answer::NotMine), Scripted::new(is("carol")));
    let chain = slow_to_forget()
        .then(offline.clone(), Attempts::Unlimited)
        .then(guessable.clone(), Attempts::Limited);
    assert_eq!(name(&chain, &password("carol", "hers")).await.as_deref(), Ok("carol"));
    guessable.says(Answer::NotMine);
    // The same wrong password over and over is one failure.
    for _ in 0..100 {
        assert!(name(&chain, &password("alice", "wrong")).await.is_err());
    }
    assert_eq!(guessable.asked(), 2);
    let mut refused = None;
    for number in 0..100 {
        match chain.identify(&password("alice", &format!("guess {number}")), HERE).await.unwrap_err() {
            AuthenticationError::Rejected(_) => {}
            error => refused = refused.or(Some((number, error))),
        }
    }
    let (number, error) = refused.unwrap();
    assert_eq!(number, 19, "with the password before, that is 20");
    assert!(
        matches!(error, AuthenticationError::TooManyFailures { retry_after } if retry_after <= Duration::from_secs(60))
    );
    let asked = guessable.asked();

    // The right password of somebody is not looked at now either, unless it was good before, even if that was forgotten.
    tokio::time::advance(Duration::from_secs(11)).await;
    guessable.says(is("alice"));
    let error = chain.identify(&password("alice", "right"), HERE).await.unwrap_err();
    assert!(matches!(error, AuthenticationError::TooManyFailures { .. }));
    assert_eq!(guessable.asked(), asked);
    assert!(chain.identify(&password("carol", "hers"), HERE).await.is_ok());
    assert_eq!(guessable.asked(), asked + 1);
    // From elsewhere it is.
    assert!(chain.identify(&password("alice", "right"), THERE).await.is_ok());
    // What cannot be guessed is.
    offline.says(is("builder"));
    assert_eq!(name(&chain, &token("b")).await.as_deref(), Ok("builder"));
    // And in time all are heard again.
    offline.says(Answer::NotMine);
    tokio::time::advance(Duration::from_secs(1200)).await;
    assert_eq!(name(&chain, &password("alice", "right")).await.as_deref(), Ok("alice"));
}

/// Wrong passwords, or guesses at one.
fn passwords(numbers: std::ops::Range<usize>) -> Vec<Credential> {
    numbers.map(|number| password("robot", &format!("password {number}"))).collect()
}

/// Shows each, and tells how many are looked at, because not too many failed before.
async fn heard(chain: &Authenticators, shown: &[Credential]) -> usize {
    let mut heard = 0;
    for credential in shown {
        let refused = chain.identify(credential, HERE).await.unwrap_err();
        heard += usize::from(matches!(refused, AuthenticationError::Rejected(_)));
    }
    heard
}

#[tokio::test(start_paused = true)]
async fn machines_that_go_on_with_wrong_passwords_keep_out_nobody_else_at_their_address() {
    let guessable = Scripted::new(Answer::NotMine);
    let chain = chain().then(guessable.clone(), Attempts::Limited);
    let machines = passwords(0..10);
    // So long that each is counted anew now and then.
    for round in 1..=200 {
        assert_eq!(heard(&chain, &machines).await, machines.len(), "round {round}");
        assert_eq!(guessable.asked(), round * machines.len(), "each is asked about once in five seconds");
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    guessable.says(is("alice"));
    assert!(chain.identify(&password("alice", "right"), HERE).await.is_ok());
    // Whoever guesses beside them has as many guesses as otherwise.
    guessable.says(Answer::NotMine);
    assert_eq!(heard(&chain, &passwords(100..200)).await, 20);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_a_new_guess_once_a_file_has_changed_and_after_ten_minutes() {
    let (file, guessable) = (Changing::new(), Scripted::new(Answer::NotMine));
    let chain = slow_to_forget().as_long_as_unchanged(&file.all).then(guessable.clone(), Attempts::Limited);
    let wrong = passwords(0..10);
    assert_eq!(heard(&chain, &wrong).await, 10);
    file.change(&"l".repeat(32));
    guessable.says(is("robot"));
    assert!(chain.identify(&wrong[0], HERE).await.is_ok(), "it may be good now");
    guessable.says(Answer::NotMine);
    assert_eq!(heard(&chain, &wrong[1..]).await, 9);
    assert_eq!(heard(&chain, &passwords(100..110)).await, 1, "19 have failed");

    tokio::time::advance(Duration::from_secs(20 * 60)).await;
    assert_eq!(heard(&chain, &wrong).await, 10);
    assert_eq!(heard(&chain, &passwords(200..220)).await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_counts_in_full_again_for_whoever_does_not_wait_for_the_answer() {
    let guessable = Scripted::new(Answer::NotMine);
    let chain = slow_to_forget().then(guessable.clone(), Attempts::Limited);
    let wrong = passwords(0..10);
    assert_eq!(heard(&chain, &wrong).await, 10);
    tokio::time::advance(Duration::from_secs(5)).await;
    for credential in &wrong {
        let asking = chain.identify(credential, HERE);
        assert!(tokio::time::timeout(Duration::from_millis(1), asking).await.is_err());
    }
    assert_eq!(heard(&chain, &passwords(100..101)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_that_is_not_looked_at_stays_one_that_was_counted() {
    let guessable = Scripted::new(Answer::NotMine);
    let chain = slow_to_forget().then(guessable.clone(), Attempts::Limited);
    let (wrong, guesses) = (passwords(0..1), passwords(100..150));
    assert_eq!(heard(&chain, &wrong).await, 1);
    assert_eq!(heard(&chain, &guesses).await, 19);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(heard(&chain, &wrong).await, 0);
    // There is room for one failure again, and still is beside that one.
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(heard(&chain, &wrong).await, 1);
    assert_eq!(heard(&chain, &passwords(200..210)).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_file_is_asked_once_about_a_wrong_password_until_one_changes_and_whoever_is_behind_it_again() {
    let (file, on_disk) = (Changing::new(), Scripted::new(Answer::NotMine));
    let behind = Scripted::new(Answer::NotMine);
    let chain = chain()
        .as_long_as_unchanged(&file.all)
        .then(on_disk.clone(), Attempts::OncePerChange)
        .then(behind.clone(), Attempts::Limited);
    let wrong = password("robot", "wrong");
    let asked = || (on_disk.asked(), behind.asked());
    for round in 1..=20 {
        assert_eq!(name(&chain, &wrong).await.unwrap_err(), "nobody here knows the credential");
        assert_eq!(asked(), (1, round));
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    behind.says(is("robot"));
    assert_eq!(name(&chain, &wrong).await.as_deref(), Ok("robot"));
    assert_eq!(asked(), (1, 21));
    behind.says(Answer::NotMine);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(name(&chain, &wrong).await.is_err());
    assert_eq!(asked(), (2, 22), "what was good may be in any file");

    file.change(&"l".repeat(32));
    on_disk.says(is("robot"));
    assert_eq!(name(&chain, &wrong).await.as_deref(), Ok("robot"));
    on_disk.says(Answer::NotMine);
    file.change(&"m".repeat(32));
    assert!(name(&chain, &wrong).await.is_err());
    assert_eq!(asked(), (4, 23));
    // And after ten minutes, whatever has happened to the file.
    tokio::time::advance(Duration::from_secs(10 * 60)).await;
    assert!(name(&chain, &wrong).await.is_err());
    assert_eq!(asked(), (5, 24));
}

#[tokio::test(start_paused = true)]
async fn a_file_is_asked_again_about_what_it_could_not_tell_or_was_not_asked() {
    for other in [Answer::Unavailable, Answer::Rejected] {
        let (on_disk, elsewhere) = (Scripted::new(Answer::NotMine), Scripted::new(other.clone()));
        let last = Scripted::new(Answer::NotMine);
        let chain = chain()
            .then(on_disk.clone(), Attempts::OncePerChange)
            .then(elsewhere.clone(), Attempts::OncePerChange)
            .then(last.clone(), Attempts::OncePerChange);
        let asked = || [&on_disk, &elsewhere, &last].map(|one| one.asked());
        let shown = password("robot", "right");
        for round in 1..=3 {
            assert!(name(&chain, &shown).await.is_err());
            assert_eq!(asked(), [round, round, 0], "{other:?}");
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        elsewhere.says(Answer::NotMine);
        last.says(is("robot"));
        assert_eq!(name(&chain, &shown).await.as_deref(), Ok("robot"));
    }
}

/// A file that knows nobody, and behind it somebody who says this, as the API server is.
fn a_file_before(answer: Answer) -> (Authenticators, Arc<Scripted>, Arc<Scripted>) {
    let (on_disk, behind) = (Scripted::new(Answer::NotMine), Scripted::new(answer));
    let chain = slow_to_forget()
        .then(on_disk.clone(), Attempts::OncePerChange)
        .then(behind.clone(), Attempts::Limited);
    (chain, on_disk, behind)
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_stays_one_that_was_counted_while_somebody_cannot_be_asked() {
    let (chain, on_disk, behind) = a_file_before(Answer::NotMine);
    let wrong = passwords(0..10);
    assert_eq!(heard(&chain, &wrong).await, 10);
    behind.says(Answer::Unavailable);
    tokio::time::advance(Duration::from_secs(5)).await;
    for credential in &wrong {
        let error = chain.identify(credential, HERE).await.unwrap_err();
        assert!(matches!(error, AuthenticationError::Unavailable(_)), "{error}");
    }
    behind.says(Answer::NotMine);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(heard(&chain, &wrong).await, 10);
    assert_eq!((on_disk.asked(), behind.asked()), (10, 30));
    // Both times together they have cost one guess.
    assert_eq!(heard(&chain, &passwords(100..150)).await, 9);
}

#[tokio::test(start_paused = true)]
async fn what_is_first_shown_while_somebody_cannot_be_asked_is_one_guess_too() {
    let (chain, on_disk, behind) = a_file_before(Answer::Unavailable);
    for _ in 0..10 {
        let error = chain.identify(&token("hers"), HERE).await.unwrap_err();
        assert!(matches!(error, AuthenticationError::Unavailable(_)), "{error}");
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!((on_disk.asked(), behind.asked()), (1, 10));
    // It is nobody's guess once there is somebody to ask.
    behind.says(is("carol"));
    assert!(chain.identify(&token("hers"), HERE).await.is_ok());
    behind.says(Answer::NotMine);
    assert_eq!(heard(&chain, &passwords(0..50)).await, 18);
}

#[tokio::test(start_paused = true)]
async fn a_credential_in_use_is_heard_beside_guesses_also_once_somebody_could_not_be_asked() {
    let (chain, on_disk, behind) = a_file_before(is("carol"));
    let hers = token("hers");
    // As each of several threads asks that was shown nothing yet.
    assert!(chain.identify(&hers, HERE).await.is_ok());
    behind.says(Answer::Unavailable);
    for seconds in [10, 1, 1] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        let error = chain.identify(&hers, HERE).await.unwrap_err();
        assert!(matches!(error, AuthenticationError::Unavailable(_)), "{error}");
    }
    behind.says(Answer::NotMine);
    assert_eq!(heard(&chain, &passwords(0..50)).await, 17, "three more were not found to be good");
    behind.says(is("carol"));
    let error = chain.identify(&token("another"), HERE).await.unwrap_err();
    assert!(matches!(error, AuthenticationError::TooManyFailures { .. }), "{error}");
    assert!(chain.identify(&hers, HERE).await.is_ok());
    assert_eq!(on_disk.asked(), 5 + 17);
}

#[tokio::test(start_paused = true)]
async fn a_credential_in_use_is_heard_beside_guesses_however_many_others_are_remembered() {
    let (offline, guessable) = (Scripted::new(Answer::NotMine), Scripted::new(is("carol")));
    let options = AuthenticatorOptions {
        remembered: 100,
        failure_every: Duration::from_secs(1_000_000),
        ..AuthenticatorOptions::default()
    };
    let chain = Authenticators::new(&options, Clock::new(|| at(NOW)))
        .unwrap()
        .then(offline.clone(), Attempts::Unlimited)
        .then(guessable.clone(), Attempts::Limited);
    let hers = password("carol", "hers");
    assert!(name(&chain, &hers).await.is_ok());

    guessable.says(Answer::NotMine);
    for guess in 0..options.failures {
        name(&chain, &password("carol", &guess.to_string())).await.unwrap_err();
    }
    offline.says(Answer::Rejected);
    for number in 0..10 * options.remembered {
        for _ in 0..2 {
            name(&chain, &token(&number.to_string())).await.unwrap_err();
        }
    }

    offline.says(Answer::NotMine);
    guessable.says(is("carol"));
    assert_eq!(name(&chain, &hers).await.as_deref(), Ok("carol"));
    // Until it is not good.
    guessable.says(Answer::Rejected);
    tokio::time::advance(options.known_for).await;
    assert_eq!(name(&chain, &hers).await.unwrap_err(), "it is wrong");
    assert_eq!(shown::recall(&chain.verdicts.hash_of_header(b"Basic carol:hers")).map(|(who, _)| who), None);
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_is_large_is_remembered_for_all_threads_alone() {
    for (groups, is_recalled) in [(10, true), (1000, false)] {
        let groups: Vec<String> = (0..groups).map(|number| format!("group-{number}")).collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let one = Scripted::new(Answer::Is(user("alice", &groups), None));
        let chain = chain().then(one.clone(), Attempts::Unlimited);
        for _ in 0..2 {
            name(&chain, &token("a")).await.unwrap();
        }
        assert_eq!(one.asked(), 1);
        assert_eq!(chain.recall(b"Bearer a").is_some(), is_recalled);
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_read_is_a_failed_attempt() {
    let one = Scripted::new(is("alice"));
    let chain = chain().then(one.clone(), Attempts::Limited);
    let unreadable = |number: usize| match number % 4 {
        0 => Credential::Unreadable(Secret::new(format!("Digest {number}"))),
        1 => token(&format!("{number}{}", "a".repeat(MAX_TOKEN_BYTES))),
        2 => token(&format!("eyJ.{number}")),
        _ => password("alice", &format!("eyJ.{number}")),
    };
    // The same over and over is one failure, as of a machine that was set up wrongly.
    for number in [0; 100].into_iter().chain(1..20) {
        let error = chain.identify(&unreadable(number), HERE).await.unwrap_err();
        assert!(matches!(error, AuthenticationError::Rejected(_)), "{number}: {error}");
    }
    for refused in [unreadable(20), unreadable(21), password("alice", "right")] {
        let error = chain.identify(&refused, HERE).await.unwrap_err();
        assert!(matches!(error, AuthenticationError::TooManyFailures { .. }), "{refused:?}: {error}");
    }
    assert_eq!(one.asked(), 0);
    assert!(chain.identify(&password("alice", "right"), THERE).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn guesses_at_once_are_no_more_than_one_after_the_other() {
    let slow = Scripted::new(Answer::NotMine);
    let chain = Arc::new(chain().then(slow.clone(), Attempts::Limited));
    let mut guessing = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let chain = Arc::clone(&chain);
        guessing
            .spawn(async move { chain.identify(&password("alice", &format!("guess {number}")), HERE).await });
    }
    let answers = guessing.join_all().await;
    let waits = answers.into_iter().filter_map(|answer| match answer.unwrap_err() {
        AuthenticationError::TooManyFailures { retry_after } => Some(retry_after),
        _ => None,
    });
    let waits: Vec<_> = waits.collect();
    assert_eq!((slow.asked(), waits.len()), (20, 980));
    assert!(
        waits.iter().all(|wait| *wait <= Duration::from_secs(5)),
        "and nobody there is kept out for long"
    );
}

#[tokio::test(start_paused = true)]
async fn a_guess_is_one_also_while_others_cannot_be_asked() {
    let (passwords, away) = (Scripted::new(Answer::NotMine), Scripted::new(Answer::Unavailable));
    let chain = chain().then(passwords.clone(), Attempts::Limited).then(away.clone(), Attempts::Limited);
    for number in 0..100 {
        let guess = password("alice", &format!("guess {number}"));
        assert!(chain.identify(&guess, HERE).await.is_err());
    }
    assert_eq!(passwords.asked(), 20);
    // What somebody has signed is not guessed, and no file of users holds it.
    for number in 0..100 {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let claims = part(&format!(r#"{{"sub":"{number}"}}"#));
        let signed = format!("{}.{claims}.{}", part(r#"{"alg":"RS256"}"#), part("signature"));
        let error = chain.identify(&token(&signed), THERE).await.unwrap_err();
        assert!(matches!(error, AuthenticationError::Unavailable(_)), "{number}: {error}");
    }
    // Whoever shows what those alone could know has guessed nothing.
    let chain = self::chain().then(away.clone(), Attempts::Limited);
    let before = away.asked();
    for number in 0..100 {
        let error =
            chain.identify(&token(&format!("token {number}").replace(' ', "-")), HERE).await.unwrap_err();
        assert!(matches!(error, AuthenticationError::Unavailable(_)));
    }
    assert_eq!(away.asked(), before + 100);
}

#[tokio::test(start_paused = true)]
async fn whoever_hangs_up_has_failed() {
    let slow = Scripted::new(is("alice"));
    let chain = chain().then(slow.clone(), Attempts::Limited);
    for number in 0..20 {
        let guess = password("alice", &format!("guess {number}"));
        let guessing = chain.identify(&guess, HERE);
        assert!(tokio::time::timeout(Duration::from_millis(1), guessing).await.is_err());
    }
    let error = chain.identify(&password("alice", "right"), HERE).await.unwrap_err();
    assert!(matches!(error, AuthenticationError::TooManyFailures { .. }));
    assert!(chain.identify(&password("alice", "right"), THERE).await.is_ok());
}

/// Whom a test says to be gone.
#[derive(Debug, Default)]
struct Roll(std::sync::atomic::AtomicBool);

impl Accounts for Roll {
    fn standing(&self, _: &Account<'_>) -> Standing {
        if self.0.load(Ordering::SeqCst) { Standing::Gone } else { Standing::Current }
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_gone_is_not_remembered() {
    let roll = Arc::new(Roll::default());
    let chain = chain()
        .then(Scripted::new(is("system:serviceaccount:team:builder")), Attempts::Unlimited)
        .as_long_as_in(roll.clone());
    assert!(name(&chain, &token("a")).await.is_ok());
    roll.0.store(true, Ordering::SeqCst);
    assert!(name(&chain, &token("a")).await.unwrap_err().contains("does not exist any more"));
    roll.0.store(false, Ordering::SeqCst);
    assert!(name(&chain, &token("a")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_has_not_the_shape_of_a_credential_is_refused_before_anybody_is_asked() {
    let one = Scripted::new(is("alice"));
    let chain = chain().then(one.clone(), Attempts::Limited);
    let key = TestKey::p256();
    let good = key.token(&serde_json::json!({ "alg": "ES256" }), &serde_json::json!({}));
    let refused = [
        token(""),
        password("alice", ""),
        token("two words"),
        token("a\n"),
        token("\u{e9}"),
        token(&"a".repeat(MAX_TOKEN_BYTES + 1)),
        password("alice", &"a".repeat(MAX_TOKEN_BYTES + 1)),
        token("eyJ.eyJ.x"),
        token(&good[..good.len() - 1]),
        token(&format!("{good}.{good}")),
        password("unused", &format!("{good}=")),
    ];
    for credential in refused {
        assert!(name(&chain, &credential).await.is_err(), "{credential:?}");
    }
    assert_eq!(one.asked(), 0);
    for credential in [token(&good), token("sha256~abc"), password("alice", "two words \u{e9}"), token("eyJ")]
    {
        assert!(name(&chain, &credential).await.is_ok(), "{credential:?}");
    }
}

#[tokio::test]
async fn a_cluster_and_the_registry_never_take_each_others_tokens() {
    const ISSUER: &str = "https://kubernetes.default.svc";
    let key = TestKey::p256();
    let clock = || Clock::new(|| at(NOW));
    let registry = Arc::new(RegistryTokens::new(
        RegistryTokenKeys::random().unwrap(),
        "registry".to_owned(),
        Duration::from_secs(600),
        None,
        clock(),
    ));
    let issuer = Issuer { name: IssuerName::Exactly(ISSUER.to_owned()), keys: key_set(&[&key]) };
    let rules = TokenRules::for_audiences(vec!["registry".to_owned()]);
    let accounts = ServiceAccounts::new(vec![issuer], rules, clock());
    let chain = chain()
        .then(registry.clone(), Attempts::Unlimited)
        .then(Arc::new(accounts), Attempts::Unlimited)
        .then(Arc::new(Certificates), Attempts::Unlimited);
    let claims = serde_json::json!({
        "iss": ISSUER, "sub": "system:serviceaccount:team:builder", "aud": "registry", "iat": NOW, "exp": NOW + 400,
        "kubernetes.io": { "namespace": "team", "serviceaccount": { "name": "builder", "uid": "17" } },
    });
    let credential = key.token(&serde_json::json!({ "alg": "ES256" }), &claims);

    // Log in, and use what was given.
    let known = chain.identify_for_token(&password("builder", &credential), HERE).await.unwrap();
    let given = registry.issue(&known, Some(&Secret::new(&*credential))).unwrap();
    assert_eq!(given.lifetime, Duration::from_secs(400));
    let used = chain.identify(&token(given.token.expose()), HERE).await.unwrap();
    assert_eq!(used, known);

    // What was given is no credential, however it is shown.
    for shown in [token(given.token.expose()), password("builder", given.token.expose())] {
        let error = chain.identify_for_token(&shown, HERE).await.unwrap_err();
        assert!(matches!(error, AuthenticationError::Rejected(_)));
    }
    assert!(chain.identify(&password("builder", given.token.expose()), HERE).await.is_err());
    // A token of the cluster that claims to be the registry's is not.
    for claimed in ["wharf", "registry"] {
        let mut claims = claims.clone();
        claims["iss"] = claimed.into();
        let forged = key.token(&serde_json::json!({ "alg": "ES256" }), &claims);
        assert!(chain.identify(&token(&forged), HERE).await.is_err());
        assert!(chain.identify(&token(&format!("wharf.{forged}")), HERE).await.is_err());
    }
}

#[test]
fn the_memory_shows_no_credential() {
    let shown = format!("{:?}", chain().then(Scripted::new(is("alice")), Attempts::Limited));
    assert!(shown.contains("entries: 0"), "{shown}");
}
