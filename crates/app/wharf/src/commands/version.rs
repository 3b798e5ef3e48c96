//! `wharf version`: of this program, and of the platform that runs.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    Globals,
    formatted::Format,
    platform::{Form, connect, say},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Another form of output
    #[arg(short, long, value_enum)]
    output: Option<Form>,
    /// Print by a Go template, as docker takes it: '{{.Client.Version}}', 'table …', or 'json'
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<Format>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let mut platform = Value::Null;
        // That nothing runs is no failure here.
        let asked = connect(globals, async |client| {
            platform = client.call(http::Method::GET, "/version", "", None).await?;
            Ok(ExitCode::SUCCESS)
        });
        let why = asked.err().map(|error| error.to_string());
        let facts = json!({"version": env!("CARGO_PKG_VERSION"), "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH, "platform": platform});
        if let Some(format) = &self.format {
            let server = platform["gitVersion"].as_str().unwrap_or_default();
            let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
            let both = json!({"Client": {"Version": env!("CARGO_PKG_VERSION"), "Os": os, "Arch": arch},
                "Server": {"Version": server}});
            say(&format.lines(&[], &[both])?);
            return Ok(ExitCode::SUCCESS);
        }
        match (self.output, why) {
            (Some(Form::Json), _) => say(&format!("{}\n", serde_json::to_string_pretty(&facts)?)),
            (Some(Form::Yaml), _) => say(&wharf_api::codec::value_to_yaml(&facts)),
            (_, why) => {
                let target = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
                let served = platform["gitVersion"].as_str().map(str::to_owned);
                let served = served.or(why).unwrap_or_default();
                say(&format!("wharf      {} {target}\nplatform   {served}\n", env!("CARGO_PKG_VERSION")));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
