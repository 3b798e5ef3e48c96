//! `wharf/scan`: known vulnerabilities in an image.

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use wharf_base::{Hinted, closest};

use super::{BuiltIn, Call, Outputs, input, required};

const SEVERITIES: [&str; 4] = ["low", "medium", "high", "critical"];

pub(super) const ACTION: BuiltIn = BuiltIn {
    name: "wharf/scan",
    inputs: &[required("image"), input("severity", "high")],
    run: |call| run(call),
};

fn run(call: Call<'_>) -> BoxFuture<'_, anyhow::Result<Outputs>> {
    Box::pin(async move {
        let scan = call.runner.context.shared.config.services.scan.clone();
        let scan = scan.context("images cannot be scanned: this platform runs without its scanner")?;
        let severity = call.inputs.get("severity").to_ascii_lowercase();
        if !SEVERITIES.contains(&severity.as_str()) {
            let hint = match closest(&severity, SEVERITIES) {
                Some(meant) => format!("did you mean '{meant}'?"),
                None => format!("use one of {}", SEVERITIES.join(", ")),
            };
            return Err(Hinted::new(format!("'{severity}' is no severity"), hint).into());
        }
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
