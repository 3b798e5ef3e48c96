//! Which issuers are believed, as flags or a file say it.

use wharf_cel::{Env, Program, Type};

use super::{
    Issuer,
    claims::{Mapping, Rule, Source},
};
use crate::{
    auth::{ISSUER, jwt::ALGORITHMS},
    configuration::{ConfigError, Part, document},
};

/// Issuers in a file at the most, as upstream.
const MAX_ISSUERS: usize = 64;

/// The values of the flags `--oidc-…`, by upstream's names.
#[derive(Debug, Clone, Default)]
pub struct OidcFlags {
    /// `--oidc-issuer-url`
    pub issuer_url: String,
    /// `--oidc-client-id`
    pub client_id: String,
    /// `--oidc-username-claim`
    pub username_claim: String,
    /// `--oidc-username-prefix`; nothing when the flag is not there.
    pub username_prefix: Option<String>,
    /// `--oidc-groups-claim`
    pub groups_claim: String,
    /// `--oidc-groups-prefix`
    pub groups_prefix: String,
    /// `--oidc-required-claim`, as `key=value`.
    pub required_claims: Vec<String>,
    /// What is in the file `--oidc-ca-file`; empty for what this machine trusts.
    pub authority: String,
    /// `--oidc-signing-algs`
    pub signing_algorithms: Vec<String>,
}

impl OidcFlags {
    /// The issuer they describe.
    ///
    /// # Errors
    /// When one of them is not usable, by its name.
    pub fn issuer(&self) -> Result<Issuer, ConfigError> {
        let flag = |name: &str, what: String| Err(ConfigError::new(format!("--oidc-{name}"), what));
        if let Some(why) = url_error(&self.issuer_url) {
            return flag("issuer-url", why);
        }
        if self.issuer_url == ISSUER {
            return flag("issuer-url", "this is the issuer of service account tokens".into());
        }
        if self.client_id.is_empty() {
            return flag("client-id", "must be given with --oidc-issuer-url".into());
        }
        let mut algorithms = self.signing_algorithms.clone();
        if algorithms.is_empty() {
            algorithms.push("RS256".into());
        }
        if let Some(other) = algorithms.iter().find(|name| !ALGORITHMS.contains(&name.as_str())) {
            return flag("signing-algs", format!("{other:?} is not among {}", ALGORITHMS.join(", ")));
        }
        let mut required = Vec::new();
        for text in &self.required_claims {
            match text.split_once('=') {
                Some((name, value)) if !name.is_empty() => required.push((name.to_owned(), value.to_owned())),
                _ => return flag("required-claim", format!("{text:?} is not of the form key=value")),
            }
        }
        let claim = if self.username_claim.is_empty() { "sub" } else { &self.username_claim };
        let prefix = match self.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) if !prefix.is_empty() => prefix.to_owned(),
            _ if claim == "email" => String::new(),
            _ => format!("{}#", self.issuer_url),
        };
        let groups = Source::Claim { name: self.groups_claim.clone(), prefix: self.groups_prefix.clone() };
        Ok(Issuer {
            url: self.issuer_url.clone(),
            discovery: None,
            authority: self.authority.clone(),
            audiences: vec![self.client_id.clone()],
            algorithms,
            mapping: Mapping {
                username: Source::Claim { name: claim.to_owned(), prefix },
                groups: Some(groups).filter(|_| !self.groups_claim.is_empty()),
                uid: None,
                extra: Vec::new(),
                required,
                claim_rules: Vec::new(),
                user_rules: Vec::new(),
            },
        })
    }
}

fn url_error(url: &str) -> Option<String> {
    let Some(rest) = url.strip_prefix("https://") else {
        return Some(format!("{url:?}: URL scheme must be https"));
    };
    let host = rest.split('/').next().unwrap_or_default();
    match () {
        () if url.parse::<http::Uri>().is_err() || host.is_empty() => Some(format!("{url:?} is no URL")),
        () if host.contains('@') => Some("URL must not contain a username or password".into()),
        () if url.contains('?') => Some("URL must not contain a query".into()),
        () if url.contains('#') => Some("URL must not contain a fragment".into()),
        () => None,
    }
}

/// Whether somebody unknown may ask.
#[derive(Debug, Clone, Default)]
pub struct Anonymous {
    refused: bool,
    /// The only paths that may be asked for; all when there are none.
    paths: Vec<String>,
}

