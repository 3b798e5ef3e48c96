//! Who a token's claims speak of.
//!
//! Source: Kubernetes' structured authentication configuration (`apiserver.config.k8s.io/v1`).

use serde_json::{Value, json};
use wharf_cel::{Activation, Budget, PER_CALL_LIMIT, Program};

use super::Identity;

/// Where a text of a user comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A claim, behind a prefix.
    Claim { name: String, prefix: String },
    /// What an expression over `claims` gives.
    Expression(Program),
}

/// A condition an expression states, and what is said when it does not hold.
#[derive(Debug)]
pub(crate) struct Rule {
    pub program: Program,
    pub message: String,
}

/// How claims become a user.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub username: Source,
    pub groups: Option<Source>,
    pub uid: Option<Source>,
    pub extra: Vec<(String, Program)>,
    /// Claims that must have these values.
    pub required: Vec<(String, String)>,
    pub claim_rules: Vec<Rule>,
    pub user_rules: Vec<Rule>,
}

fn eval(program: &Program, name: &str, value: &Value) -> Result<Value, String> {
    let activation = Activation::new().any(name, value);
    let mut budget = Budget::new(PER_CALL_LIMIT);
    let evaluated = program.eval(&activation, &mut budget).map_err(|error| error.to_string())?;
    evaluated.value.to_json().map_err(|error| error.to_string())
}

fn holds(rules: &[Rule], name: &str, value: &Value) -> Result<(), String> {
    for rule in rules {
        if eval(&rule.program, name, value)? != Value::Bool(true) {
            let said = &rule.message;
            return Err(match said.is_empty() {
                true => format!("validation expression '{}' failed", rule.program.source()),
                false => format!("validation expression '{}' failed: {said}", rule.program.source()),
            });
        }
    }
    Ok(())
}

fn text(value: &Value, what: &str) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("{what} is no text"))
}

/// A text or a list of texts, without empty ones.
fn texts(value: &Value, what: &str) -> Result<Vec<String>, String> {
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list.iter().map(|item| text(item, what)).collect::<Result<Vec<_>, _>>()?,
        one => vec![text(one, what)?],
    };
    Ok(list.into_iter().filter(|text| !text.is_empty()).collect())
}

impl Mapping {
    /// The user of verified claims.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn identity(&self, claims: &Value) -> Result<Identity, String> {
        let mut identity = Identity::new(self.username(claims)?, &[]);
        identity.groups = self.groups(claims)?;
        identity.uid = match &self.uid {
            None => String::new(),
            Some(Source::Claim { name, .. }) => text(&claims[name], &format!("claim {name:?}"))?,
            Some(Source::Expression(program)) => text(&eval(program, "claims", claims)?, "uid")?,
        };
        if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
            let id = vec![format!("JTI={id}")];
            identity.extra.push(("authentication.kubernetes.io/credential-id".into(), id));
        }
        for (key, program) in &self.extra {
            let values = texts(&eval(program, "claims", claims)?, key)?;
            if !values.is_empty() {
                identity.extra.push((key.clone(), values));
            }
        }
        for (name, wanted) in &self.required {
            if claims[name] != wanted.as_str() {
                return Err(format!("required claim {name} value does not match"));
            }
        }
        holds(&self.claim_rules, "claims", claims)?;
        if !self.user_rules.is_empty() {
            let mut user = json!({"uid": "", "extra": {}});
            for (field, value) in identity.to_json().as_object().into_iter().flatten() {
                user[field] = value.clone();
            }
            holds(&self.user_rules, "user", &user)?;
        }
        identity.groups.push("system:authenticated".into());
        Ok(identity)
    }

    fn username(&self, claims: &Value) -> Result<String, String> {
        let name = match &self.username {
            Source::Expression(program) => text(&eval(program, "claims", claims)?, "username")?,
            Source::Claim { name, prefix } => {
                // OpenID Connect Core 1.0, section 5.1.
                let verified = claims.get("email_verified").filter(|_| name == "email");
                if verified.is_some_and(|verified| *verified != Value::Bool(true)) {
                    return Err("email not verified".into());
                }
                let claim = text(&claims[name], &format!("claim {name:?}"))?;
                if claim.is_empty() { claim } else { format!("{prefix}{claim}") }
            }
        };
        if name.is_empty() { Err("the username is empty".into()) } else { Ok(name) }
    }

    fn groups(&self, claims: &Value) -> Result<Vec<String>, String> {
        match &self.groups {
            None => Ok(Vec::new()),
            Some(Source::Expression(program)) => texts(&eval(program, "claims", claims)?, "groups"),
            Some(Source::Claim { name, prefix }) => {
                // Nobody is let in without groups that may be what keeps them out.
                if claims.get(name).is_none() && claims["_claim_names"].get(name).is_some() {
                    return Err(format!(
                        "claim {name:?} is a distributed claim (_claim_names), which is not supported: let the provider put it into the token"
                    ));
                }
                let groups = texts(&claims[name], &format!("claim {name:?}"))?;
                Ok(groups.into_iter().map(|group| format!("{prefix}{group}")).collect())
            }
        }
    }
}
