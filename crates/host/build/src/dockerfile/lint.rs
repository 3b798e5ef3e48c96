//! Checks of a Dockerfile that is valid and yet not what people mean. Their names are BuildKit's.

mod names;
mod rules;

use std::collections::BTreeMap;

use wharf_base::closest;
use wharf_image::Platform;

use super::{Dockerfile, Warning};
use crate::{
    error::{Error, Place, Result},
    ignore::Ignore,
};

/// The checks there are.
const RULES: [&str; 22] = [
    "StageNameCasing",
    "FromAsCasing",
    "NoEmptyContinuation",
    "ConsistentInstructionCasing",
    "DuplicateStageName",
    "ReservedStageName",
    "JSONArgsRecommended",
    "MaintainerDeprecated",
    "UndefinedArgInFrom",
    "WorkdirRelativePath",
    "UndefinedVar",
    "MultipleInstructionsDisallowed",
    "LegacyKeyValueFormat",
    "InvalidBaseImagePlatform",
    "RedundantTargetPlatform",
    "SecretsUsedInArgOrEnv",
    "InvalidDefaultArgInFrom",
    "FromPlatformFlagConstDisallowed",
    "CopyIgnoredFile",
    "InvalidDefinitionDescription",
    "ExposeProtoCasing",
    "ExposeInvalidFormat",
];

/// Those that run only where they are asked for.
const EXPERIMENTAL: [&str; 1] = ["InvalidDefinitionDescription"];

/// What `# check=` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Checks {
    skip_all: bool,
    skip: Vec<String>,
    experimental_all: bool,
    experimental: Vec<String>,
    /// Whether a finding fails the build.
    pub(crate) error: bool,
}

impl Checks {
    /// Reads `skip=A,B;error=true`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut checks = Self::default();
        for option in text.split(';').map(str::trim).filter(|option| !option.is_empty()) {
            let bad = || {
                Error::invalid(format!("the check option '{option}' cannot be read"))
                    .hint("write skip=NAME,NAME or skip=all, and error=true, separated by ';'")
            };
            let (key, value) = option.split_once('=').ok_or_else(bad)?;
            match (key.trim(), value.trim()) {
                ("skip", "all") => checks.skip_all = true,
                ("skip", names) => checks.skip.extend(names.split(',').map(|name| name.trim().to_owned())),
                ("error", "true" | "1") => checks.error = true,
                ("error", "false" | "0") => checks.error = false,
                ("experimental", "all") => checks.experimental_all = true,
                ("experimental", names) => {
                    checks.experimental.extend(names.split(',').map(|name| name.trim().to_owned()));
                }
                _ => return Err(bad()),
            }
        }
        Ok(checks)
    }

    /// Names that are no checks, with what may be meant.
    pub(crate) fn unknown(&self) -> Option<String> {
        let name = self.skip.iter().chain(&self.experimental).find(|name| !RULES.contains(&name.as_str()))?;
        let near = closest(name, RULES).map_or(String::new(), |near| format!("; did you mean {near}?"));
        Some(format!("there is no check '{name}'{near}"))
    }

    fn wants(&self, rule: &str) -> bool {
        let is_named = |names: &[String]| names.iter().any(|name| name == rule);
        match EXPERIMENTAL.contains(&rule) {
            true => self.experimental_all || is_named(&self.experimental),
            false => !self.skip_all && !is_named(&self.skip),
        }
    }
}

/// What the checks need to know besides the file.
pub(crate) struct Facts<'a> {
    /// Names of the variables a base image sets; `None` when the image is not here.
    pub(crate) base: &'a dyn Fn(&str) -> Option<Vec<String>>,
    /// What the context leaves out.
    pub(crate) ignore: &'a Ignore,
    /// Contexts the caller named.
    pub(crate) contexts: &'a dyn Fn(&str) -> bool,
    /// Arguments every build has before its first `FROM`: `TARGETPLATFORM` and the like.
    pub(crate) arguments: &'a BTreeMap<String, String>,
    /// What an image is for when it is not for this platform.
    pub(crate) other_platform: &'a dyn Fn(&str, &Platform) -> Option<Platform>,
}

/// Everything found, in the order of the file.
pub(crate) fn lint(file: &Dockerfile, checks: &Checks, facts: &Facts<'_>) -> Vec<Warning> {
    let mut findings = Findings { checks, found: Vec::new() };
    rules::casing(file, &mut findings);
    rules::stages(file, &mut findings);
    rules::instructions(file, facts, &mut findings);
    rules::descriptions(file, &mut findings);
    names::variables(file, facts, &mut findings);
    let mut found = findings.found;
    found.sort_by_key(|warning: &Warning| warning.place.line);
    found.dedup();
    found
}

struct Findings<'a> {
    checks: &'a Checks,
    found: Vec<Warning>,
}

impl Findings<'_> {
    fn add(&mut self, rule: &'static str, place: Place, what: String) {
        debug_assert!(RULES.contains(&rule), "{rule}");
        if self.checks.wants(rule) {
            self.found.push(Warning { place, rule: Some(rule), what });
        }
    }
}

/// Takes out what the comment above an instruction says to skip there.
pub(crate) fn skip_by_instruction(file: &Dockerfile, found: &mut Vec<Warning>) {
    for (line, above) in &file.comments {
        let Some(text) = &above.check else { continue };
        // A comment that means something else, as anywhere in a file.
        let Ok(checks) = Checks::parse(text) else { continue };
        found.retain(|warning| {
            warning.place.line != *line
                || warning.rule.is_none_or(|rule| is_experiment(rule) || checks.wants(rule))
        });
    }
}

fn is_experiment(rule: &str) -> bool {
    EXPERIMENTAL.contains(&rule)
}

/// Of the findings of reading, those that are wanted.
pub(crate) fn wanted(warnings: &[Warning], checks: &Checks) -> Vec<Warning> {
    let is_wanted = |warning: &&Warning| warning.rule.is_none_or(|rule| checks.wants(rule));
    warnings.iter().filter(is_wanted).cloned().collect()
}

#[cfg(test)]
#[path = "lint_tests.rs"]
mod tests;
