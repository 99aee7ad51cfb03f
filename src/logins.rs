//! Logins as a configuration has them: what it names is read, and put together.

use std::sync::Arc;

use auth::bindings::Folder;
use auth::{
    AnyUser, Attempts, AuthenticatorOptions, Authenticators, Authorizer, Clock, Files, Htpasswd, KeySet,
    RegistryTokenKeys, RegistryTokens, ServiceAccounts, TokenRules, TokensFile,
};
use http::Uri;

use crate::config::{self, Locations, Permission};
use crate::login::challenge::Challenge;
use crate::login::{Login, TOKEN_PATHS};

/// All that logins need, read and ready.
pub struct Logins {
    /// Who requests come from.
    pub login: Login,
    /// What they may.
    pub authorizer: Arc<dyn Authorizer>,
    /// What both rest on.
    pub files: Arc<Files>,
}

impl Logins {
    /// Reads what the configuration names. It blocks.
    ///
    /// # Errors
    /// When something cannot be read, or is wrong.
    pub fn prepare(settings: &config::Login, locations: &Locations) -> anyhow::Result<Self> {
        let (clock, files) = (Clock::system(), Files::new());
        let realm = settings.realm.clone().or_else(|| locations.host().cloned());
        let token_keys = match &settings.token_keys {
            Some(path) => RegistryTokenKeys::from_file(path, &files)?,
            None => RegistryTokenKeys::random()?,
        };
        let audience = realm.as_ref().and_then(Uri::authority).map_or("wharf", |host| host.as_str());
        let tokens = Arc::new(RegistryTokens::new(
            token_keys,
            audience.to_owned(),
            settings.token_lifetime,
            None,
            clock.clone(),
        ));
        let rules = TokenRules {
            api_server_audiences: settings.api_server_audiences.clone(),
            max_age: settings.longest_token_age,
            ..TokenRules::for_audiences(settings.audiences.clone())
        };
        let issuers = settings.issuers.iter().map(|issuer| {
            let keys = KeySet::from_files(std::slice::from_ref(&issuer.keys), &files)?;
            Ok(auth::Issuer { name: issuer.name.clone(), keys })
        });
        let issuers: Vec<_> = issuers.collect::<Result<_, auth::FileError>>()?;
        let accounts = ServiceAccounts::new(issuers, rules, None, clock.clone());
        let mut authenticators = Authenticators::new(&AuthenticatorOptions::default(), clock)?
            .then(tokens.clone(), Attempts::Unlimited)
            .then(Arc::new(accounts), Attempts::Unlimited);
        if let Some(path) = &settings.tokens {
            let known = Arc::new(TokensFile::read(path, &files)?);
            authenticators = authenticators.then(known, Attempts::Limited);
        }
        if let Some(path) = &settings.htpasswd {
            let users = Arc::new(Htpasswd::read(path, &files)?);
            authenticators = authenticators.then(users, Attempts::Limited);
        }
        let authorizer: Arc<dyn Authorizer> = match &settings.permission {
            Permission::Users => Arc::new(AnyUser::new()),
            Permission::Folder(path) => {
                let folder = Folder::open(path)?;
                let authorizer = folder.authorizer();
                folder.reread_with(&files);
                authorizer
            }
        };
        let challenge = Challenge::new(settings.challenge, realm, TOKEN_PATHS[0].to_owned());
        let login = Login::new(authenticators, tokens, challenge);
        Ok(Self { login, authorizer, files: Arc::new(files) })
    }
}
