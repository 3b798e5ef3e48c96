//! Requests for certificates: see `wharf_control::certificate`.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use wharf_client::{Client, Gvr, Result};
use wharf_control::{
    Step,
    certificate::{Asked, REQUESTS, Request, clean},
};
use wharf_http::{Authority, CertificateRequest};

use super::{
    cache::Typed,
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

const REVIEWS: Gvr = Gvr::fixed("authorization.k8s.io", "v1", "subjectaccessreviews");

fn asked(request: &CertificateRequest) -> Asked {
    Asked {
        common_name: request.common_name.clone(),
        organizations: request.organizations.clone(),
        dns_names: !request.dns_names.is_empty(),
        addresses: !request.addresses.is_empty(),
        emails: !request.emails.is_empty(),
        uris: !request.uris.is_empty(),
    }
}

/// Approves requests of nodes that a role lets be approved.
pub(crate) struct Approver {
    client: Client,
    requests: Arc<Typed<Request>>,
}

impl Approver {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { client: shared.client.clone(), requests: shared.informers.typed(REQUESTS) }
    }

    async fn may(&self, stored: &Value, permission: &str) -> Result<bool> {
        let spec = &stored["spec"];
        let mut review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": spec["username"], "resourceAttributes": {"group": "certificates.k8s.io", "version": "*",
                "resource": "certificatesigningrequests", "subresource": permission, "verb": "create"}}});
        for field in ["uid", "groups", "extra"] {
            if let Some(value) = spec.get(field) {
                review["spec"][field] = value.clone();
            }
        }
        let answer = self.client.create(&REVIEWS, "", &review).await?;
        Ok(answer["status"]["allowed"] == true)
    }
}

impl Controller for Approver {
    const NAME: &'static str = "certificatesigningrequest-approving-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.requests.informer, |_, change| keys::own(change))]
    }

    async fn step(&self, key: &str, _: Seen<'_>) -> Result<Step> {
        let (Some(request), Some(stored)) = (self.requests.get(key), self.requests.informer.get(key)) else {
            return Ok(Step::idle());
        };
        if request.is_decided() {
            return Ok(Step::idle());
        }
        let Ok(inside) = CertificateRequest::of_base64(&request.spec.request) else {
            return Ok(Step::idle());
        };
        for permission in request.permissions(&asked(&inside)) {
            if self.may(&stored, permission).await? {
                return Ok(Step::of(vec![request.approve(&stored, permission)]));
            }
        }
        Ok(Step::idle())
    }
}

/// Signs approved requests by the platform's authority.
pub(crate) struct Signer {
    requests: Arc<Typed<Request>>,
    authority: Arc<Authority>,
}

impl Signer {
    pub(crate) fn new(shared: &Shared, authority: &Arc<Authority>) -> Self {
        Self { requests: shared.informers.typed(REQUESTS), authority: Arc::clone(authority) }
    }
}

impl Controller for Signer {
    const NAME: &'static str = "certificatesigningrequest-signing-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.requests.informer, |_, change| keys::own(change))]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(request) = self.requests.get(key).filter(|request| request.is_to_be_signed()) else {
            return Ok(Step::idle());
        };
        let inside = match CertificateRequest::of_base64(&request.spec.request) {
            Ok(inside) => inside,
            Err(why) => {
                return Ok(Step::of(vec![request.failed("SignerValidationFailure", &why.to_string())]));
            }
        };
        if let Err(why) = request.fits_signer(&asked(&inside)) {
            return Ok(Step::of(vec![request.failed("SignerValidationFailure", &why)]));
        }
        let usages: Vec<&str> = request.spec.usages.iter().map(String::as_str).collect();
        let signed = self.authority.sign(&inside, &usages, request.seconds(), seen.now.as_second());
        Ok(Step::of(vec![match signed {
            Ok(certificate) => request.signed(&STANDARD.encode(certificate)),
            Err(error) => request.failed("SigningFailure", &error.to_string()),
        }]))
    }
}

/// Deletes old requests.
pub(crate) struct Cleaner {
    requests: Arc<Typed<Request>>,
}

impl Cleaner {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { requests: shared.informers.typed(REQUESTS) }
    }
}

impl Controller for Cleaner {
    const NAME: &'static str = "certificatesigningrequest-cleaner-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.requests.informer, |_, change| keys::own(change))]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(request) = self.requests.get(key) else { return Ok(Step::idle()) };
        let pem = STANDARD.decode(&request.status.certificate).unwrap_or_default();
        let ends = wharf_http::certificate_ends(&pem);
        Ok(clean(&request, ends.map(|at| wharf_base::Timestamp::from_unix(at, 0)), seen.now))
    }
}
