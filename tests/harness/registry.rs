//! A server of the test's own: its folder, its process, and where it listens.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use serde_json::{Value, json};
use storage::{Algorithm, Digest};
use tempfile::TempDir;

use super::{User, Workstation, process::Process, wharf, wire::Wire};

/// A registry that serves a folder of its own on a free port, until it is dropped.
pub(crate) struct TestRegistry {
    program: PathBuf,
    settings: Value,
    folder: Arc<TempDir>,
    server: Process,
    address: SocketAddr,
}

impl TestRegistry {
    /// Starts a registry that keeps its content in a new folder, and lets everybody do everything.
    pub(crate) async fn start() -> Self {
        Self::with(json!({})).await
    }

    /// Starts a registry whose configuration is that of [`start`](Self::start) with `settings` laid over it.
    pub(crate) async fn with(settings: Value) -> Self {
        Self::of(wharf::path(), settings, new_folder()).await
    }

    /// Starts a registry that speaks TLS, and returns the certificate by which it is known.
    pub(crate) async fn with_tls() -> (Self, String) {
        Self::with_tls_and(json!({})).await
    }

    /// The same, with `settings` laid over its configuration.
    pub(crate) async fn with_tls_and(settings: Value) -> (Self, String) {
        Self::over_tls(settings, new_folder()).await
    }

    /// Starts another registry program, one that takes the same configuration, on the folder of this registry.
    pub(crate) async fn served_by(&self, program: &Path) -> Self {
        Self::of(program.to_owned(), self.settings.clone(), Arc::clone(&self.folder)).await
    }

    /// Starts a registry program that is not Wharf, on a folder of its own.
    pub(crate) async fn foreign(program: &Path) -> Self {
        Self::of(program.to_owned(), json!({}), new_folder()).await
    }

    /// Starts Wharf beside this registry, on the same folder.
    pub(crate) async fn replica(&self) -> Self {
        Self::of(wharf::path(), self.settings.clone(), Arc::clone(&self.folder)).await
    }

    /// Starts Wharf beside this registry, on the same folder, with `settings` laid over its configuration.
    pub(crate) async fn replica_with(&self, settings: Value) -> Self {
        Self::of(wharf::path(), settings, Arc::clone(&self.folder)).await
    }

    /// The same, but it speaks TLS. Returns also the certificate by which it is known.
    pub(crate) async fn tls_replica_with(&self, settings: Value) -> (Self, String) {
        Self::over_tls(settings, Arc::clone(&self.folder)).await
    }

