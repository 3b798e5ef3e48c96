//! Checks of variables: whether what is used is known.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use wharf_base::closest;
use wharf_image::{Platform, Reference};

use super::{Facts, Findings};
use crate::{
    dockerfile::{Dockerfile, Expander, Instruction, Kind, Stage},
    error::Place,
    parse_platform,
};

/// Variables known at a point of a stage; `None` when its base image is not here to tell.
type Known = Option<BTreeSet<String>>;

pub(super) fn variables(file: &Dockerfile, facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let defaults = defaults(file, facts);
    let mut ends: Vec<Known> = Vec::new();
    for (number, stage) in file.stages.iter().enumerate() {
        from(file, stage, &defaults, findings);
        base_platform(file, (stage, number), &defaults, facts, findings);
        let mut known = base_of(file, stage, number, &defaults, &ends, facts);
        for instruction in &stage.instructions {
            uses(file, instruction, &mut known, findings);
        }
        ends.push(known);
    }
}

/// Arguments before the first `FROM` with the values the file itself gives them.
fn defaults(file: &Dockerfile, facts: &Facts<'_>) -> BTreeMap<String, Option<String>> {
    let mut values: BTreeMap<String, Option<String>> =
        facts.arguments.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
    values.insert("TARGETSTAGE".into(), Some("default".into()));
    for instruction in &file.global_args {
        let Kind::Arg(args) = &instruction.kind else { continue };
        for (name, default) in args {
            let value = default.as_ref().map(|text| expanded(file, text, &values).0);
            values.insert(name.clone(), value);
        }
    }
    values
}

/// The text with values put in, and the names that have none.
fn expanded(
    file: &Dockerfile,
    text: &str,
    values: &BTreeMap<String, Option<String>>,
) -> (String, Vec<String>) {
    let missing = RefCell::new(Vec::new());
    let look = |name: &str| {
        let found = values.get(name);
        if found.is_none() {
            missing.borrow_mut().push(name.to_owned());
        }
        found.cloned().flatten()
    };
    let text = Expander::new(file.escape).text(text, &look).unwrap_or_default();
    (text, missing.into_inner())
}

fn from(
    file: &Dockerfile,
    stage: &Stage,
    defaults: &BTreeMap<String, Option<String>>,
    findings: &mut Findings<'_>,
) {
    let platform = stage.from.platform.as_deref().unwrap_or_default();
    for text in [stage.from.base.as_str(), platform] {
        for name in expanded(file, text, defaults).1 {
            let near = did_you_mean(&name, defaults.keys());
            let what = format!("the argument '{name}' is not declared before the first FROM{near}");
            findings.add("UndefinedArgInFrom", stage.place, what);
        }
    }
    let (base, missing) = expanded(file, &stage.from.base, defaults);
    let is_usable = base == "scratch" || base.parse::<Reference>().is_ok();
    if stage.from.base.contains('$') && missing.is_empty() && !is_usable {
        let what =
            format!("without --build-arg, '{}' names no image; give its ARG a default", stage.from.base);
        findings.add("InvalidDefaultArgInFrom", stage.place, what);
    }
    if matches!(platform, "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
        let what = format!("--platform={platform} says what holds anyway; leave it out");
        findings.add("RedundantTargetPlatform", stage.place, what);
    } else if !platform.is_empty() && !platform.contains('$') {
        let name = stage.from.name.as_deref().unwrap_or_default();
        // What is no platform fails later.
        let parsed = parse_platform(platform).ok();
        let is_named = |parsed: &Platform| name.contains(&parsed.os) || name.contains(&parsed.architecture);
        if parsed.is_some_and(|parsed| !is_named(&parsed)) {
            let what = format!(
                "--platform={platform} ties the stage to one platform; use $BUILDPLATFORM or leave it out"
            );
            findings.add("FromPlatformFlagConstDisallowed", stage.place, what);
        }
    }
}

/// Whether a base image that is here is for the platform the stage is for.
fn base_platform(
    file: &Dockerfile,
    (stage, number): (&Stage, usize),
    defaults: &BTreeMap<String, Option<String>>,
    facts: &Facts<'_>,
    findings: &mut Findings<'_>,
) {
    let (base, _) = expanded(file, &stage.from.base, defaults);
    if base == "scratch" || (facts.contexts)(&base) || file.stage(&base, number).is_some() {
        return;
    }
    let wanted = stage.from.platform.as_deref().unwrap_or("$TARGETPLATFORM");
    let Ok(wanted) = parse_platform(&expanded(file, wanted, defaults).0) else { return };
    if let Some(other) = (facts.other_platform)(&base, &wanted) {
        let what = format!("the base image '{base}' is for {other}, and this build is for {wanted}");
        findings.add("InvalidBaseImagePlatform", stage.place, what);
    }
}

fn base_of(
    file: &Dockerfile,
    stage: &Stage,
    number: usize,
    defaults: &BTreeMap<String, Option<String>>,
    ends: &[Known],
    facts: &Facts<'_>,
) -> Known {
    let (base, _) = expanded(file, &stage.from.base, defaults);
    if (facts.contexts)(&base) {
        return None;
    }
    if let Some(known) = file.stage(&base, number).and_then(|number| ends.get(number)) {
        return known.clone();
    }
    let mut known: BTreeSet<String> = match base.as_str() {
        "scratch" => BTreeSet::new(),
        image => (facts.base)(image)?.into_iter().collect(),
    };
    known.insert("PATH".into());
    Some(known)
}

fn uses(file: &Dockerfile, instruction: &Instruction, known: &mut Known, findings: &mut Findings<'_>) {
    let Some(known) = known else { return };
    let place = instruction.place;
    let mut check = |texts: &[&str], known: &BTreeSet<String>| {
        texts.iter().for_each(|text| undefined(file, text, known, place, findings));
    };
    match &instruction.kind {
        Kind::Arg(args) => {
            for (name, default) in args {
                check(&[default.as_deref().unwrap_or_default()], known);
                known.insert(name.clone());
            }
        }
        Kind::Env(pairs) => {
            pairs.iter().for_each(|(name, value)| check(&[name, value], known));
            known.extend(pairs.iter().map(|(name, _)| name.clone()));
        }
        Kind::Label(pairs) => pairs.iter().for_each(|(name, value)| check(&[name, value], known)),
        Kind::Workdir(text) | Kind::User(text) | Kind::StopSignal(text) => check(&[text], known),
        Kind::Expose(texts) | Kind::Volume(texts) => texts.iter().for_each(|text| check(&[text], known)),
        Kind::Copy(copy) => {
            let options = [&copy.chown, &copy.chmod, &copy.checksum].into_iter().flatten();
            let texts = copy.sources.iter().chain([&copy.target]).chain(options).chain(&copy.exclude);
            texts.for_each(|text| check(&[text], known));
        }
        Kind::Run(run) => run.mounts.iter().for_each(|text| check(&[text], known)),
        _ => {}
    }
}

fn undefined(
    file: &Dockerfile,
    text: &str,
    known: &BTreeSet<String>,
    place: Place,
    findings: &mut Findings<'_>,
) {
    let values: BTreeMap<String, Option<String>> =
        known.iter().map(|name| (name.clone(), Some(String::new()))).collect();
    for name in expanded(file, text, &values).1 {
        let what = format!("the variable '${name}' is not defined here{}", did_you_mean(&name, known.iter()));
        findings.add("UndefinedVar", place, what);
    }
}

fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    closest(name, known.map(String::as_str)).map_or(String::new(), |near| format!("; did you mean {near}?"))
}
