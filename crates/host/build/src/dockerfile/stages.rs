//! Instructions to stages.

use std::collections::BTreeMap;

use super::{
    Checks,
    instruction::{self, From, Instruction, Kind},
    lines::{self, Above},
};
use crate::error::{Error, Place, Result};

/// A Dockerfile, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Dockerfile {
    /// The escape character.
    pub escape: char,
    /// `ARG` before the first `FROM`.
    pub global_args: Vec<Instruction>,
    /// The stages in order; at least one.
    pub stages: Vec<Stage>,
    /// `# check=`.
    pub check: Option<String>,
    /// Comments right above instructions, by the instruction's first line.
    pub(crate) comments: BTreeMap<usize, Above>,
    /// What is odd but not wrong.
    pub warnings: Vec<Warning>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Its `FROM`.
    pub from: From,
    /// Where that stands.
    pub place: Place,
    /// The line as written.
    pub text: String,
    /// What follows it.
    pub instructions: Vec<Instruction>,
}

/// Something odd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// The check that found it, by BuildKit's name; none when reading itself did.
    pub rule: Option<&'static str>,
    /// What.
    pub what: String,
}

impl Dockerfile {
    /// Reads a Dockerfile.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = lines::split(text)?;
        let mut file = Self {
            escape: lines.escape,
            global_args: Vec::new(),
            stages: Vec::new(),
            check: lines.check.clone(),
            comments: lines.comments.clone(),
            warnings: warnings(&lines),
        };
        for line in lines.lines {
            let odd = instruction::exec_form_warning(&line);
            file.warnings.extend(odd.map(|what| Warning { place: line.place, rule: None, what }));
            file.add(instruction::parse(line, lines.escape)?)?;
        }
        if file.stages.is_empty() {
            return Err(Error::invalid("there is no FROM").hint("name the image to start from: FROM IMAGE"));
        }
        Ok(file)
    }

    fn add(&mut self, instruction: Instruction) -> Result<()> {
        let place = instruction.place;
        match instruction.kind {
            Kind::From(from) => {
                self.stages.push(Stage { from, place, text: instruction.text, instructions: Vec::new() });
            }
            Kind::Arg(_) if self.stages.is_empty() => self.global_args.push(instruction),
            _ => match self.stages.last_mut() {
                Some(stage) => {
                    if let Kind::Maintainer(_) = instruction.kind {
                        let what = "MAINTAINER is deprecated; use LABEL org.opencontainers.image.authors=…";
                        self.warnings.push(Warning {
                            place,
                            rule: Some("MaintainerDeprecated"),
                            what: what.into(),
                        });
                    }
                    stage.instructions.push(instruction);
                }
                None => {
                    return Err(Error::invalid("there is no FROM before this instruction")
                        .hint("only ARG may stand before the first FROM")
                        .at(place));
                }
            },
        }
        Ok(())
    }

    /// The stage a name or number means, looked for among the first `before`.
    pub fn stage(&self, name: &str, before: usize) -> Option<usize> {
        let before = before.min(self.stages.len());
        let named = |stage: &Stage| stage.from.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name));
        // Of several stages of one name, the last one counts.
        let stages = self.stages.get(..before).unwrap_or_default();
        stages.iter().rposition(named).or_else(|| name.parse().ok().filter(|number| *number < before))
    }

    /// The checks `# check=` asks for.
    pub(crate) fn checks(&self) -> Result<Checks> {
        Checks::parse(self.check.as_deref().unwrap_or_default())
            .map_err(|error| error.at(Place { line: 1, end: 1 }))
    }

    /// Reads the instructions an image holds for its children.
    pub(crate) fn parse_triggers(triggers: &[String]) -> Result<Vec<Instruction>> {
        let mut found = Vec::new();
        for trigger in triggers {
            let wrap = |error: Error| {
                Error::invalid(format!("the base image's ONBUILD '{trigger}' cannot be used: {}", error.what))
            };
            let lines = lines::split(trigger).map_err(wrap)?;
            for line in lines.lines {
                let instruction = instruction::parse(line, lines.escape).map_err(wrap)?;
                if matches!(instruction.kind, Kind::From(_) | Kind::OnBuild(_) | Kind::Maintainer(_)) {
                    return Err(wrap(Error::invalid("it is not allowed there")));
                }
                found.push(instruction);
            }
        }
        Ok(found)
    }
}

fn is_dockers(syntax: &str) -> bool {
    let name = syntax.split([':', '@']).next().unwrap_or(syntax);
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream")
}

fn warnings(lines: &lines::Lines) -> Vec<Warning> {
    let mut found = Vec::new();
    let first = Place { line: 1, end: 1 };
    // Docker's own front ends say what this one does; only another language would be read wrongly.
    if let Some(syntax) = lines.syntax.as_ref().filter(|syntax| !is_dockers(syntax)) {
        let what = format!("'# syntax={syntax}' is ignored: wharf has one front end, its own");
        found.push(Warning { place: first, rule: None, what });
    }
    found.extend(lines.empty_continuations.iter().map(|place| Warning {
        place: *place,
        rule: Some("NoEmptyContinuation"),
        what: "an instruction has a blank line in it; Docker will refuse this one day".into(),
    }));
    found
}
