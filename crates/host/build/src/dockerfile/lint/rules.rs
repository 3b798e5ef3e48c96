//! Checks of single instructions and of stages.

use std::path::Path;

use super::{Facts, Findings};
use crate::{
    dockerfile::{Copy, Dockerfile, Instruction, Kind, Stage},
    error::Place,
    ignore::clean,
};

/// The first word of a line as it is written.
fn keyword(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

fn is_lower(word: &str) -> bool {
    !word.contains(char::is_uppercase)
}

fn is_upper(word: &str) -> bool {
    !word.contains(char::is_lowercase)
}

/// Every line's first word with its place.
fn keywords(file: &Dockerfile) -> impl Iterator<Item = (&str, Place)> {
    file.stages.iter().flat_map(|stage| {
        let own = stage.instructions.iter().map(|i| (keyword(&i.text), i.place));
        std::iter::once((keyword(&stage.text), stage.place)).chain(own)
    })
}

pub(super) fn casing(file: &Dockerfile, findings: &mut Findings<'_>) {
    let lower = keywords(file).filter(|(word, _)| is_lower(word)).count();
    let upper = keywords(file).filter(|(word, _)| is_upper(word)).count();
    for (word, place) in keywords(file) {
        let wanted = match lower > upper {
            true if !is_lower(word) => "lower case",
            false if !is_upper(word) => "upper case",
            _ => continue,
        };
        let what = format!("'{word}' stands out: most instructions of this file are written in {wanted}");
        findings.add("ConsistentInstructionCasing", place, what);
    }
}

pub(super) fn stages(file: &Dockerfile, findings: &mut Findings<'_>) {
    for (number, stage) in file.stages.iter().enumerate() {
        let Some(name) = &stage.from.name else { continue };
        name_as_written(stage, findings);
        if matches!(name.as_str(), "context" | "scratch") {
            let what = format!("the stage has the name '{name}', which means something else already");
            findings.add("ReservedStageName", stage.place, what);
        }
        let before = file.stages.iter().take(number).find(|other| other.from.name.as_ref() == Some(name));
        if let Some(before) = before {
            let what = format!(
                "line {} begins a stage '{name}' too; from here on, this one is meant",
                before.place.line
            );
            findings.add("DuplicateStageName", stage.place, what);
        }
    }
}

fn name_as_written(stage: &Stage, findings: &mut Findings<'_>) {
    let words: Vec<&str> = stage.text.split_whitespace().collect();
    let [.., word_as, name] = words.as_slice() else { return };
    if !is_lower(name) {
        let what =
            format!("the name of the stage '{name}' has upper case in it; write '{}'", name.to_lowercase());
        findings.add("StageNameCasing", stage.place, what);
    }
    let from = keyword(&stage.text);
    let fits = match (is_lower(from), is_upper(from)) {
        (true, _) => is_lower(word_as),
        (_, true) => is_upper(word_as),
        _ => true,
    };
    if !fits {
        let what =
            format!("'{from}' and '{word_as}' are written differently; use upper or lower case for both");
        findings.add("FromAsCasing", stage.place, what);
    }
}

/// A comment right above `FROM … AS NAME` or `ARG NAME` describes it, and begins with its name.
pub(super) fn descriptions(file: &Dockerfile, findings: &mut Findings<'_>) {
    let mut check = |instruction: &str, names: &[&str], place: Place| {
        let above = file.comments.get(&place.line).and_then(|above| above.described.as_deref());
        let Some(described) = above.filter(|described| !names.contains(described)) else { return };
        let what = format!(
            "the comment above this {instruction} begins with '{described}', not with the name it describes; \
             write '# {} …', or a blank line between them",
            if let [name] = names { name } else { "NAME" }
        );
        findings.add("InvalidDefinitionDescription", place, what);
    };
    let arguments = |args: &[(String, Option<String>)]| -> Vec<String> {
        args.iter().map(|(name, _)| name.clone()).collect()
    };
    let own = file.stages.iter().flat_map(|stage| &stage.instructions);
    for instruction in file.global_args.iter().chain(own) {
        let Kind::Arg(args) = &instruction.kind else { continue };
        let names = arguments(args);
        check("ARG", &names.iter().map(String::as_str).collect::<Vec<_>>(), instruction.place);
    }
    for stage in &file.stages {
        if let Some(name) = &stage.from.name {
            check("FROM", &[name], stage.place);
        }
    }
}

/// What a stage has had so far.
#[derive(Default, Clone)]
struct Seen {
    cmd: Option<Place>,
    entrypoint: Option<Place>,
    healthcheck: Option<Place>,
    workdir: bool,
    shell: bool,
}

pub(super) fn instructions(file: &Dockerfile, facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let mut ends: Vec<Seen> = Vec::new();
    for (number, stage) in file.stages.iter().enumerate() {
        let base = file.stage(&stage.from.base, number).and_then(|base| ends.get(base));
        let mut seen = base.map_or_else(Seen::default, |base| Seen {
            workdir: base.workdir,
            shell: base.shell,
            ..Seen::default()
        });
        for instruction in &stage.instructions {
            instruction_alone(instruction, &mut seen, findings);
            if let Kind::Copy(copy) = &instruction.kind {
                ignored(copy, instruction.place, facts, findings);
            }
        }
        ends.push(seen);
    }
}

fn instruction_alone(instruction: &Instruction, seen: &mut Seen, findings: &mut Findings<'_>) {
    let place = instruction.place;
    let name = keyword(&instruction.text).to_uppercase();
    match &instruction.kind {
        Kind::Cmd(command) | Kind::Entrypoint(command) => {
            if !command.exec && !command.args.is_empty() && !seen.shell {
                let what = format!(
                    "{name} in this form runs in a shell, which keeps signals from the program; \
                     write {name} [\"PROGRAM\", \"ARGUMENT\"]"
                );
                findings.add("JSONArgsRecommended", place, what);
            }
            let slot =
                if matches!(instruction.kind, Kind::Cmd(_)) { &mut seen.cmd } else { &mut seen.entrypoint };
            once(&name, slot, place, findings);
        }
        Kind::Healthcheck(_) => once(&name, &mut seen.healthcheck, place, findings),
        Kind::Shell(_) => seen.shell = true,
        Kind::Workdir(path) => {
            let is_relative = !path.starts_with('/') && !path.starts_with('$');
            if is_relative && !std::mem::replace(&mut seen.workdir, true) {
                let what = format!("'{path}' depends on where the base image stands; begin it with '/'");
                findings.add("WorkdirRelativePath", place, what);
            }
            seen.workdir = true;
        }
        Kind::Env(pairs) | Kind::Label(pairs) => {
            // The old form has a name before the first blank that holds no '='.
            let rest = instruction.text.split_whitespace().nth(1).unwrap_or_default();
            if !rest.contains('=') && pairs.len() == 1 {
                let what = format!("the form '{name} NAME VALUE' is old; write {name} {rest}=VALUE");
                findings.add("LegacyKeyValueFormat", place, what);
            }
            if matches!(instruction.kind, Kind::Env(_)) {
                pairs.iter().for_each(|(key, _)| secret(&name, key, place, findings));
            }
        }
        Kind::Arg(args) => args.iter().for_each(|(key, _)| secret(&name, key, place, findings)),
        Kind::Expose(ports) => ports.iter().for_each(|port| expose(port, place, findings)),
        _ => {}
    }
}

fn once(name: &str, slot: &mut Option<Place>, place: Place, findings: &mut Findings<'_>) {
    if let Some(before) = slot.replace(place) {
        let what =
            format!("this {name} has no effect: line {} has another, and the last one counts", place.line);
        findings.add("MultipleInstructionsDisallowed", before, what);
    }
}

fn secret(instruction: &str, key: &str, place: Place, findings: &mut Findings<'_>) {
    const TELLING: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let lower = key.to_ascii_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|word| words.contains(&word));
    if has(&TELLING) && !has(&HARMLESS) {
        let what = format!(
            "{instruction} '{key}' looks like a secret, and everyone who has the image can read it; \
             use RUN --mount=type=secret"
        );
        findings.add("SecretsUsedInArgOrEnv", place, what);
    }
}

