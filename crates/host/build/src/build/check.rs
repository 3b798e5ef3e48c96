//! `--check`, and the warnings of every build.

use wharf_image::Platform;

use super::{
    contexts::named,
    executor::platforms,
    image::other_platform,
    inputs::{prepare_context, read_dockerfile, read_ignore},
    plan::platform_args,
    request::{BuildRequest, Builder},
};
use crate::{
    dockerfile::{Checks, Dockerfile, Facts, Warning, lint, skip_by_instruction, wanted},
    error::{Place, Result},
    ignore::Ignore,
};

/// What checking a Dockerfile found.
#[derive(Debug, Clone)]
pub struct CheckReport {
    /// The Dockerfile's name.
    pub file: String,
    /// Its text.
    pub text: String,
    /// What was found, in the order of the file.
    pub warnings: Vec<Warning>,
}

/// Reads and checks the Dockerfile; nothing is built.
pub(crate) fn check(builder: &Builder, mut request: BuildRequest) -> Result<CheckReport> {
    let temp = builder.workspace.temp()?;
    let context = prepare_context(builder, &mut request, &temp)?;
    let (name, text) = read_dockerfile(&request.dockerfile, &context.folder)?;
    let found = Dockerfile::parse(&text).and_then(|file| {
        let ignore = read_ignore(&request.dockerfile, &context.folder)?;
        findings(builder, &request, &file, &ignore)
    });
    let (_, warnings) = found.map_err(|error| error.of(&name))?;
    Ok(CheckReport { file: name, text, warnings })
}

/// The checks that are wanted, and what they found.
pub(super) fn findings(
    builder: &Builder,
    request: &BuildRequest,
    file: &Dockerfile,
    ignore: &Ignore,
) -> Result<(Checks, Vec<Warning>)> {
    let checks = match request.args.get("BUILDKIT_DOCKERFILE_CHECK") {
        Some(text) => Checks::parse(text)?,
        None => file.checks()?,
    };
    let names = |name: &str| {
        let (_, target) = builder.images.find(name).ok()?;
        let image = builder.images.resolve_descriptor(&target).ok()?;
        let of = |setting: &String| setting.split_once('=').map(|(name, _)| name.to_owned());
        Some(image.config.config.env.iter().filter_map(of).collect())
    };
    let contexts = |name: &str| named(&request.contexts, name).is_some();
    let mut found = wanted(&file.warnings, &checks);
    if let Some(what) = checks.unknown() {
        found.push(Warning { place: Place { line: 1, end: 1 }, rule: None, what });
    }
    let other_platform = |name: &str, wanted: &Platform| other_platform(&builder.images, name, wanted);
    for platform in platforms(request) {
        let arguments = platform_args(&platform);
        let facts = Facts {
            base: &names,
            ignore,
            contexts: &contexts,
            arguments: &arguments,
            other_platform: &other_platform,
        };
        for warning in lint(file, &checks, &facts) {
            if !found.contains(&warning) {
                found.push(warning);
            }
        }
    }
    skip_by_instruction(file, &mut found);
    found.sort_by_key(|warning| warning.place.line);
    Ok((checks, found))
}

pub(super) fn told(name: &str, warning: &Warning) -> String {
    let rule = warning.rule.map_or(String::new(), |rule| format!("{rule}: "));
    format!("{name}:{}: {rule}{}", warning.place.line, warning.what)
}
