//! `wharf/scan`: known vulnerabilities in an image.

use anyhow::{Context as _, bail};
use futures_util::future::BoxFuture;

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
            bail!("'severity' must be one of {}, not '{severity}'", SEVERITIES.join(", "));
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
            bail!("{} vulnerabilities of severity {severity} or above", findings.len());
        }
        call.say(&format!("no vulnerability of severity {severity} or above"));
        Ok(vec![("findings".into(), "0".into())])
    })
}