impl Anonymous {
    pub(crate) fn may_ask(&self, path: &str) -> bool {
        !self.refused && (self.paths.is_empty() || self.paths.iter().any(|allowed| allowed == path))
    }
}

/// An AuthenticationConfiguration.
#[derive(Debug, Default)]
pub struct Authentication {
    /// The issuers that are believed.
    pub issuers: Vec<Issuer>,
    /// What holds for those who show nothing; nothing when the file does not say.
    pub anonymous: Option<Anonymous>,
}

impl Authentication {
    /// Reads the file of `--authentication-config` (`apiserver.config.k8s.io/v1`).
    ///
    /// # Errors
    /// The field that is wrong, and why.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let versions = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
        let value = document(text, "AuthenticationConfiguration", &versions)?;
        let whole = Part::whole(&value);
        whole.fields(&["apiVersion", "kind", "jwt", "anonymous"])?;
        let parts = whole.items("jwt")?;
        if parts.len() > MAX_ISSUERS {
            return Err(whole.error("jwt", format!("there may be {MAX_ISSUERS} at the most")));
        }
        let mut issuers: Vec<Issuer> = Vec::new();
        for part in parts {
            let issuer = issuer(&part)?;
            if issuers.iter().any(|other| other.url == issuer.url) {
                return Err(part.part("issuer").error("url", format!("{:?} is there twice", issuer.url)));
            }
            issuers.push(issuer);
        }
        let part = whole.part("anonymous");
        let anonymous = if part.is_there() { Some(anonymous(&part)?) } else { None };
        Ok(Self { issuers, anonymous })
    }
}

fn anonymous(part: &Part<'_>) -> Result<Anonymous, ConfigError> {
    part.fields(&["enabled", "conditions"])?;
    let refused = part.flag("enabled")? != Some(true);
    let mut paths = Vec::new();
    for condition in part.items("conditions")? {
        condition.fields(&["path"])?;
        paths.push(condition.text("path")?.to_owned());
    }
    if refused && !paths.is_empty() {
        return Err(part.error("conditions", "enabled should be set to true when conditions are defined"));
    }
    Ok(Anonymous { refused, paths })
}

fn issuer(part: &Part<'_>) -> Result<Issuer, ConfigError> {
    part.fields(&["issuer", "claimValidationRules", "claimMappings", "userValidationRules"])?;
    let of = part.part("issuer");
    of.fields(&[
        "url",
        "discoveryURL",
        "certificateAuthority",
        "audiences",
        "audienceMatchPolicy",
        "egressSelectorType",
    ])?;
    if of.part("egressSelectorType").is_there() {
        return Err(of.error("egressSelectorType", "requests go out by no selector here; leave it away"));
    }
    let (url, discovery) = (of.text("url")?, of.text("discoveryURL")?);
    if url == ISSUER {
        return Err(of.error("url", "this is the issuer of service account tokens"));
    }
    for (name, url) in [("url", url), ("discoveryURL", discovery)] {
        if let Some(why) = url_error(url).filter(|_| name == "url" || !url.is_empty()) {
            return Err(of.error(name, why));
        }
    }
    if discovery.trim_end_matches('/') == url.trim_end_matches('/') {
        return Err(of.error("discoveryURL", "must be different from url"));
    }
    let audiences = of.texts("audiences")?;
    if audiences.is_empty() || audiences.iter().any(String::is_empty) {
        return Err(of.error("audiences", "at least one is required, and none may be empty"));
    }
    match of.text("audienceMatchPolicy")? {
        "MatchAny" => {}
        "" if audiences.len() == 1 => {}
        _ => return Err(of.error("audienceMatchPolicy", "must be MatchAny for multiple audiences")),
    }
    Ok(Issuer {
        url: url.to_owned(),
        discovery: Some(discovery.to_owned()).filter(|url| !url.is_empty()),
        authority: of.text("certificateAuthority")?.to_owned(),
        audiences,
        algorithms: ALGORITHMS.map(str::to_owned).into(),
        mapping: mapping(part)?,
    })
}

