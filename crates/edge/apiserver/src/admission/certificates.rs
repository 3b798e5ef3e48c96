//! Who may approve and sign requests for certificates, and which subjects nobody may have.
//!
//! Source: Kubernetes' admission plugins CertificateApproval, CertificateSigning, CertificateSubjectRestriction.

use serde_json::Value;
use wharf_api::{meta, status::Status};

use super::{Attributes, Operation};
use crate::{ApiServer, Context, auth};

const GROUP: &str = "certificates.k8s.io";

pub(super) fn check(
    server: &ApiServer,
    context: &Context,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<(), Status> {
    let signer = |object: &Value| object["spec"]["signerName"].as_str().unwrap_or_default().to_owned();
    let Some(old) = attributes.old.filter(|_| attributes.operation == Operation::Update) else {
        return Ok(());
    };
    let verb = match attributes.subresource {
        "approval" => "approve",
        "status" if object["status"]["certificate"] != old["status"]["certificate"] => "sign",
        _ => return Ok(()),
    };
    if allows(server, context, verb, &signer(old)) {
        return Ok(());
    }
    let name = meta::name(old);
    Err(Status::forbidden(format!(
        "certificatesigningrequests.{GROUP} {name:?} is forbidden: user not permitted to {verb} requests with signerName {:?}",
        signer(old)
    ))
    .about("certificatesigningrequests.certificates.k8s.io", name))
}

/// The right may be for the signer, or for all of its domain.
fn allows(server: &ApiServer, context: &Context, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    [signer.to_owned(), format!("{domain}/*")].iter().any(|name| {
        let asked =
            auth::Attributes { verb, group: GROUP, resource: "signers", name, ..auth::Attributes::default() };
        server.authorize(&context.identity, &asked).is_ok()
    })
}
