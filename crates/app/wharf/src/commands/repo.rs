//! `wharf repo`: git repositories served by the platform.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};
use wharf_base::{HintExt as _, Hinted};
use wharf_ci::api::{NAMESPACE, REPOSITORIES, new_repository};
use wharf_client::ListParams;

use super::{
    Globals,
    platform::{Form, Table, age, connect, print, text},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List repositories
    Ls {
        /// Another form of output
        #[arg(short, long, value_enum)]
        output: Option<Form>,
    },
    /// Create a repository
    Create {
        /// Its name: lower-case letters, digits, '-' and '.'
        name: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Remove a repository with all it holds
    Rm {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}

/// A name a repository can have; else one like it.
fn check_name(name: &str) -> Result<(), Hinted> {
    wharf_gitserver::check_name(name).hint(|| {
        let sign = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
        let like: String = name.chars().map(sign).collect();
        let like = like.trim_matches(['-', '.']);
        match wharf_gitserver::check_name(like) {
            Ok(()) => format!("write 'wharf repo create {like}'"),
            Err(_) => "write for example 'wharf repo create shop'".into(),
        }
    })
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        connect(globals, async |client| {
            match self.command {
                Command::Ls { output } => {
                    let list = client.list(&REPOSITORIES, &ListParams::namespace(NAMESPACE)).await?.items;
                    print(output, &list, |list| {
                        let mut table = Table::new(&["NAME", "URL", "DESCRIPTION", "AGE"]);
                        for object in list {
                            table.row([
                                text(object, "/metadata/name").to_owned(),
                                text(object, "/status/url").to_owned(),
                                text(object, "/spec/description").to_owned(),
                                age(object),
                            ]);
                        }
                        table.print();
                    })
                }
                Command::Create { name, description } => {
                    check_name(&name)?;
                    let made =
                        client.create(&REPOSITORIES, NAMESPACE, &new_repository(&name, &description)).await;
                    let made = made.with_context(|| format!("cannot create the repository {name}"))?;
                    let informer = wharf_client::Informer::start(
                        client.clone(),
                        REPOSITORIES,
                        ListParams {
                            fields: format!("metadata.name={name}"),
                            ..ListParams::namespace(NAMESPACE)
                        },
                    );
                    let mut changes = informer.subscribe();
                    let ready = async {
                        while let Some(change) = changes.recv().await {
                            if let Some(url) =
                                change.new.as_deref().and_then(|o| o.pointer("/status/url")?.as_str())
                            {
                                return Some(url.to_owned());
                            }
                        }
                        None
                    };
                    match tokio::time::timeout(std::time::Duration::from_secs(10), ready).await {
                        Ok(Some(url)) => println!("{url}"),
                        _ => println!(
                            "{} is created; its address is not known yet",
                            text(&made, "/metadata/name")
                        ),
                    }
                    Ok(())
                }
                Command::Rm { name, force } => {
                    if !force {
                        let error = format!("removing the repository {name} removes every commit in it");
                        return Err(
                            Hinted::new(error, format!("'wharf repo rm --force {name}' does it")).into()
                        );
                    }
                    let removed = client.delete(&REPOSITORIES, NAMESPACE, &name, &Value::Null).await;
                    removed.hint(|| "'wharf repo ls' lists all repositories".to_owned())?;
                    println!("{name}");
                    Ok(())
                }
            }?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl Form {
    /// Prints objects as they are.
    pub(crate) fn print(self, objects: &[Value]) -> anyhow::Result<()> {
        match self {
            Self::Json => println!("{}", serde_json::to_string_pretty(&json!(objects))?),
            _ => print!("{}", wharf_api::codec::value_to_yaml(&json!(objects))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_like_the_one_refused_is_offered() {
        assert!(check_name("shop").is_ok());
        for (name, hint) in [
            ("Bad/Name", "write 'wharf repo create bad-name'"),
            ("-shop_x", "write 'wharf repo create shop-x'"),
            ("/", "write for example 'wharf repo create shop'"),
        ] {
            assert_eq!(check_name(name).unwrap_err().hint(), hint, "{name}");
        }
    }
}
