//! Which requests are written down, and how much of them.
//!
//! Source: `audit.k8s.io/v1` Policy and how Kubernetes evaluates it.

use crate::{
    Identity,
    configuration::{ConfigError, Part, document},
    request::RequestInfo,
};

/// How much of a request is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::None, Self::Metadata, Self::Request, Self::RequestResponse]
            .into_iter()
            .find(|l| l.name() == name)
    }
}

/// A moment of a request at which it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    const ALL: [Self; 4] =
        [Self::RequestReceived, Self::ResponseStarted, Self::ResponseComplete, Self::Panic];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// Rules in order; the first that fits counts.
#[derive(Debug)]
pub(super) struct Policy {
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Debug)]
struct Rule {
    level: Level,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    paths: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug)]
struct Resources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

/// What the policy wants of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

impl Policy {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let value = document(text, "Policy", &["audit.k8s.io/v1"])?;
        let whole = Part::whole(&value);
        whole.fields(&["apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"])?;
        let rules = whole.items("rules")?.iter().map(Rule::parse).collect::<Result<Vec<_>, _>>()?;
        if rules.is_empty() {
            return Err(whole.error("rules", "there must be one at least"));
        }
        Ok(Self {
            rules,
            omit_stages: stages(&whole)?,
            omit_managed_fields: whole.flag("omitManagedFields")?.unwrap_or_default(),
        })
    }

    /// What is wanted of a request by somebody, or by somebody who could not show who they are.
    pub(super) fn wants(&self, info: &RequestInfo, who: Option<&Identity>) -> Wanted {
        let found = self.rules.iter().find(|rule| rule.fits(info, who));
        let mut omit_stages = self.omit_stages.clone();
        omit_stages.extend(found.into_iter().flat_map(|rule| rule.omit_stages.iter().copied()));
        let own = found.and_then(|rule| rule.omit_managed_fields);
        Wanted {
            level: found.map_or(Level::None, |rule| rule.level),
            omit_stages,
            omit_managed_fields: own.unwrap_or(self.omit_managed_fields),
        }
    }
}

fn stages(part: &Part<'_>) -> Result<Vec<Stage>, ConfigError> {
    let stage = |name: &String| {
        let known = Stage::ALL.into_iter().find(|stage| stage.name() == name);
        let names = Stage::ALL.map(Stage::name).join(", ");
        known.ok_or_else(|| part.error("omitStages", format!("{name:?} is no stage; stages are {names}")))
    };
    part.texts("omitStages")?.iter().map(stage).collect()
}

impl Rule {
    fn parse(part: &Part<'_>) -> Result<Self, ConfigError> {
        part.fields(&[
            "level",
            "users",
            "userGroups",
            "verbs",
            "resources",
            "namespaces",
            "nonResourceURLs",
            "omitStages",
            "omitManagedFields",
        ])?;
        let name = part.text("level")?;
        let unknown =
            || part.error("level", format!("{name:?} is not None, Metadata, Request or RequestResponse"));
        let rule = Self {
            level: Level::parse(name).ok_or_else(unknown)?,
            users: part.texts("users")?,
            groups: part.texts("userGroups")?,
            verbs: part.texts("verbs")?,
            resources: part.items("resources")?.iter().map(Resources::parse).collect::<Result<_, _>>()?,
            namespaces: part.texts("namespaces")?,
            paths: part.texts("nonResourceURLs")?,
            omit_stages: stages(part)?,
            omit_managed_fields: part.flag("omitManagedFields")?,
        };
        let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
        if of_resources && !rule.paths.is_empty() {
            let why = "a rule cannot apply to both resources and other URLs; make two of it";
            return Err(part.error("nonResourceURLs", why));
        }
        let wrong = |path: &&String| {
            let inner = path.strip_suffix('*').unwrap_or(path);
            inner.contains('*') || !(path.starts_with('/') || *path == "*")
        };
        match rule.paths.iter().find(wrong) {
            None => Ok(rule),
            Some(path) => Err(part.error(
                "nonResourceURLs",
                format!("{path:?} must be '*' or begin with '/', and have a '*' only at its end"),
            )),
        }
    }

    fn fits(&self, info: &RequestInfo, who: Option<&Identity>) -> bool {
        let any =
            |list: &[String], wanted: &dyn Fn(&String) -> bool| list.is_empty() || list.iter().any(wanted);
        let user = |name: &String| who.is_some_and(|who| who.user == *name);
        let group = |name: &String| who.is_some_and(|who| who.groups.contains(name));
        let by = any(&self.users, &user)
            && any(&self.groups, &group)
            && any(&self.verbs, &|verb| verb == info.verb || verb == "*");
        if !by {
            return false;
        }
        match () {
            () if !self.resources.is_empty() || !self.namespaces.is_empty() => self.fits_resource(info),
            () if !self.paths.is_empty() => self.fits_path(info),
            () => true,
        }
    }

    fn fits_resource(&self, info: &RequestInfo) -> bool {
        let within = self.namespaces.is_empty() || self.namespaces.contains(&info.namespace);
        !info.resource.is_empty()
            && within
            && (self.resources.is_empty() || self.resources.iter().any(|resources| resources.fit(info)))
    }

    fn fits_path(&self, info: &RequestInfo) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => info.path.starts_with(prefix),
            None => *pattern == info.path,
        };
        info.resource.is_empty() && self.paths.iter().any(fits)
    }
}

impl Resources {
    fn parse(part: &Part<'_>) -> Result<Self, ConfigError> {
        part.fields(&["group", "resources", "resourceNames"])?;
        let (group, resources) = (part.text("group")?.to_owned(), part.texts("resources")?);
        let names = part.texts("resourceNames")?;
        if group.contains('/') {
            return Err(
                part.error("group", format!("{group:?} is a group with a version; leave the version away"))
            );
        }
        if !names.is_empty() && resources.is_empty() {
            return Err(part.error("resourceNames", "using resourceNames requires at least one resource"));
        }
        Ok(Self { group, resources, names })
    }

    fn fit(&self, info: &RequestInfo) -> bool {
        if self.group != info.group {
            return false;
        }
        let (resource, sub) = (info.resource.as_str(), info.subresource.as_str());
        let named = self.names.is_empty() || self.names.contains(&info.name);
        let is = |pattern: &String| match pattern.split_once('/') {
            None => pattern == "*" || (sub.is_empty() && pattern == resource),
            Some(("*", wanted)) => !sub.is_empty() && wanted == sub,
            Some((of, "*")) => of == resource,
            Some((of, wanted)) => of == resource && wanted == sub,
        };
        self.resources.is_empty() || (named && self.resources.iter().any(is))
    }
}