fn expose(port: &str, place: Place, findings: &mut Findings<'_>) {
    if port.contains('$') {
        return;
    }
    let (number, protocol) = port.split_once('/').unwrap_or((port, ""));
    if !is_lower(protocol) {
        let what = format!(
            "the protocol of '{port}' has upper case in it; write {number}/{}",
            protocol.to_lowercase()
        );
        findings.add("ExposeProtoCasing", place, what);
    }
    if number.contains(':') {
        let what =
            format!("'{port}' names an address or a port of the machine, which an image cannot choose");
        findings.add("ExposeInvalidFormat", place, what);
    }
}

fn ignored(copy: &Copy, place: Place, facts: &Facts<'_>, findings: &mut Findings<'_>) {
    if copy.from.is_some() || facts.ignore.has_exceptions() {
        return;
    }
    for source in copy.sources.iter().filter(|source| !source.contains('$') && !source.contains("://")) {
        let path = clean(&format!("/{source}"));
        let path = path.trim_start_matches('/');
        let is_out = match path {
            "" => facts.ignore.leaves_nothing(),
            path => facts.ignore.is_ignored(Path::new(path)),
        };
        if is_out {
            let name = if copy.add { "ADD" } else { "COPY" };
            let what = format!("{name} cannot find '{source}': a pattern of .dockerignore leaves it out");
            findings.add("CopyIgnoredFile", place, what);
        }
    }
}
