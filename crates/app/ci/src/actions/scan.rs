//! `wharf/scan`: known vulnerabilities in an image.

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use wharf_base::{HintExt as _, Hinted};

use super::{BuiltIn, Call, Input, Outputs, input, one_of, required};

const SEVERITIES: &[&str] = &["low", "medium", "high", "critical"];

pub(super) const ACTION: BuiltIn =
    BuiltIn { name: "wharf/scan", inputs: &[required("image"), SEVERITY], run: |call| run(call) };

const SEVERITY: Input =
    Input { check: Some(|text| one_of(SEVERITIES, &text.to_ascii_lowercase())), ..input("severity", "high") };

fn run(call: Call<'_>) -> BoxFuture<'_, anyhow::Result<Outputs>> {
    Box::pin(async move {
        let scan = call.runner.context.shared.config.services.scan.clone();
        let scan = scan
            .context("images cannot be scanned: this platform runs without its scanner")
            .hint(|| "run the workflow on a platform that 'wharf up' started".into())?;
        let severity = call.inputs.get("severity").to_ascii_lowercase();
        let findings = scan.scan(call.inputs.get("image"), &severity, call.sayer()).await?;
        for finding in &findings {
            let mended = match finding.fixed.as_str() {
                "" => "no version mends it yet".to_owned(),
                version => format!("mended in {version}"),
            };
            call.say(&format!(
                "{} {} {} {}: {mended}",
                finding.severity, finding.id, finding.package, finding.version
            ));
        }
        if !findings.is_empty() {
            let message = format!("{} vulnerabilities of severity {severity} or above", findings.len());
            let hint = match findings.iter().any(|finding| !finding.fixed.is_empty()) {
                true => "update the packages to the versions that mend them",
                false => {
                    "no version mends them yet: raise 'severity', or leave the packages out of the image"
                }
            };
            return Err(Hinted::new(message, hint).into());
        }
        call.say(&format!("no vulnerability of severity {severity} or above"));
        Ok(vec![("findings".into(), "0".into())])
    })
}
