//! Logins as a configuration has them: what it names is read, connected and put together.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use auth::bindings::{Folder, WatchedBindings};
use auth::{
    AccessReviews, Accounts, AnyUser, ApiServerTokens, Attempts, AuthenticatorOptions, Authenticators,
    Authorizer, Clock, Cluster, ConfirmedAccounts, Files, Htpasswd, Issuer, IssuerName, KeySet,
    PublishedKeys, RegistryTokenKeys, RegistryTokens, ServiceAccounts, TokenReviews, TokenRules, TokensFile,
    WatchedAccounts,
};
use futures_util::future::join_all;
use http::Uri;

use crate::config::{self, ClusterPermission, Keys, Locations, Permission};
use crate::login::challenge::Challenge;
use crate::login::{Login, TOKEN_PATHS};

/// How long the API server goes on to know a token that is not good any more, and how long [`Authenticators`] do.
const REMEMBERED_ELSEWHERE: Duration = Duration::from_secs(20);

/// All that logins need, read and ready.
pub struct Logins {
    /// Who requests come from.
    pub login: Login,
    /// What they may.
    pub authorizer: Arc<dyn Authorizer>,
    /// The cluster that is asked, if one is.
    pub cluster: Option<Cluster>,
    /// Keeps current what they rest on, for as long as it runs.
    pub upkeep: Upkeep,
}

/// Runs until it is dropped.
pub type Upkeep = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Logins {
    /// Reads what the configuration names, and connects to the cluster if it asks one, which need not answer yet.
    ///
    /// # Errors
    /// When something cannot be read, or is wrong.
    pub async fn prepare(settings: &config::Login, locations: &Locations) -> anyhow::Result<Self> {
        let realm = settings.realm.clone().or_else(|| locations.host().cloned());
        let cluster = match &settings.permission {
            Permission::Users | Permission::Folder(_) => None,
            Permission::Cluster(cluster) => {
                let connected = Cluster::connect(cluster.kubeconfig.as_deref(), cluster.outage).await?;
                tracing::info!(address = connected.address(), "asking the API server");
                Some(connected)
            }
        };
        let settings = settings.clone();
        tokio::task::spawn_blocking(move || Self::read(&settings, realm, cluster)).await?
    }

    /// It blocks.
    fn read(settings: &config::Login, realm: Option<Uri>, cluster: Option<Cluster>) -> anyhow::Result<Self> {
        let (clock, files) = (Clock::system(), Files::new());
        let mut upkeep: Vec<Upkeep> = Vec::new();
        let accounts = cluster.as_ref().map(|cluster| {
            let (accounts, watching) = WatchedAccounts::watch(cluster);
            upkeep.push(Box::pin(watching));
            Arc::new(accounts) as Arc<dyn Accounts>
        });
        let token_keys = match &settings.token_keys {
            Some(path) => RegistryTokenKeys::from_file(path, &files)?,
            None => RegistryTokenKeys::random()?,
        };
        let audience = realm.as_ref().and_then(Uri::authority).map_or("wharf", |host| host.as_str());
        let tokens = Arc::new(RegistryTokens::new(
            token_keys,
            audience.to_owned(),
            settings.token_lifetime,
            accounts.clone(),
            clock.clone(),
        ));
        let mut authenticators = Authenticators::new(&AuthenticatorOptions::default(), clock.clone())?
            .then(tokens.clone(), Attempts::Unlimited);
        let of_accounts = service_accounts(settings, cluster.as_ref(), &files, clock)?;
        let reviews = match (&settings.permission, &cluster, accounts) {
            (Permission::Cluster(wanted), Some(cluster), Some(accounts)) => {
                let audiences = [&settings.audiences[..], &settings.api_server_audiences].concat();
                let known_for = wanted.revocation.saturating_sub(REMEMBERED_ELSEWHERE);
                Some(Arc::new(TokenReviews::new(cluster.clone(), accounts, audiences, known_for)?))
            }
            _ => None,
        };
        authenticators = match &reviews {
            Some(reviews) => {
                let confirmed = ConfirmedAccounts::new(of_accounts, Arc::clone(reviews));
                authenticators.then(Arc::new(confirmed), Attempts::Unlimited)
            }
            None => authenticators.then(Arc::new(of_accounts), Attempts::Unlimited),
        };
        if let Some(path) = &settings.tokens {
            let known = Arc::new(TokensFile::read(path, &files)?);
            authenticators = authenticators.then(known, Attempts::Limited);
        }
        if let Some(path) = &settings.htpasswd {
            let users = Arc::new(Htpasswd::read(path, &files)?);
            authenticators = authenticators.then(users, Attempts::Limited);
        }
        // Last, so that no password of somebody else's is sent to it.
        if let Some(reviews) = reviews {
            authenticators = authenticators.then(reviews, Attempts::Limited);
        }
        let authorizer: Arc<dyn Authorizer> = match (&settings.permission, &cluster) {
            (Permission::Folder(path), _) => {
                let folder = Folder::open(path)?;
                let authorizer = folder.authorizer();
                folder.reread_with(&files);
                authorizer
            }
            (Permission::Cluster(config::Cluster { permission, .. }), Some(cluster)) => match permission {
                ClusterPermission::Bindings => {
                    let (bindings, watching) = WatchedBindings::watch(cluster)?;
                    upkeep.push(Box::pin(watching));
                    Arc::new(bindings)
                }
                ClusterPermission::AccessReviews => Arc::new(AccessReviews::new(cluster.clone())?),
            },
            (Permission::Users | Permission::Cluster(_), _) => Arc::new(AnyUser::new()),
        };
        let challenge = Challenge::new(settings.challenge, realm, TOKEN_PATHS[0].to_owned());
        let login = Login::new(authenticators, tokens, challenge);
        let files = Arc::new(files);
        upkeep.push(Box::pin(async move { files.keep_current().await }));
        let upkeep = Box::pin(async {
            join_all(upkeep).await;
        });
        Ok(Self { login, authorizer, cluster, upkeep })
    }
}

