//! Actions built in, under the names people know.

mod artifact;
mod build;
mod checkout;
mod deploy;
mod manifests;
mod pods;
mod rollout;
mod scan;

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use wharf_base::closest;
use wharf_workflow::Position;

use crate::{job::Runner, wrong::Wrong};

/// Values an action gives back.
pub(crate) type Outputs = Vec<(String, String)>;

/// An input of a built-in action.
pub(crate) struct Input {
    name: &'static str,
    default: &'static str,
    required: bool,
    /// Accepted for the sake of workflows written elsewhere, without effect here.
    idle: bool,
    /// What is wrong with a value that is no value of it.
    check: Option<Check>,
}

type Check = fn(&str) -> Result<(), Wrong>;

const fn input(name: &'static str, default: &'static str) -> Input {
    Input { name, default, required: false, idle: false, check: None }
}

const fn required(name: &'static str) -> Input {
    Input { required: true, ..input(name, "") }
}

const fn idle(name: &'static str) -> Input {
    Input { idle: true, ..input(name, "") }
}

/// One that is true or false.
const fn flag(name: &'static str, default: &'static str) -> Input {
    Input { check: Some(|text| truth(text).map(drop)), ..input(name, default) }
}

fn truth(text: &str) -> Result<bool, Wrong> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "" | "false" => Ok(false),
        _ => Err(Wrong::hinted(
            format!("'{text}' is neither true nor false"),
            "write true or false, or leave it out",
        )),
    }
}

/// Refuses what is none of the values known.
fn one_of(known: &[&'static str], text: &str) -> Result<(), Wrong> {
    if known.contains(&text) {
        return Ok(());
    }
    let known = known.iter().copied();
    let hint = match closest(text, known.clone()) {
        Some(meant) => format!("did you mean '{meant}'?"),
        None => format!("write one of {}, or leave it out", known.collect::<Vec<_>>().join(", ")),
    };
    Err(Wrong::hinted(format!("'{text}' is no value of it"), hint))
}

/// The inputs of a call, complete.
pub(crate) struct Inputs(BTreeMap<&'static str, String>);

impl Inputs {
    /// A value; empty when it was not given and has no default.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str).trim()
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        self.get(name).lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    /// Whether one that is true or false, as was checked, is true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        truth(self.get(name)).unwrap_or(false)
    }
}

/// One use of an action.
pub(crate) struct Call<'a> {
    pub(crate) runner: &'a Runner,
    pub(crate) step: usize,
    pub(crate) inputs: Inputs,
}

impl Call<'_> {
    pub(crate) fn say(&self, line: &str) {
        self.runner.log.say(self.step, line);
    }

    /// A way to write to the log from elsewhere.
    pub(crate) fn sayer(&self) -> crate::services::Say {
        let (log, step) = (self.runner.log.clone(), self.step);
        std::sync::Arc::new(move |line: &str| log.say(step, line))
    }
}

type Run = for<'a> fn(Call<'a>) -> BoxFuture<'a, anyhow::Result<Outputs>>;

/// A built-in action.
pub(crate) struct BuiltIn {
    name: &'static str,
    inputs: &'static [Input],
    run: Run,
}

impl BuiltIn {
    pub(crate) fn run<'a>(&self, call: Call<'a>) -> BoxFuture<'a, anyhow::Result<Outputs>> {
        (self.run)(call)
    }

    /// Completes what was given; warns about what has no effect. Values that are known only later are not checked.
    ///
    /// # Errors
    /// When an input is unknown or cannot have its value, or a required one is missing.
    pub(crate) fn inputs(
        &self,
        given: &[(&str, Option<&str>)],
        warn: impl Fn(&str),
    ) -> Result<Inputs, Refused> {
        for (index, (name, _)) in given.iter().enumerate() {
            match self.inputs.iter().find(|input| input.name.eq_ignore_ascii_case(name)) {
                Some(input) if input.idle => warn(&format!("Warning: the input '{name}' has no effect here")),
                Some(_) => {}
                None => {
                    let hint = match closest(name, self.inputs.iter().map(|input| input.name)) {
                        Some(meant) => format!("did you mean '{meant}'?"),
                        None => {
                            let known: Vec<&str> =
                                self.inputs.iter().filter(|i| !i.idle).map(|i| i.name).collect();
                            format!("known are: {}", known.join(", "))
                        }
                    };
                    let wrong = Wrong::hinted(format!("{} has no input '{name}'", self.name), hint);
                    return Err(Refused { given: Some(index), wrong });
                }
            }
        }
        let mut inputs = BTreeMap::new();
        for input in self.inputs {
            let index = given.iter().position(|(name, _)| name.eq_ignore_ascii_case(input.name));
            let value = match index.and_then(|index| given.get(index)) {
                Some((_, None)) => continue,
                Some((_, Some(value))) if !value.trim().is_empty() || !input.required => *value,
                _ if input.required => {
                    return Err(Refused { given: None, wrong: missing_input(self.name, input.name) });
                }
                _ => input.default,
            };
            if let Some(Err(wrong)) = input.check.map(|check| check(value.trim())) {
                let wrong = wrong.of(&format!("{}: '{}'", self.name, input.name));
                return Err(Refused { given: index, wrong });
            }
            inputs.insert(input.name, value.to_owned());
        }
        Ok(Inputs(inputs))
    }
}

