//! Who may approve and sign requests for certificates, and which subjects nobody may have.
//!
//! Source: Kubernetes' admission plugins CertificateApproval, CertificateSigning, CertificateSubjectRestriction.

use serde_json::Value;
use wharf_api::{
    meta,
    status::{Cause, Status},
};
use wharf_http::{CertificateRequest, RequestError};

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
        "status"
            if ["certificate", "conditions"]
                .iter()
                .any(|part| object["status"][part] != old["status"][part]) =>
        {
            "sign"
        }
        _ => return Ok(()),
    };
    decided(object, old)?;
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

/// A decision is `True`, is not taken back, and there is one of it.
fn decided(object: &Value, old: &Value) -> Result<(), Status> {
    const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];
    let kinds = |of: &Value| -> Vec<String> {
        let all = of["status"]["conditions"].as_array().into_iter().flatten();
        all.filter_map(|condition| Some(condition["type"].as_str()?.to_owned())).collect()
    };
    let (now, before) = (kinds(object), kinds(old));
    let mut causes = Vec::new();
    for (at, condition) in object["status"]["conditions"].as_array().into_iter().flatten().enumerate() {
        let (kind, status) = (condition["type"].as_str().unwrap_or_default(), &condition["status"]);
        if DECISIONS.contains(&kind) && !status.is_null() && status != "True" {
            let text = format!("Unsupported value: {status}: supported values: \"True\"");
            causes.push(cause("FieldValueNotSupported", &format!("status.conditions[{at}].status"), text));
        }
        if now.iter().take(at).any(|other| other == kind) {
            let text = format!("Duplicate value: {kind:?}");
            causes.push(cause("FieldValueDuplicate", &format!("status.conditions[{at}].type"), text));
        }
    }
    let has = |list: &[String], kind: &str| list.iter().any(|known| known == kind);
    if has(&now, "Approved") && has(&now, "Denied") {
        let text =
            "Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive".to_owned();
        causes.push(cause("FieldValueInvalid", "status.conditions", text));
    }
    for kind in DECISIONS.iter().filter(|kind| has(&before, kind) && !has(&now, kind)) {
        let text = format!("Forbidden: updates may not remove a condition of type {kind:?}");
        causes.push(cause("FieldValueForbidden", "status.conditions", text));
    }
    match causes.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("CertificateSigningRequest", GROUP, meta::name(old), causes)),
    }
}

/// What a new request must say.
pub(super) fn created(object: &Value) -> Result<(), Status> {
    let spec = &object["spec"];
    let signer = spec["signerName"].as_str().unwrap_or_default();
    let mut causes = Vec::new();
    let request = parse(object);
    if let Err(why) = &request {
        causes.push(cause("FieldValueInvalid", "spec.request", format!("Invalid value: {:?}: {why}", "PEM")));
    }
    causes.extend(usages(spec["usages"].as_array().map_or(&[], Vec::as_slice)));
    if let Some(why) = signer_error(signer) {
        causes.push(match signer {
            "" => cause("FieldValueRequired", "spec.signerName", "Required value".into()),
            _ => cause("FieldValueInvalid", "spec.signerName", format!("Invalid value: {signer:?}: {why}")),
        });
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|seconds| *seconds < 600) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        let text = format!("Invalid value: {seconds}: {why}");
        causes.push(cause("FieldValueInvalid", "spec.expirationSeconds", text));
    }
    if !causes.is_empty() {
        return Err(Status::invalid("CertificateSigningRequest", GROUP, meta::name(object), causes));
    }
    restricted(object, signer, &request.map(|request| request.organizations).unwrap_or_default())
}

/// Nobody becomes a member of `system:masters` by a certificate.
fn restricted(object: &Value, signer: &str, organizations: &[String]) -> Result<(), Status> {
    const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
    const MASTERS: &str = "system:masters";
    if signer != CLIENT || !organizations.iter().any(|organization| organization == MASTERS) {
        return Ok(());
    }
    let name = meta::name(object);
    let why = format!("use of {CLIENT} signer with {MASTERS} group is not allowed");
    let qualified = "certificatesigningrequests.certificates.k8s.io";
    Err(Status::forbidden(format!("{qualified} {name:?} is forbidden: {why}")).about(qualified, name))
}

fn cause(reason: &str, field: &str, message: String) -> Cause {
    Cause { reason: reason.to_owned(), field: field.to_owned(), message }
}

fn usages(usages: &[Value]) -> Vec<Cause> {
    if usages.is_empty() {
        return vec![cause(
            "FieldValueRequired",
            "spec.usages",
            "Required value: usages must be provided".into(),
        )];
    }
    let mut causes = Vec::new();
    for (i, usage) in usages.iter().enumerate() {
        let field = format!("spec.usages[{i}]");
        let name = usage.as_str().unwrap_or_default();
        if !wharf_http::is_usage(name) {
            causes.push(cause("FieldValueNotSupported", &field, format!("Unsupported value: {name:?}")));
        }
        if usages.iter().take(i).any(|before| before == usage) {
            causes.push(cause("FieldValueDuplicate", &field, format!("Duplicate value: {name:?}")));
        }
    }
    causes
}

/// Why a name is none of a signer: `domain/path`, the domain of two words at least.
fn signer_error(name: &str) -> Option<&'static str> {
    if name == "kubernetes.io/legacy-unknown" {
        return Some("the legacy signerName is not allowed via this API version");
    }
    let Some((domain, path)) = name.split_once('/') else {
        return Some("must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    let word = |word: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        (1..=63).contains(&word.len())
            && word.bytes().all(|b| plain(b) || b == b'-')
            && [word.bytes().next(), word.bytes().last()].into_iter().flatten().all(plain)
    };
    let words = |text: &str, limit: usize| text.len() <= limit && text.split('.').all(word);
    match () {
        () if !domain.contains('.') => {
            Some("should be a domain with at least two segments separated by dots")
        }
        () if !words(domain, 253) => Some("the domain must be a DNS subdomain (RFC 1123)"),
        () if !words(path, 571 - 253 - 1) => Some("the path must be words of a DNS subdomain (RFC 1123)"),
        () => None,
    }
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

/// What the request in a CertificateSigningRequest asks for.
pub(super) fn parse(object: &Value) -> Result<CertificateRequest, RequestError> {
    CertificateRequest::of_base64(object["spec"]["request"].as_str().unwrap_or_default())
}
