//! `wharf serve`: the registry, until it is told to stop.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use auth::{Authorizer, Everyone};
use storage::backend::Backend;
use storage::backend::around::Surrounded;
use storage::backend::bucket::Bucket;
use storage::backend::count::Counters;
use storage::backend::volume::{Access, Durability, Volume, VolumeOptions};
use storage::{Purge, Registry, RegistryOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::access::Gate;
use crate::api::location::Urls;
use crate::api::page::PageSizes;
use crate::api::uploads::state::StateKey;
use crate::api::{Api, ApiOptions, with_errors};
use crate::audit::AuditLog;
use crate::background::Background;
use crate::config::{self, Auth, Config, Http, Mode, PurgeAction, Purging};
use crate::health::Readiness;
use crate::logging;
use crate::login::TOKEN_PATHS;
use crate::logins::Logins;
use crate::metrics::{Measured, Metrics};
use crate::server::{self, Server, Workers};
use crate::traces::{self, Traced};

/// How long changes that are under way may take once all connections are gone. It is a matter of milliseconds, unless the store hangs.
const LAST_CHANGES: Duration = Duration::from_secs(3);

/// Serves what `config` says until SIGTERM or SIGINT, then finishes what is under way. A signal that comes meanwhile cuts that off.
///
/// # Errors
/// When the store or an address cannot be used. Once it listens it does not fail.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    server::raise_limit(config.http.limits.connections);
    let storage = config.storage.clone();
    let backend = tokio::task::spawn_blocking(move || open_backend(&storage)).await??;
    let backend =
        if traces::are_on() { Arc::new(Surrounded::new(backend, Arc::new(Traced))) } else { backend };
    let counters = Arc::new(Counters::default());
    let backend = Arc::new(Surrounded::new(backend, Arc::clone(&counters)));
    let registry = Registry::new(backend, registry_options(&config));
    let audit = {
        let log = config.log.clone();
        let opened = tokio::task::spawn_blocking(move || AuditLog::open(&log)).await?;
        opened.context("the audit log cannot be written")?
    };
    let metrics = Metrics::default();
    let mut background = Background::new(metrics.clone());
    let (authorizer, login, cluster, files) = match &config.auth {
        Auth::Anyone => {
            let everyone: Arc<dyn Authorizer> = Arc::new(Everyone::new());
            (everyone, None, None, Arc::default())
        }
        Auth::Login(settings) => {
            let locations = &config.http.locations;
            let token_path = urls(&config.http).path().to_owned() + TOKEN_PATHS[0];
            let logins = Logins::prepare(settings, locations, token_path, audit.clone()).await?;
            for upkeep in logins.upkeep {
                background.keep(upkeep.what(), move || upkeep.begin());
            }
            let files = Arc::new(logins.files);
            let watched = Arc::clone(&files);
            background.look("files of logins", move || watched.use_what_is_new());
            (logins.authorizer, Some(logins.login), logins.cluster, files)
        }
    };
    let api = Api::new(Gate::new(authorizer, registry.clone(), audit), login.clone(), api_options(&config));
    let readiness = Readiness::new(cluster, &config.health.files);
    let measured = Measured {
        metrics: metrics.clone(),
        backend: counters,
        registry: registry.clone(),
        readiness: readiness.clone(),
        files,
        connection_limit: config.http.limits.connections.get(),
    };
    let watched = |path: &Option<String>| match path {
        Some(path) => readiness.router().merge(measured.clone().router(path)),
        None => readiness.router(),
    };
    let mut router = api.router().merge(watched(&config.http.metrics));
    if let Some(login) = &login {
        router = router.merge(login.router(&config.http.prefix));
    }
    // Before anybody can know that it runs, and so want it to stop.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let workers = Workers::start().context("the threads that serve connections cannot be started")?;
    let server = Server::bind(&config.http, metrics.clone(), workers.clone()).await?;
    let management = match config.http.management.clone() {
        config::Management { address: Some(address), metrics: path } => {
            let router = watched(&path).merge(readiness.debug_router());
            let listeners = vec![config::Listener { address, tls: None }];
            let http = Http { listeners, metrics: path, ..Http::default() };
            Some((Server::bind(&http, metrics, workers.clone()).await?, with_errors(router)))
        }
        config::Management { address: None, .. } => None,
    };

    if let Some(check) = config.health.storage.clone() {
        let (readiness, registry, mode) = (readiness.clone(), registry.clone(), config.storage.mode);
        let watch = move || readiness.clone().watch(registry.clone(), check.clone(), mode);
        background.keep("the store's health", watch);
    }
    let readiness_of_files = readiness.clone();
    background.keep("the files that say it is unready", move || readiness_of_files.clone().watch_files());
    if config.storage.mode == Mode::ReadWrite {
        background.keep("purging uploads", move || purge_uploads(registry.clone(), config.storage.purging));
    }

    for url in server.urls() {
        tracing::info!("listening on {url}");
    }
    if config.auth == Auth::Anyone {
        tracing::warn!("nobody has to log in: whoever can connect may push, pull and delete");
    }
    if let Some((management, router)) = management {
        for url in management.urls() {
            tracing::info!("health and metrics on {url}");
        }
        background.run("health and metrics", management.serve(router, std::future::pending()));
    }
    if io::stderr().is_terminal() {
        logging::flush(); // What to do next comes last.
        greet(&server, &config)?;
    }
    let (stop, stopped) = oneshot::channel::<()>();
    let told_twice_to_stop = async move {
        let (name, delay) = tokio::select! {
            _ = terminate.recv() => ("SIGTERM", config.http.drain_delay),
            // Somebody at a terminal waits for it.
            _ = interrupt.recv() => ("SIGINT", Duration::ZERO),
        };
        readiness.stops();
        tracing::info!(signal = name, "stopping");
        let mut told_again = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        if !delay.is_zero() {
            // Whoever says it again does not want to wait.
            let _ = timeout(delay, told_again()).await;
        }
        let _ = stop.send(()); // It fails only when the server is gone, and this with it.
        told_again().await;
    };
    tokio::select! {
        () = server.serve(with_errors(router), async { drop(stopped.await) }) => {}
        () = told_twice_to_stop => {
            tracing::warn!("told again to stop: requests under way are cut off, and uploads can be resumed");
        }
    }
    let unfinished = api.finish_mutations(LAST_CHANGES).await;
    if unfinished > 0 {
        tracing::error!(
            unfinished,
            "changes that the store did not let finish are given up; nobody was told that they were done"
        );
    }
    drop(workers); // Not before: changes that are under way are finished on them.
    background.stop().await;
    tracing::info!("stopped");
    Ok(())
}

