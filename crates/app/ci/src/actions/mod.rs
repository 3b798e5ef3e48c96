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
use wharf_base::{Hinted, closest};

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
}

const fn input(name: &'static str, default: &'static str) -> Input {
    Input { name, default, required: false, idle: false }
}

const fn required(name: &'static str) -> Input {
    Input { name, default: "", required: true, idle: false }
}

const fn idle(name: &'static str) -> Input {
    Input { name, default: "", required: false, idle: true }
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

    pub(crate) fn flag(&self, name: &str) -> anyhow::Result<bool> {
        match self.get(name).to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "" | "false" => Ok(false),
            other => {
                let message = format!("'{name}' must be true or false, not '{other}'");
                Err(Hinted::new(message, format!("write '{name}: true', or leave it out")).into())
            }
        }
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

    /// Completes what was given; warns about what has no effect.
    ///
    /// # Errors
    /// When an input is unknown, or a required one is missing.
    pub(crate) fn inputs(&self, given: &[(String, String)], warn: impl Fn(&str)) -> Result<Inputs, Refused> {
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
            let value =
                given.iter().find(|(name, _)| name.eq_ignore_ascii_case(input.name)).map(|(_, v)| v.clone());
            let value = value.filter(|value| !value.trim().is_empty() || !input.required);
            if value.is_none() && input.required {
                return Err(Refused { given: None, wrong: missing_input(self.name, input.name) });
            }
            inputs.insert(input.name, value.unwrap_or_else(|| input.default.to_owned()));
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
