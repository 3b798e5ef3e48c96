//! Instructions that change an image's settings and no file.

use wharf_image::{Empty, signal_number};

use super::{UNSET, stage::StageRun, state::State};
use crate::{
    dockerfile::{Command, Expander, Kind},
    error::{Error, Result},
};

/// Build arguments every build accepts without a declaration.
pub(crate) const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

impl StageRun<'_> {
    /// Expands to one text with the stage's variables.
    pub(crate) fn expand(&self, text: &str) -> Result<String> {
        Expander::new(self.build.escape()).text(text, &|name| self.state.value(name))
    }

    pub(crate) fn expand_words(&self, text: &str) -> Result<Vec<String>> {
        Expander::new(self.build.escape()).words(text, &|name| self.state.value(name))
    }

    /// Applies an instruction that is no step.
    pub(crate) fn set(&mut self, kind: &Kind) -> Result<()> {
        match kind {
            Kind::Arg(args) => self.args(args),
            Kind::Env(pairs) => self.env(pairs),
            Kind::Label(pairs) => self.labels(pairs),
            Kind::User(user) => {
                let user = self.expand(user)?;
                self.state.note(format!("USER {user}"));
                self.state.config.user = user;
                Ok(())
            }
            Kind::Expose(ports) => self.expose(ports),
            Kind::Volume(volumes) => self.volumes(volumes),
            Kind::Cmd(command) => {
                let words = words_of(&self.state, command);
                self.state.note(format!("CMD {}", json(&words)));
                self.state.config.cmd = Some(words);
                self.has_cmd = true;
                Ok(())
            }
            Kind::Entrypoint(command) => {
                let words = words_of(&self.state, command);
                self.state.note(format!("ENTRYPOINT {}", json(&words)));
                self.state.config.entrypoint = Some(words).filter(|words| !words.is_empty());
                // The base's arguments are for the base's program.
                if !self.has_cmd {
                    self.state.config.cmd = None;
                }
                Ok(())
            }
            Kind::Shell(words) => {
                self.state.note(format!("SHELL {}", json(words)));
                self.state.config.shell = Some(words.clone());
                Ok(())
            }
            Kind::StopSignal(signal) => self.stop_signal(signal),
            Kind::Healthcheck(check) => {
                self.state.note(format!("HEALTHCHECK {}", check.test.join(" ")));
                self.state.config.healthcheck = Some(check.clone());
                Ok(())
            }
            Kind::OnBuild(trigger) => {
                self.state.note(format!("ONBUILD {trigger}"));
                self.state.config.on_build.push(trigger.clone());
                Ok(())
            }
            Kind::Maintainer(name) => {
                self.state.note(format!("MAINTAINER {name}"));
                self.state.author = Some(name.clone());
                Ok(())
            }
            Kind::From(_) | Kind::Run(_) | Kind::Copy(_) | Kind::Workdir(_) => {
                Err(Error::host("a step was taken for a setting"))
            }
        }
    }

    fn args(&mut self, args: &[(String, Option<String>)]) -> Result<()> {
        let mut shown = Vec::new();
        for (name, default) in args {
            let name = self.expand(name)?;
            let value = match (self.build.arg(&name), default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => Some(self.expand(default)?),
                (None, None) => self.build.plan.globals.get(&name).cloned(),
            };
            let of = |value: &String| format!("{name}={value}");
            shown.push(value.as_ref().map_or_else(|| name.clone(), of));
            self.state.declare(&name, value);
        }
        self.state.note(format!("ARG {}", shown.join(" ")));
        Ok(())
    }

    /// All values are expanded with what the variables were before the line.
    fn expand_pairs(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>> {
        pairs.iter().map(|(name, value)| Ok((self.expand(name)?, self.expand(value)?))).collect()
    }

    fn env(&mut self, pairs: &[(String, String)]) -> Result<()> {
        let pairs = self.expand_pairs(pairs)?;
        for (name, value) in &pairs {
            if name.is_empty() || value.contains('\0') || name.contains('\0') {
                return Err(Error::invalid(format!("ENV cannot set '{name}'"))
                    .hint("a name is not empty, and neither it nor its value has a NUL"));
            }
            self.state.set_variable(name, value);
        }
        self.state.note(format!("ENV {}", joined(&pairs)));
        Ok(())
    }

    fn labels(&mut self, pairs: &[(String, String)]) -> Result<()> {
        let pairs = self.expand_pairs(pairs)?;
        self.state.note(format!("LABEL {}", joined(&pairs)));
        self.state.config.labels.extend(pairs);
        Ok(())
    }

    fn expose(&mut self, ports: &[String]) -> Result<()> {
        let mut words = Vec::new();
        for port in ports {
            words.extend(self.expand_words(port)?);
        }
        words.sort();
        for word in &words {
            let exposed = ports_of(word).ok_or_else(|| {
                Error::invalid(format!("'{word}' is not a port")).hint("write PORT, PORT/udp or FIRST-LAST")
            })?;
            self.state.config.exposed_ports.extend(exposed.into_iter().map(|port| (port, Empty {})));
        }
        self.state.note(format!("EXPOSE {}", words.join(" ")));
        Ok(())
    }

    fn volumes(&mut self, volumes: &[String]) -> Result<()> {
        let mut words = Vec::new();
        for volume in volumes {
            words.push(self.expand(volume)?);
        }
        if words.iter().any(String::is_empty) {
            return Err(Error::invalid("VOLUME has an empty path once its variables are put in").hint(UNSET));
        }
        self.state.note(format!("VOLUME {}", json(&words)));
        self.state.config.volumes.extend(words.into_iter().map(|path| (path, Empty {})));
        Ok(())
    }

    fn stop_signal(&mut self, signal: &str) -> Result<()> {
        let signal = self.expand(signal)?;
        if signal_number(&signal).is_none() {
            let hint = "write a name or number such as SIGTERM, 15 or SIGRTMIN+3";
            return Err(Error::invalid(format!("'{signal}' is not a signal")).hint(hint));
        }
        self.state.note(format!("STOPSIGNAL {signal}"));
        self.state.config.stop_signal = Some(signal);
        Ok(())
    }
}

fn words_of(state: &State, command: &Command) -> Vec<String> {
    if command.exec || command.args.is_empty() {
        return command.args.clone();
    }
    [state.shell(), command.args.clone()].concat()
}

/// A list as Docker's history shows it.
fn json(words: &[String]) -> String {
    let quoted: Vec<String> =
        words.iter().map(|word| serde_json::Value::from(word.as_str()).to_string()).collect();
    format!("[{}]", quoted.join(" "))
}

fn joined(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// `PORT[-PORT][/PROTOCOL]` as the image's configuration lists it.
fn ports_of(text: &str) -> Option<Vec<String>> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    // An address and a port of the machine have no meaning here; Docker warns and takes what is left.
    let range = range.rsplit_once(':').map_or(range, |(_, port)| port);
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return None;
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| (first..=last).map(|port| format!("{port}/{protocol}")).collect())
}