fn urls(http: &Http) -> Urls {
    Urls { locations: http.locations.clone(), prefix: http.prefix.clone() }
}

fn open_backend(storage: &config::Storage) -> anyhow::Result<Arc<dyn Backend>> {
    match &storage.backend {
        config::Backend::Volume(volume) => {
            let options = VolumeOptions {
                durability: match volume.sync {
                    config::Sync::Always => Durability::Synced,
                    config::Sync::Never => Durability::Buffered,
                },
                access: match storage.mode {
                    Mode::ReadWrite => Access::ReadWrite,
                    Mode::ReadOnly => Access::ReadOnly,
                },
            };
            Ok(Arc::new(Volume::open(&volume.root, options).context("the volume cannot be used")?))
        }
        config::Backend::Memory => Ok(Arc::new(Bucket::in_memory())),
    }
}

fn registry_options(config: &Config) -> RegistryOptions {
    let caches = &config.storage.caches;
    RegistryOptions {
        manifest_cache_bytes: caches.manifest_bytes as u64,
        lookup_cache_entries: caches.entries,
        tag_lifetime: caches.tags,
        membership_lifetime: caches.membership,
        upload_buffer_bytes: config.storage.uploads.buffer_bytes.get(),
    }
}

fn api_options(config: &Config) -> ApiOptions {
    /// What a request without `n` gets, as in distribution.
    const CATALOG_PAGE: usize = 100;
    let most = config.catalog.max_entries.get();
    let tags = config.tags.max_tags.get();
    ApiOptions {
        mode: config.storage.mode,
        deletion: config.storage.deletion,
        manifest_limit_bytes: config.validation.manifest_bytes.get().min(storage::LARGEST_MANIFEST_BYTES),
        missing_references: config.validation.missing_references.clone(),
        foreign_urls: config.validation.urls.clone(),
        catalog_pages: PageSizes { default: CATALOG_PAGE.min(most), most },
        tag_pages: PageSizes { default: tags, most: tags },
        urls: urls(&config.http),
        state_key: config.http.secret.as_ref().map(|secret| StateKey::new(secret.expose().as_bytes())),
    }
}

/// Removes abandoned uploads for ever, beginning soon after the start: a server that is restarted each day would never come to it
/// otherwise.
async fn purge_uploads(registry: Registry, purging: Purging) {
    let Purging::After { age, interval, action } = purging else { return };
    let purge = match action {
        PurgeAction::Remove => Purge::Remove,
        PurgeAction::Report => Purge::Report,
    };
    let mut interval = tokio::time::interval_at(Instant::now() + some_time_within(interval), interval);
    loop {
        interval.tick().await;
        match registry.purge_uploads(SystemTime::now() - age, purge).await {
            Ok(0) => {}
            Ok(uploads) => tracing::info!(uploads, ?action, "abandoned uploads found"),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "abandoned uploads not removed");
            }
        }
    }
}

/// A moment within the next interval, and within the next hour, another one in each replica.
fn some_time_within(interval: Duration) -> Duration {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let chance = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    interval.min(HOUR).mul_f64(chance)
}

/// Tells a person at a terminal what to type next.
fn greet(server: &Server, config: &Config) -> io::Result<()> {
    let Some(address) = server.urls().iter().find_map(|url| url.strip_prefix("http://").map(str::to_owned))
    else {
        return Ok(());
    };
    let address = address.replace("127.0.0.1", "localhost").replace("[::]", "localhost");
    let place = match &config.storage.backend {
        config::Backend::Volume(volume) => format!("in {}", volume.root.display()),
        config::Backend::Memory => "in memory, until it stops".to_owned(),
    };
    let who = match config.auth {
        Auth::Anyone => "Anybody who can connect may push and pull.".to_owned(),
        Auth::Login(_) => format!("Log in first: podman login --tls-verify=false {address}."),
    };
    writeln!(
        io::stderr(),
        "\nWharf keeps images {place}. {who} Try:\n\n    \
         podman tag <an image of yours> {address}/demo/app\n    \
         podman push --tls-verify=false {address}/demo/app\n    \
         podman pull --tls-verify=false {address}/demo/app\n\nStop it with Ctrl-C.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_first_purged_within_the_first_hour_and_not_by_all_replicas_at_once() {
        let day = Duration::from_secs(24 * 60 * 60);
        let moments: Vec<_> = (0..20).map(|_| some_time_within(day)).collect();
        assert!(moments.iter().all(|moment| *moment <= Duration::from_secs(60 * 60)), "{moments:?}");
        assert!(moments.iter().any(|moment| *moment != moments[0]), "{moments:?}");
        assert!(some_time_within(Duration::from_secs(1)) <= Duration::from_secs(1));
    }
}
