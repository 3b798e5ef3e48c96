//! Who is believed, what is written down of requests, and what is kept encrypted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use wharf_apiserver::{Audit, Authentication, Encrypted, Encryption, LogOptions, OidcFlags, Security};
use wharf_base::HintExt;
use wharf_state::Store;

/// `wharf up`'s options for the API's security, by the names kube-apiserver has for them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "API security")]
pub(crate) struct SecurityOptions {
    /// Believe tokens of this issuer of OpenID Connect (an https URL)
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    oidc_issuer_url: Option<String>,
    /// The audience those tokens must be for
    #[arg(long, value_name = "ID", requires = "oidc_issuer_url")]
    oidc_client_id: Option<String>,
    /// The claim that is the user's name; 'sub' by default
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer_url")]
    oidc_username_claim: Option<String>,
    /// Stands before users' names; 'URL#' by default unless the claim is 'email', '-' for nothing
    #[arg(long, value_name = "PREFIX", requires = "oidc_issuer_url", allow_hyphen_values = true)]
    oidc_username_prefix: Option<String>,
    /// The claim that holds the user's groups
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer_url")]
    oidc_groups_claim: Option<String>,
    /// Stands before the names of groups
    #[arg(long, value_name = "PREFIX", requires = "oidc_issuer_url")]
    oidc_groups_prefix: Option<String>,
    /// A claim tokens must have with this value; may be given several times
    #[arg(long, value_name = "KEY=VALUE", requires = "oidc_issuer_url")]
    oidc_required_claim: Vec<String>,
    /// Authorities of the issuer's certificate (PEM); those this machine trusts by default
    #[arg(long, value_name = "FILE", requires = "oidc_issuer_url")]
    oidc_ca_file: Option<PathBuf>,
    /// Algorithms tokens may be signed by; RS256 by default
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "oidc_issuer_url")]
    oidc_signing_algs: Vec<String>,
    /// Believe tokens of the issuers in an AuthenticationConfiguration
    #[arg(long, value_name = "FILE", conflicts_with = "oidc_issuer_url")]
    authentication_config: Option<PathBuf>,
    /// Write requests down as this audit policy says
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    audit_policy_file: Option<PathBuf>,
    /// Where requests are written down; '-' is the standard output
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_log_path: Option<PathBuf>,
    /// Days old audit logs are kept; 0 for ever
    #[arg(long, value_name = "DAYS", default_value_t = 366)]
    audit_log_maxage: u64,
    /// Old audit logs that are kept; 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    audit_log_maxbackup: usize,
    /// Megabytes after which a new audit log is begun; 0 for never
    #[arg(long, value_name = "MB", default_value_t = 100)]
    audit_log_maxsize: u64,
    /// Reads that are carried out at once, besides those of priority levels that are exempt
    #[arg(long, value_name = "NUMBER", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..100_000))]
    max_requests_inflight: u32,
    /// Writes that are; the sum of both is shared out among priority levels
    #[arg(long, value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..100_000))]
    max_mutating_requests_inflight: u32,
    /// Keep objects encrypted as this EncryptionConfiguration says
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
}

/// The text of a file that a flag names.
fn read(flag: &str, path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    Ok(text.hint(|| format!("look at {flag}"))?)
}

/// Something in a file is not as it must be.
fn wrong<T, E: std::error::Error + Send + Sync + 'static>(
    result: Result<T, E>,
    flag: &str,
    path: &Path,
) -> Result<T> {
    let told = result.with_context(|| format!("{} of {flag} cannot be used", path.display()));
    Ok(told.hint(|| "mend the field it names; the form is that of Kubernetes".to_owned())?)
}

impl SecurityOptions {
    /// What the server is told, and the store it keeps objects in.
    pub(super) fn open(&self, store: Arc<dyn Store>) -> Result<(Arc<dyn Store>, Security)> {
        let store = Encrypted::new(store, self.encryption()?);
        // Without flags, as in the demo, the server's own default counts.
        let seats =
            Some(self.max_requests_inflight + self.max_mutating_requests_inflight).filter(|seats| *seats > 0);
        let (stale, audit) = (store.stale(), self.audit()?);
        let mut security = Security { stale, audit, seats, ..Security::default() };
        if let Some(path) = &self.authentication_config {
            let flag = "--authentication-config";
            let read = wrong(Authentication::parse(&read(flag, path)?), flag, path)?;
            security.issuers = read.issuers;
            security.anonymous = read.anonymous.unwrap_or_default();
        }
        if self.oidc_issuer_url.is_some() {
            let issuer = self.oidc()?.issuer().context("tokens of the issuer cannot be believed");
            security.issuers.push(issuer.hint(|| "mend the flag it names".to_owned())?);
        }
        Ok((Arc::new(store), security))
    }

    fn oidc(&self) -> Result<OidcFlags> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let authority = self.oidc_ca_file.as_ref().map(|path| read("--oidc-ca-file", path)).transpose()?;
        Ok(OidcFlags {
            issuer_url: text(&self.oidc_issuer_url),
            client_id: text(&self.oidc_client_id),
            username_claim: text(&self.oidc_username_claim),
            username_prefix: self.oidc_username_prefix.clone(),
            groups_claim: text(&self.oidc_groups_claim),
            groups_prefix: text(&self.oidc_groups_prefix),
            required_claims: self.oidc_required_claim.clone(),
            authority: authority.unwrap_or_default(),
            signing_algorithms: self.oidc_signing_algs.clone(),
        })
    }

    fn audit(&self) -> Result<Option<Arc<Audit>>> {
        let (Some(policy), Some(path)) = (&self.audit_policy_file, &self.audit_log_path) else {
            return Ok(None);
        };
        let options = LogOptions {
            path: path.clone(),
            max_age_days: self.audit_log_maxage,
            max_backups: self.audit_log_maxbackup,
            max_megabytes: self.audit_log_maxsize,
        };
        let flag = "--audit-policy-file";
        let audit = wrong(Audit::open(&read(flag, policy)?, options), flag, policy)?;
        Ok(Some(Arc::new(audit)))
    }

    fn encryption(&self) -> Result<Encryption> {
        let Some(path) = &self.encryption_provider_config else { return Ok(Encryption::none()) };
        let flag = "--encryption-provider-config";
        wrong(Encryption::parse(&read(flag, path)?), flag, path)
    }
}
