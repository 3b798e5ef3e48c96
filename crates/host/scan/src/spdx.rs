//! A bill of materials in SPDX 2.3 (JSON), as attestations of images hold it.

use serde_json::{Value, json};
use wharf_base::Digest;

use crate::report::{InstalledPackage, Report};

const UNKNOWN: &str = "NOASSERTION";

/// What the document says of itself.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The image's name.
    pub name: &'a str,
    /// The digest of its manifest.
    pub digest: &'a Digest,
    /// When the document is made: RFC 3339 in UTC with whole seconds.
    pub created: &'a str,
}

/// The packages of a report as an SPDX document. The same report and words always give the same document.
pub fn spdx(report: &Report, about: &About<'_>) -> Value {
    let ids: Vec<String> =
        (1..=report.packages.len()).map(|number| format!("SPDXRef-Package-{number}")).collect();
    let contains = ids.iter().map(|id| relation("SPDXRef-Image", "CONTAINS", id));
    let relations =
        std::iter::once(relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image")).chain(contains);
    let listed = ids.iter().zip(&report.packages).map(|(id, installed)| package(id, installed));
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": about.name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/wharf-{}-{}", about.digest.algorithm().name(), about.digest.hex()),
        "creationInfo": {
            "created": about.created,
            "creators": [format!("Tool: wharf-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": std::iter::once(image(report, about)).chain(listed).collect::<Vec<_>>(),
        "relationships": relations.collect::<Vec<_>>(),
    })
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// The image as the package that has all others in it.
fn image(report: &Report, about: &About<'_>) -> Value {
    let mut value = json!({
        "SPDXID": "SPDXRef-Image",
        "name": about.name,
        "versionInfo": about.digest,
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
    });
    if let Some(os) = &report.os {
        let version = os.version.as_deref().map_or(String::new(), |version| format!(" {version}"));
        value["comment"] = format!("operating system: {}{version}", os.id).into();
    }
    value
}

fn package(id: &str, installed: &InstalledPackage) -> Value {
    let package = &installed.package;
    let mut value = json!({
        "SPDXID": id,
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "sourceInfo": format!("told by /{}", installed.path.trim_start_matches('/')),
        "comment": format!("layer by the digest of its content: {}", installed.layer),
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": package.purl(),
        }],
    });
    if let Some((name, version)) = &package.source {
        value["sourceInfo"] =
            format!("built from {name} {version}; told by /{}", installed.path.trim_start_matches('/'))
                .into();
    }
    value
}
