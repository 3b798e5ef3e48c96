//! `wharf image pack`: a base image with no registry at hand.

use std::process::ExitCode;

use wharf_base::Hinted;
use wharf_build::{PackRequest, pack};
use wharf_image::{Reference, Store};

use crate::commands::Globals;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Give busybox a link for each of its programs
    #[arg(long)]
    applets: bool,
    /// Print the result in this form: json
    #[arg(short, long, value_name = "FORM", value_parser = ["json"])]
    output: Option<String>,
    /// Name of the image: NAME[:TAG]
    name: String,
    /// Programs by name, or files and folders by absolute path; their libraries and interpreters come along
    #[arg(required = true, value_name = "PATH|PROGRAM")]
    programs: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let name: Reference = self.name.parse().map_err(|error: wharf_image::Error| {
            let hint = error.hint().unwrap_or_default();
            Hinted::new(error, hint)
        })?;
        let images = Store::open(globals.data_dir()?.join("images"))?;
        let request =
            PackRequest { tags: vec![name.clone()], programs: self.programs.clone(), applets: self.applets };
        let packed = pack(&images, &request).map_err(|error| match error.hint.clone() {
            Some(hint) => anyhow::Error::from(Hinted::new(error, hint)),
            None => error.into(),
        })?;
        for warning in &packed.warnings {
            eprintln!("warning: {warning}");
        }
        if self.output.is_some() {
            let value = serde_json::json!({
                "name": name.familiar(), "id": packed.id, "digest": packed.manifest.digest,
                "files": packed.files, "bytes": packed.bytes, "programs": packed.programs, "warnings": packed.warnings,
            });
            println!("{}", serde_json::to_string_pretty(&value)?);
        } else {
            let megabytes = packed.bytes as f64 / 1e6;
            eprintln!(
                "packed {} as {}: {} files, {megabytes:.1} MB",
                self.programs.join(", "),
                name.familiar(),
                packed.files
            );
            println!("{}", packed.id);
        }
        Ok(ExitCode::SUCCESS)
    }
}