fn mapping(part: &Part<'_>) -> Result<Mapping, ConfigError> {
    let of = part.part("claimMappings");
    of.fields(&["username", "groups", "uid", "extra"])?;
    let username = source(&of.part("username"), true)?;
    let username = username.ok_or_else(|| of.error("username", "claim or expression is required"))?;
    let mut required = Vec::new();
    let mut claim_rules = Vec::new();
    for rule in part.items("claimValidationRules")? {
        rule.fields(&["claim", "requiredValue", "expression", "message"])?;
        match (rule.text("claim")?, rule.text("expression")?) {
            ("", "") => return Err(rule.error("claim", "claim or expression is required")),
            ("", _) => claim_rules.push(self::rule(&rule, "claims")?),
            (claim, "") => required.push((claim.to_owned(), rule.text("requiredValue")?.to_owned())),
            _ => return Err(rule.error("claim", "claim and expression can't both be set")),
        }
    }
    let mut user_rules = Vec::new();
    for rule in part.items("userValidationRules")? {
        rule.fields(&["expression", "message"])?;
        user_rules.push(self::rule(&rule, "user")?);
    }
    let mut extra = Vec::new();
    for item in of.items("extra")? {
        item.fields(&["key", "valueExpression"])?;
        let key = item.text("key")?;
        if let Some(why) = key_error(key) {
            return Err(item.error("key", why));
        }
        extra.push((key.to_owned(), program(&item, "valueExpression", "claims")?));
    }
    let sources =
        extra.iter().map(|(_, program)| program).chain(claim_rules.iter().map(|rule| &rule.program));
    verified(&of, &username, sources)?;
    let (groups, uid) = (source(&of.part("groups"), true)?, source(&of.part("uid"), false)?);
    Ok(Mapping { username, groups, uid, extra, required, claim_rules, user_rules })
}

/// Whoever is called by an address of mail must have shown that it is theirs.
fn verified<'a>(
    of: &Part<'_>,
    username: &Source,
    others: impl Iterator<Item = &'a Program>,
) -> Result<(), ConfigError> {
    let Source::Expression(program) = username else { return Ok(()) };
    let uses = |program: &Program| program.source().contains("email_verified");
    let mail = program.source().replace("email_verified", "").contains("claims.email");
    if mail && !uses(program) && !others.into_iter().any(uses) {
        let why =
            "claims.email must be used with claims.email_verified here, in extra or in claimValidationRules";
        return Err(of.part("username").error("expression", why));
    }
    Ok(())
}

fn source(part: &Part<'_>, prefixed: bool) -> Result<Option<Source>, ConfigError> {
    part.fields(if prefixed { &["claim", "prefix", "expression"] } else { &["claim", "expression"] })?;
    let prefix = part.part("prefix");
    match (part.text("claim")?, part.text("expression")?) {
        ("", "") => Ok(None),
        ("", _) if prefix.is_there() => Err(part.error("prefix", "prefix can't be set with expression")),
        ("", _) => Ok(Some(Source::Expression(program(part, "expression", "claims")?))),
        (_, "") if prefixed && !prefix.is_there() => Err(part.error(
            "prefix",
            "prefix is required when claim is set. It can be set to an empty string to disable prefixing",
        )),
        (claim, "") => {
            Ok(Some(Source::Claim { name: claim.to_owned(), prefix: part.text("prefix")?.to_owned() }))
        }
        _ => Err(part.error("claim", "claim and expression can't both be set")),
    }
}

fn rule(part: &Part<'_>, variable: &str) -> Result<Rule, ConfigError> {
    let program = program(part, "expression", variable)?;
    match program.result_type() {
        Type::Bool | Type::Dyn => Ok(Rule { program, message: part.text("message")?.to_owned() }),
        _ => Err(part.error("expression", "must evaluate to bool")),
    }
}

fn program(part: &Part<'_>, field: &str, variable: &str) -> Result<Program, ConfigError> {
    let source = part.text(field)?;
    if source.is_empty() {
        return Err(part.error(field, "is required"));
    }
    let map = Type::Map((Type::String, Type::Dyn).into());
    let compiled = Env::new().var_of(variable, map).compile(source);
    compiled.map_err(|issues| part.error(field, format!("compilation failed: {issues}")))
}

/// Keys of extra attributes are names within somebody's domain, in small letters.
fn key_error(key: &str) -> Option<&'static str> {
    let Some((domain, path)) = key.split_once('/') else {
        return Some("must be a domain-prefixed path (such as 'acme.io/foo')");
    };
    let reserved = ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|own| domain.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    match () {
        () if domain.is_empty() || path.is_empty() => {
            Some("must be a domain-prefixed path (such as 'acme.io/foo')")
        }
        () if key.chars().any(char::is_uppercase) => Some("key must be lowercase"),
        () if reserved => Some("the domains k8s.io and kubernetes.io are reserved"),
        () => None,
    }
}