/// Why inputs are not taken.
pub(crate) struct Refused {
    /// Which of those given it is about; nothing when one is missing.
    pub(crate) given: Option<usize>,
    pub(crate) wrong: Wrong,
}

impl Refused {
    /// With its place among those of what was given.
    pub(crate) fn placed(self, places: &[Position]) -> Wrong {
        Wrong { at: self.given.and_then(|index| places.get(index)).copied(), ..self.wrong }
    }
}

/// An input that must be given is not.
pub(crate) fn missing_input(action: &str, input: &str) -> Wrong {
    Wrong::hinted(format!("{action} needs the input '{input}'"), format!("add '{input}: VALUE' under 'with'"))
}

/// All built-in actions.
pub(crate) struct Registry(Vec<BuiltIn>);

impl Registry {
    pub(crate) fn built_in() -> Self {
        Self(vec![
            checkout::ACTION,
            artifact::UPLOAD,
            artifact::DOWNLOAD,
            build::ACTION,
            scan::ACTION,
            deploy::ACTION,
        ])
    }

    /// An action by its name, whatever the version.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn get(&self, name: &str) -> Result<&BuiltIn, Wrong> {
        self.0.iter().find(|action| action.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.0.iter().map(|action| action.name).collect();
            let hint = match closest(name, known.iter().copied()) {
                Some(meant) => format!("did you mean '{meant}'?"),
                None => format!(
                    "built in are {}; others must be composite actions of the repository (uses: ./FOLDER)",
                    known.join(", ")
                ),
            };
            Wrong::hinted(format!("there is no action '{name}' here"), hint)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_told_as_soon_as_they_are_known() {
        let registry = Registry::built_in();
        for (action, input, value, message, hint) in [
            ("wharf/scan", "severity", "hihg", "'hihg' is no value of it", "did you mean 'high'?"),
            (
                "wharf/scan",
                "severity",
                "bad",
                "'bad' is no value of it",
                "write one of low, medium, high, critical",
            ),
            ("wharf/build-push", "push", "yes", "'yes' is neither true nor false", "write true or false"),
            ("wharf/deploy", "wait", "yes", "'yes' is neither true nor false", "write true or false"),
            (
                "wharf/deploy",
                "timeout-minutes",
                "NaN",
                "'NaN' is no number above 0",
                "write a number of minutes",
            ),
            ("actions/checkout", "fetch-depth", "all", "'all' is no number of commits", "0 for all"),
            ("actions/checkout", "submodules", "recursive", "'recursive' is not supported", "leave it out"),
            ("actions/checkout", "clean", "no", "'no' is neither true nor false", "write true or false"),
            (
                "actions/upload-artifact",
                "if-no-files-found",
                "eror",
                "'eror' is no value of it",
                "mean 'error'?",
            ),
            (
                "actions/upload-artifact",
                "name",
                "a/b",
                "'a/b' cannot be the name of an artifact",
                "begin with",
            ),
            (
                "actions/upload-artifact",
                "overwrite",
                "1",
                "'1' is neither true nor false",
                "write true or false",
            ),
            (
                "actions/download-artifact",
                "merge-multiple",
                "1",
                "'1' is neither true nor false",
                "write true",
            ),
        ] {
            let built_in = registry.get(action).unwrap();
            let mut given: Vec<_> =
                built_in.inputs.iter().filter(|i| i.required).map(|i| (i.name, Some("x"))).collect();
            given.push((input, Some(value)));
            let refused =
                built_in.inputs(&given, |_| {}).err().unwrap_or_else(|| panic!("{action}: {input}"));
            assert_eq!(refused.given, Some(given.len() - 1));
            assert_eq!(refused.wrong.message, format!("{action}: '{input}': {message}"));
            assert!(refused.wrong.hint.clone().unwrap().contains(hint), "{}", refused.wrong);
            // What an expression gives is known only when the step runs.
            given.pop();
            given.push((input, None));
            assert!(built_in.inputs(&given, |_| {}).is_ok());
        }
        // What is not given is good as it is.
        for action in &registry.0 {
            let given: Vec<_> =
                action.inputs.iter().filter(|i| i.required).map(|i| (i.name, Some("x"))).collect();
            assert!(action.inputs(&given, |_| {}).is_ok(), "{}", action.name);
        }
    }
}
