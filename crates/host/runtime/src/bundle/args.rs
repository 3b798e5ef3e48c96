//! The command line, in the form runc has made customary: flags, then the container's id, then what is passed on untouched.

use crate::error::{Error, Result};

/// Flags and the words after them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Args {
    flags: Vec<(String, String)>,
    /// What follows the flags.
    pub(super) words: Vec<String>,
}

/// A flag: its long name, its letter, whether a value follows.
pub(super) struct Flag(pub(super) &'static str, pub(super) &'static str, pub(super) bool);

/// A flag with a value.
pub(super) const fn value(name: &'static str) -> Flag {
    Flag(name, "", true)
}

/// A flag that is there or not.
pub(super) const fn switch(name: &'static str) -> Flag {
    Flag(name, "", false)
}

impl Args {
    /// Reads flags up to the first word that is none.
    pub(super) fn parse(command: &str, args: &[String], known: &[Flag]) -> Result<Self> {
        let mut parsed = Self::default();
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            if arg == "--" {
                break;
            }
            let Some(text) = arg.strip_prefix('-').filter(|text| !text.is_empty()) else {
                parsed.words.push(arg.clone());
                break;
            };
            let text = text.strip_prefix('-').unwrap_or(text);
            let (name, given) =
                text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            let flag = known
                .iter()
                .find(|flag| flag.0 == name || flag.1 == name)
                .ok_or_else(|| Error::invalid(command, arg, "there is no such option"))?;
            let value = match (flag.2, given) {
                (_, Some(given)) => given.to_owned(),
                (false, None) => "true".to_owned(),
                (true, None) => rest
                    .next()
                    .cloned()
                    .ok_or_else(|| Error::invalid(command, arg, "the option needs a value"))?,
            };
            parsed.flags.push((flag.0.to_owned(), value));
        }
        parsed.words.extend(rest.cloned());
        Ok(parsed)
    }

    /// The value given last.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(flag, _)| flag == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.flags.iter().filter(move |(flag, _)| flag == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "false" | "0"))
    }

    /// A flag's value as a number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let read = |text: &str| {
            text.parse()
                .map_err(|_| Error::invalid("read the option", format_args!("--{name}"), "expected a number"))
        };
        self.get(name).map(read).transpose()
    }

    /// The container's id, the first word.
    pub(super) fn id(&self, command: &str) -> Result<&str> {
        match self.words.first() {
            Some(id) => Ok(id),
            None => Err(Error::invalid(command, "", "the container's id is missing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_flags_up_to_the_first_word() {
        let known = [value("bundle"), Flag("tty", "t", false), Flag("env", "e", true)];
        let read = |words: &[&str]| {
            Args::parse("exec", &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), &known)
        };
        let args =
            read(&["--bundle=/b", "-t", "-e", "A=1", "--env", "B=2", "id", "sh", "-c", "--tty"]).unwrap();
        assert_eq!(args.get("bundle"), Some("/b"));
        assert!(args.is_set("tty"));
        assert_eq!(args.all("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(args.words, ["id", "sh", "-c", "--tty"]);
        assert_eq!(read(&["--", "-t"]).unwrap().words, ["-t"]);
        assert!(read(&["--fly"]).unwrap_err().to_string().contains("--fly"));
        assert!(read(&["--bundle"]).is_err());
        assert!(!read(&["--tty=false"]).unwrap().is_set("tty"));
    }
}
