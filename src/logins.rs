//! Logins as a configuration has them: what it names is read, connected and put together.

use std::path::PathBuf;
use std::sync::Arc;

use auth::bindings::{Folder, WatchedBindings};
use auth::{
    AccessReviews, Accounts, AnyUser, ApiServerTokens, Attempts, Authenticator, AuthenticatorOptions,
    Authenticators, Authorizer, Clock, Cluster, ConfirmedAccounts, FileError, Files, Htpasswd, Issuer,
    IssuerName, KeySet, PublishedKeys, RegistryTokenKeys, RegistryTokens, ServiceAccounts, TokenReviews,
    TokenRules, TokensFile, Upkeep, UserFile, WatchedAccounts,
};
use http::Uri;

use crate::audit::AuditLog;
use crate::config::{self, ClusterPermission, Keys, Locations, Permission};
use crate::login::Login;
use crate::login::challenge::Challenge;

/// All that logins need, read and ready.
pub struct Logins {
    /// Who requests come from.
    pub login: Login,
    /// What they may.
    pub authorizer: Arc<dyn Authorizer>,
    /// The cluster that is asked, if one is.
    pub cluster: Option<Cluster>,
    /// Each keeps current some of what they rest on, for as long as it runs.
    pub upkeep: Vec<Upkeep>,
    /// The files that they rest on, to be looked at now and then.
    pub files: Files,
}

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
                    upkeep.extend(watching);
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
            upkeep.push(watching);
            Arc::new(accounts) as Arc<dyn Accounts>
        });
        let token_keys = match &settings.token_keys {
            Some(path) => RegistryTokenKeys::from_file(path, &files)?,
            None => RegistryTokenKeys::random()?,
        };
        let audience =
            realm.as_ref().and_then(Uri::authority).map_or("wharf", |host| host.as_str()).to_owned();
        let mut authenticators = Authenticators::new(&AuthenticatorOptions::default(), clock.clone())?
            .as_long_as_unchanged(&files);
        let rules = rules(settings, authority.cluster());
        let reviews = match (authority, accounts) {
            (Authority::Cluster(cluster, wanted), Some(accounts)) => {
                let (rules, revocation, clock) = (rules.clone(), wanted.revocation, clock.clone());
                authenticators = authenticators.as_long_as_in(Arc::clone(&accounts));
                Some(Arc::new(TokenReviews::new(cluster.clone(), accounts, rules, revocation, clock)?))
            }
            _ => None,
        };
        let user_files = user_files(settings, &files)?;
        let lifetime = settings.token_lifetime;
        let tokens = RegistryTokens::new(token_keys, audience, lifetime, reviews.clone(), clock.clone());
        let tokens = Arc::new(tokens.with_users_of(user_files.clone()));
        let issuers = issuers(settings, authority.cluster(), &files)?;
        let verified = ServiceAccounts::new(issuers, rules, clock.clone());
        let of_accounts: Arc<dyn Authenticator> = match &reviews {
            Some(reviews) => Arc::new(ConfirmedAccounts::new(verified, Arc::clone(reviews))),
            None => Arc::new(verified),
        };
        authenticators =
            authenticators.then(tokens.clone(), Attempts::Unlimited).then(of_accounts, Attempts::Unlimited);
        // Before what can be guessed: whoever has one is kept out by nobody who guesses.
        authenticators = authenticators.then(Arc::new(auth::Certificates), Attempts::Unlimited);
        for file in user_files {
            authenticators = authenticators.then(file, Attempts::OncePerChange);
        }
        // Behind those, so that none of their passwords is sent to the cluster.
        if let Some(reviews) = reviews {
            authenticators = authenticators.then(reviews, Attempts::Limited);
        }
        let authorizer = authority.authorizer(&files, &mut upkeep)?;
        let challenge =
            Challenge::new(settings.challenge, realm, token_path, settings.password_realm.clone());
        let login = Login::new(authenticators, tokens, challenge, settings.certificates, audit, clock);
        Ok(Self { login, authorizer, cluster: authority.cluster().cloned(), upkeep, files })
    }
}

/// The files that name users, in the order in which they are asked.
fn user_files(settings: &config::Login, files: &Files) -> Result<Vec<Arc<dyn UserFile>>, FileError> {
    let mut user_files: Vec<Arc<dyn UserFile>> = Vec::new();
    if let Some(path) = &settings.tokens {
        user_files.push(Arc::new(TokensFile::read(path, files)?));
    }
    if let Some(path) = &settings.htpasswd {
        user_files.push(Arc::new(Htpasswd::read(path, files)?));
    }
    Ok(user_files)
}

const TOKENS_OF_THE_API_SERVER: &str =
    "tokens for the API server are good here; name \"audiences\" to take others alone";

/// Which tokens of service accounts are good.
fn rules(settings: &config::Login, cluster: Option<&Cluster>) -> TokenRules {
    let api_server = match (&settings.api_server_audiences, cluster) {
        (named, _) if !named.is_empty() => ApiServerTokens::For(named.clone()),
        _ if !settings.audiences.is_empty() => ApiServerTokens::Refused,
        (_, Some(_)) => {
            tracing::info!("{TOKENS_OF_THE_API_SERVER}");
            ApiServerTokens::AskedAbout
        }
        (_, None) if settings.issuers.is_empty() => ApiServerTokens::Refused,
        (_, None) => {
            tracing::info!("{TOKENS_OF_THE_API_SERVER}");
            // An API server calls itself like the issuer, unless it is told otherwise.
            ApiServerTokens::For(settings.issuers.iter().map(|issuer| issuer.name.clone()).collect())
        }
    };
    let max_age = settings.longest_token_age;
    let other_audiences = settings.other_audiences;
    TokenRules {
        api_server,
        other_audiences,
        max_age,
        ..TokenRules::for_audiences(settings.audiences.clone())
    }
}

/// Whose tokens are verified, and by which keys. A cluster knows its own, whatever it calls itself.
fn issuers(
    settings: &config::Login,
    cluster: Option<&Cluster>,
    files: &Files,
) -> anyhow::Result<Vec<Issuer>> {
    if let Some(cluster) = cluster {
        let keys = KeySet::fetched(Arc::new(cluster.clone()));
        return Ok(vec![Issuer { name: IssuerName::AnyOfCluster, keys }]);
    }
    let issuers = settings.issuers.iter().map(|issuer| {
        let keys = match &issuer.keys {
            Keys::File(path) => KeySet::from_files(&[path], files)?,
            Keys::Published { at, authorities } => {
                let authorities = authorities.as_deref();
                let published = PublishedKeys::new(&issuer.name, at.clone(), authorities, files)?;
                KeySet::fetched(Arc::new(published))
            }
        };
        Ok(Issuer { name: IssuerName::Exactly(issuer.name.clone()), keys })
    });
    issuers.collect()
}
