//! Logins as a configuration has them: what it names is read, connected and put together.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use auth::bindings::{Folder, WatchedBindings};
use auth::{
    AccessReviews, Accounts, AnyUser, ApiServerTokens, Attempts, Authenticator, AuthenticatorOptions,
    Authenticators, Authorizer, Clock, Cluster, ConfirmedAccounts, Files, Htpasswd, Issuer, IssuerName,
    KeySet, PublishedKeys, RegistryTokenKeys, RegistryTokens, ServiceAccounts, TokenReviews, TokenRules,
    TokensFile, WatchedAccounts,
};
use futures_util::future::join_all;
use http::Uri;

use crate::audit::AuditLog;
use crate::config::{self, ClusterPermission, Keys, Locations, Permission};
use crate::login::challenge::Challenge;
use crate::login::{Certificates, Login};

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

/// What decides, and who is asked.
enum Authority {
    Users,
    Folder(PathBuf),
    Cluster(Cluster, config::Cluster),
}

impl Authority {
    async fn of(permission: &Permission) -> anyhow::Result<Self> {
        Ok(match permission {
            Permission::Users => Self::Users,
            Permission::Folder(path) => Self::Folder(path.clone()),
            Permission::Cluster(wanted) => {
                let cluster = Cluster::connect(wanted.kubeconfig.as_deref(), wanted.outage).await?;
                tracing::info!(address = cluster.address(), "who is who is asked of a cluster");
                Self::Cluster(cluster, wanted.clone())
            }
        })
    }

    fn cluster(&self) -> Option<&Cluster> {
        match self {
            Self::Cluster(cluster, _) => Some(cluster),
            Self::Users | Self::Folder(_) => None,
        }
    }

    /// Who decides what somebody may.
    fn authorizer(&self, files: &Files, upkeep: &mut Vec<Upkeep>) -> anyhow::Result<Arc<dyn Authorizer>> {
        Ok(match self {
            Self::Users => Arc::new(AnyUser::new()),
            Self::Folder(path) => {
                let folder = Folder::open(path)?;
                let authorizer = folder.authorizer();
                folder.reread_with(files);
                authorizer
            }
            Self::Cluster(cluster, wanted) => match wanted.permission {
                ClusterPermission::Bindings => {
                    let (bindings, watching) = WatchedBindings::watch(cluster)?;
                    upkeep.push(Box::pin(watching));
                    Arc::new(bindings)
                }
                ClusterPermission::AccessReviews => Arc::new(AccessReviews::new(cluster.clone())?),
            },
        })
    }
}

impl Logins {
    /// Reads what the configuration names, and connects to the cluster if it asks one, which need not answer yet. The token
    /// endpoint is at the path `token_path`, and credentials that are refused are written into `audit`.
    ///
    /// # Errors
    /// When something cannot be read, or is wrong.
    pub async fn prepare(
        settings: &config::Login,
        locations: &Locations,
        token_path: String,
        audit: AuditLog,
    ) -> anyhow::Result<Self> {
        let settings = settings.clone();
        let realm = settings.realm.clone().or_else(|| locations.host().cloned());
        let authority = Authority::of(&settings.permission).await?;
        let read = move || Self::read(&settings, &authority, realm, token_path, audit);
        tokio::task::spawn_blocking(read).await?
    }

    /// It blocks.
    fn read(
        settings: &config::Login,
        authority: &Authority,
        realm: Option<Uri>,
        token_path: String,
        audit: AuditLog,
    ) -> anyhow::Result<Self> {
        let (clock, files) = (Clock::system(), Files::new());
        let mut upkeep: Vec<Upkeep> = Vec::new();
        let accounts = authority.cluster().map(|cluster| {
            let (accounts, watching) = WatchedAccounts::watch(cluster);
            upkeep.push(Box::pin(watching));
            Arc::new(accounts) as Arc<dyn Accounts>
        });
        let token_keys = match &settings.token_keys {
            Some(path) => RegistryTokenKeys::from_file(path, &files)?,
            None => RegistryTokenKeys::random()?,
        };
        let audience =
            realm.as_ref().and_then(Uri::authority).map_or("wharf", |host| host.as_str()).to_owned();
        let lifetime = settings.token_lifetime;
        let tokens =
            Arc::new(RegistryTokens::new(token_keys, audience, lifetime, accounts.clone(), clock.clone()));
        let reviews = match (authority, accounts) {
            (Authority::Cluster(cluster, wanted), Some(accounts)) => {
                let audiences = [&settings.audiences[..], &settings.api_server_audiences].concat();
                let known_for = wanted.revocation.saturating_sub(REMEMBERED_ELSEWHERE);
                Some(Arc::new(TokenReviews::new(cluster.clone(), accounts, audiences, known_for)?))
            }
            _ => None,
        };
        let verified = service_accounts(settings, authority.cluster(), &files, clock.clone())?;
        let of_accounts: Arc<dyn Authenticator> = match &reviews {
            Some(reviews) => Arc::new(ConfirmedAccounts::new(verified, Arc::clone(reviews))),
            None => Arc::new(verified),
        };
        let mut authenticators = Authenticators::new(&AuthenticatorOptions::default(), clock)?
            .then(tokens.clone(), Attempts::Unlimited)
            .then(of_accounts, Attempts::Unlimited);
        if let Some(path) = &settings.tokens {
            let known = Arc::new(TokensFile::read(path, &files)?);
            authenticators = authenticators.then(known, Attempts::Limited);
        }
        if let Some(path) = &settings.htpasswd {
            let users = Arc::new(Htpasswd::read(path, &files)?);
            authenticators = authenticators.then(users, Attempts::Limited);
        }
        // Behind those, so that none of their passwords is sent to the cluster.
        if let Some(reviews) = reviews {
            authenticators = authenticators.then(reviews, Attempts::Limited);
        }
        let certificates = match authority {
            Authority::Users => Certificates::AdmitConnections,
            Authority::Folder(_) | Authority::Cluster(..) => {
                authenticators = authenticators.then(Arc::new(auth::Certificates), Attempts::Unlimited);
                Certificates::NameUsers
            }
        };
        let authorizer = authority.authorizer(&files, &mut upkeep)?;
        let challenge = Challenge::new(settings.challenge, realm, token_path);
        let login = Login::new(authenticators, tokens, challenge, certificates, audit);
        let files = Arc::new(files);
        upkeep.push(Box::pin(files.keep_current()));
        let upkeep = Box::pin(async {
            join_all(upkeep).await;
        });
        Ok(Self { login, authorizer, cluster: authority.cluster().cloned(), upkeep })
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
