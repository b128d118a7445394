//! Who outside of the cluster vouches for users: trusted issuers of JWTs, and providers of OAuth 2.0 and OpenID Connect.
//!
//! | module | owns |
//! |---|---|
//! | `issuers` | JWTs in `authorization: Bearer` |
//! | `provider` | redeeming codes, and whom they stand for |
//! | `jwt` | what makes a JWT valid |
//! | `keys` | the published keys of an issuer, kept and fetched again |
//! | `fetch` | bounded requests to them |
//! | `crypto` | `ring` for the library of JWTs |
//!
//! Invariants: nothing that somebody outside says counts before it is checked here; no request goes to an address that neither the
//! configuration nor a provider's own discovery document names; no worker waits for a socket or a file.
//!
//! Lacks: what the named users may do, which the service decides; OAuth 1, whose providers are gone.

mod crypto;
mod fetch;
mod issuers;
mod jwt;
mod keys;
mod provider;

use std::collections::BTreeMap;

use anyhow::Context as _;
use futures::future::BoxFuture;
use service::Result;
use service::identities::{self, Begin, Grant, Identities, Profile, Rules, Vouched};

use self::fetch::Fetcher;
use self::issuers::Issuer;
use self::provider::Provider;
use crate::config::{Config, DEFAULT_DATABASE};

/// All that a node's configuration names.
#[derive(Default)]
pub(crate) struct Registry {
    issuers: Vec<Issuer>,
    providers: BTreeMap<String, Provider>,
}

impl Registry {
    /// Reads the secrets; asks nobody yet.
    ///
    /// # Errors
    /// A secret cannot be read.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Registry> {
        if config.oauth.is_empty() && config.security.trusted_issuers.is_empty() {
            return Ok(Registry::default());
        }
        let fetcher = Fetcher::new(config.security.insecure).context("HTTP client")?;
        let issuers = &config.security.trusted_issuers;
        let issuers = issuers
            .iter()
            .map(|issuer| Issuer::new(issuer.clone(), fetcher.clone()));
        let mut providers = BTreeMap::new();
        for (name, provider) in &config.oauth {
            let secret = match provider.client_secret.is_set() {
                true => provider
                    .client_secret
                    .read_line()
                    .with_context(|| format!("oauth.{name}.client_secret"))?,
                false => String::new(),
            };
            // The SDK sends names in lower case.
            let name = name.to_lowercase();
            let provider = Provider::new(name.clone(), provider.clone(), secret, fetcher.clone());
            providers.insert(name, provider);
        }
        Ok(Registry {
            issuers: issuers.collect(),
            providers,
        })
    }

    fn provider(&self, database: &str, name: &str) -> Result<&Provider> {
        let database = shown(database);
        self.providers
            .get(name)
            .filter(|provider| provider.config.databases.iter().any(|one| one == database))
            .ok_or_else(|| identities::no_such_provider(name))
    }
}

/// The configured name of a database.
fn shown(database: &str) -> &str {
    match database {
        "" => DEFAULT_DATABASE,
        name => name,
    }
}

impl Identities for Registry {
    fn bearer<'a>(&'a self, database: &'a str, token: &'a str) -> BoxFuture<'a, Result<Vouched>> {
        Box::pin(issuers::vouch(&self.issuers, shown(database), token))
    }

    fn authorize_url<'a>(
        &'a self,
        database: &'a str,
        provider: &'a str,
        begin: &'a Begin,
    ) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            self.provider(database, provider)?
                .authorize_url(begin)
                .await
        })
    }

    fn redeem<'a>(
        &'a self,
        database: &'a str,
        provider: &'a str,
        grant: Grant,
    ) -> BoxFuture<'a, Result<Profile>> {
        Box::pin(async move { self.provider(database, provider)?.redeem(&grant).await })
    }

    fn rules(&self, database: &str, provider: &str) -> Result<Rules> {
        let config = &self.provider(database, provider)?.config;
        Ok(Rules {
            redirect_uri: Some(config.redirect_uri.clone()).filter(|uri| !uri.is_empty()),
            redirect_origins: config.redirect_origins.clone(),
            own_flow_only: config.own_flow_only,
        })
    }
}
