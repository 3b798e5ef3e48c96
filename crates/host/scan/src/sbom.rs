//! A bill of materials in CycloneDX 1.5, with the vulnerabilities found.

use serde_json::{Value, json};

use crate::{report::Report, severity::Severity};

/// The report as a CycloneDX document. The same report always gives the same document.
pub fn cyclonedx(report: &Report) -> Value {
    let components: Vec<Value> = report
        .packages
        .iter()
        .map(|installed| {
            let purl = installed.package.purl();
            json!({
                "type": "library", "bom-ref": format!("{purl}#{}", installed.path), "name": installed.package.name,
                "version": installed.package.version, "purl": purl,
                "properties": [
                    { "name": "wharf:path", "value": installed.path },
                    { "name": "wharf:layer", "value": installed.layer },
                ],
            })
        })
        .collect();
    let vulnerabilities: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            let affected = report.packages.iter().filter(|p| {
                p.package.ecosystem == finding.ecosystem
                    && p.package.name == finding.package
                    && p.package.version == finding.version
            });
            let affects: Vec<Value> =
                affected.map(|p| json!({ "ref": format!("{}#{}", p.package.purl(), p.path) })).collect();
            let severity = match finding.severity {
                Severity::Unknown => "unknown".to_owned(),
                known => known.to_string(),
            };
            json!({
                "id": finding.id, "source": { "name": "OSV", "url": format!("https://osv.dev/vulnerability/{}", finding.id) },
                "ratings": [{ "severity": severity }], "description": finding.summary, "affects": affects,
                "recommendation": finding.fixed_in.as_ref().map(|v| format!("Update {} to {v}", finding.package)),
                "references": finding.aliases.iter()
                    .map(|id| json!({ "id": id, "source": { "name": "OSV" } })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "tools": { "components": [{ "type": "application", "name": "wharf", "version": env!("CARGO_PKG_VERSION") }] },
            "component": { "type": "container", "bom-ref": report.id, "name": report.image, "version": report.id },
        },
        "components": components, "vulnerabilities": vulnerabilities,
    })
}
