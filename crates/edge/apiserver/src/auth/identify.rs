//! From what a request shows to who asks.

use std::{sync::Weak, time::Duration};

use wharf_api::status::Status;

use super::{ISSUER, Identity, Shown, bootstrap_token};
use crate::{ApiServer, request::RequestInfo};

impl ApiServer {
    /// Finds out who asks: 401 when a token is shown that is not valid.
    pub(crate) async fn authenticate(&self, shown: Shown, info: &RequestInfo) -> Result<Identity, Status> {
        let unauthorized = || Status::new(401, "Unauthorized", "Unauthorized");
        match shown {
            Shown::Identity(identity) if identity.is_anonymous() && !self.anonymous.may_ask(&info.path) => {
                Err(unauthorized())
            }
            Shown::Identity(identity) => Ok(identity),
            Shown::Token(token) => {
                // One that was made for others is not for this server.
                let own = |(_, audiences): &(Identity, Vec<String>)| audiences.iter().any(|a| a == ISSUER);
                let valid = self.check_token(&token).await.filter(own);
                valid.map(|(identity, _)| identity).ok_or_else(unauthorized)
            }
        }
    }

    /// Who a bearer token is of, and for which audiences.
    pub(crate) async fn check_token(&self, token: &str) -> Option<(Identity, Vec<String>)> {
        let for_all = |identity| (identity, vec![ISSUER.to_owned()]);
        if let Some(identity) = bootstrap_token::check(&self.storage, token, self.now()) {
            return Some(for_all(identity));
        }
        if let Some(claims) = self.signing_key.check(token, self.now()) {
            return self.token_alive(&claims.subject).then(|| (claims.identity(), claims.audiences));
        }
        if self.issuers.is_empty() {
            return None;
        }
        Box::pin(self.issuers.check(&self.clients, token, self.now())).await.map(for_all)
    }
}

/// How soon an issuer that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Fetches the keys of all issuers, so that the first token need not wait for them.
pub(crate) async fn ask_issuers(server: Weak<ApiServer>) {
    while let Some(server) = server.upgrade() {
        if server.issuers.prepare(&server.clients).await {
            return;
        }
        drop(server);
        tokio::time::sleep(ASK_AGAIN).await;
    }
}