/// Who knows the tokens of service accounts by their signatures.
fn service_accounts(
    settings: &config::Login,
    cluster: Option<&Cluster>,
    files: &Files,
    clock: Clock,
) -> anyhow::Result<ServiceAccounts> {
    let names_audiences = !settings.audiences.is_empty() || !settings.api_server_audiences.is_empty();
    let rules = TokenRules {
        api_server: match cluster {
            Some(_) if !names_audiences => ApiServerTokens::AskedAbout,
            _ if settings.api_server_audiences.is_empty() => ApiServerTokens::Refused,
            _ => ApiServerTokens::For(settings.api_server_audiences.clone()),
        },
        max_age: settings.longest_token_age,
        ..TokenRules::for_audiences(settings.audiences.clone())
    };
    let mut issuers = Vec::with_capacity(settings.issuers.len());
    for issuer in &settings.issuers {
        let keys = match (&issuer.keys, cluster) {
            (Keys::File(path), _) => KeySet::from_files(&[path], files)?,
            (Keys::Published { at, authorities }, _) => {
                let published = PublishedKeys::new(&issuer.name, at.clone(), authorities.as_deref())?;
                KeySet::fetched(Arc::new(published))
            }
            (Keys::OfCluster, Some(cluster)) => KeySet::fetched(Arc::new(cluster.clone())),
            (Keys::OfCluster, None) => continue,
        };
        issuers.push(Issuer { name: IssuerName::Exactly(issuer.name.clone()), keys });
    }
    if let Some(cluster) = cluster
        && issuers.is_empty()
    {
        let keys = KeySet::fetched(Arc::new(cluster.clone()));
        issuers.push(Issuer { name: IssuerName::AnyOfCluster, keys });
    }
    Ok(ServiceAccounts::new(issuers, rules, None, clock))
}