    /// The folder that holds what was pushed.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data/docker/registry/v2")
    }

    /// The file that holds the bytes of a sha256 blob.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex().to_string();
        self.data().join("blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// Makes sure that every file where a blob belongs has the digest that its place says.
    pub(crate) fn assert_blobs_whole(&self) {
        let mut count = 0;
        for prefix in fs::read_dir(self.data().join("blobs/sha256")).unwrap() {
            for blob in fs::read_dir(prefix.unwrap().path()).unwrap() {
                let blob = blob.unwrap().path();
                let Ok(content) = fs::read(blob.join("data")) else { continue };
                let digest = Digest::of(Algorithm::Sha256, &content);
                assert_eq!(digest.hex().to_string(), blob.file_name().unwrap().to_str().unwrap());
                count += 1;
            }
        }
        assert!(count > 0, "there are blobs");
    }

    /// The process that serves.
    pub(crate) fn process_id(&self) -> u32 {
        self.server.id()
    }

    /// Kills the server as a power cut would, and starts it again on what it left.
    pub(crate) async fn restart(mut self) -> Self {
        self.server.kill();
        Self::of(self.program.clone(), self.settings.clone(), Arc::clone(&self.folder)).await
    }

    /// Starts the server again once it has stopped, as it was asked to.
    pub(crate) async fn start_again(self) -> Self {
        self.server.ended().await;
        Self::of(self.program, self.settings, self.folder).await
    }

    /// Asks the server to stop, and starts it again once it has.
    pub(crate) async fn stop_and_start(self) -> Self {
        self.server.stop().await;
        Self::of(self.program, self.settings, self.folder).await
    }

    async fn over_tls(mut settings: Value, folder: Arc<TempDir>) -> (Self, String) {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        fs::write(&certificate, own.cert.pem()).unwrap();
        fs::write(&key, own.signing_key.serialize_pem()).unwrap();
        let tls = json!({ "http": { "tls": { "certificate": certificate, "key": key } } });
        overlay(&mut settings, &tls);
        (Self::of(wharf::path(), settings, folder).await, own.cert.pem())
    }

    async fn of(program: PathBuf, settings: Value, folder: Arc<TempDir>) -> Self {
        let mut configuration = json!({
            "version": 0.1,
            "http": { "addr": "127.0.0.1:0" },
            "storage": {
                "filesystem": { "rootdirectory": folder.path().join("data") },
                "delete": { "enabled": true },
            },
        });
        overlay(&mut configuration, &settings);
        // Each server has its own file: a replica starts while another reads its own.
        let file = tempfile::Builder::new().suffix(".yml").tempfile_in(folder.path()).unwrap();
        serde_json::to_writer_pretty(&file, &configuration).unwrap();
        let mut command = Command::new(&program);
        command.arg("serve").arg(file.into_temp_path().keep().unwrap());
        let is_wharf = program == wharf::path();
        if !is_wharf {
            command.env("OTEL_TRACES_EXPORTER", "none"); // distribution 3 looks for a collector otherwise
        }
        let (mut server, address) = Process::start(command, address_in).await;
        if is_wharf {
            server.prints_no_secret();
        }
        Self { program, settings, folder, server, address }
    }

    /// Has all that the server prints searched for secrets, as is done of the program that is tested.
    pub(crate) fn searched_for_secrets(mut self) -> Self {
        self.server.prints_no_secret();
        self
    }

    /// Asks the server to stop.
    pub(crate) fn ask_to_stop(&self) {
        self.server.ask_to_stop();
    }

    /// Waits for a line of the server's log that contains `words`.
    pub(crate) async fn line_with(&self, words: &str) -> String {
        self.server.line(|line| line.contains(words).then(|| line.to_owned())).await
    }

    /// Waits for a line of the server's log that contains `words`, and returns all up to it.
    pub(crate) async fn log_until(&self, words: &str) -> Vec<String> {
        self.server.lines_until(|line| line.contains(words)).await
    }

    /// Waits for a line of the server's log, which is JSON, that has all of these fields.
    pub(crate) async fn log_line(&self, fields: &[(&str, &str)]) -> Value {
        let has = |line: &Value| fields.iter().all(|(name, value)| line[*name] == *value);
        self.server.line(|line| serde_json::from_str(line).ok().filter(has)).await
    }

    /// `HOST:PORT`, as it stands in the name of an image.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Someone who talks to the registry without a program between them.
    pub(crate) fn user(&self, name: &str) -> User {
        User::new(name, self.address)
    }

    /// A wire to the registry, on which one can see what is asked.
    pub(crate) async fn wire(&self) -> Wire {
        Wire::to(self.address).await
    }

    /// Someone's machine, whose programs know the registry.
    pub(crate) fn workstation(&self) -> Workstation {
        Workstation::new(&self.host())
    }
}

/// The settings of a registry that keeps everything in its folder.
pub(crate) fn on_a_volume() -> Value {
    json!({})
}

/// The settings of a registry that keeps everything in a bucket, which lasts as long as its server.
pub(crate) fn in_a_bucket() -> Value {
    json!({ "storage": { "filesystem": null, "inmemory": {} } })
}

fn new_folder() -> Arc<TempDir> {
    Arc::new(
        tempfile::Builder::new().prefix("wharf-test-").tempdir().expect("a temporary folder can be made"),
    )
}

/// Lays `over` on `base`, map by map; what is null there goes.
pub(crate) fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(key);
                    continue;
                }
                overlay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Finds the address in the line that tells it, as Wharf and distribution write it.
pub(crate) fn address_in(line: &str) -> Option<SocketAddr> {
    if !line.contains("listening") {
        return None;
    }
    let words = line.split(|c: char| c != '.' && c != ':' && !c.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).next()
}
