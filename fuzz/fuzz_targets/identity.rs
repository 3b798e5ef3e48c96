#![no_main]
//! Requests for certificates, tokens and files that say whom to believe: any bytes are read or refused, what is read can
//! be signed, and no token is taken for signed that nobody signed.

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use wharf_apiserver::{Authentication, Encryption, is_signed};
use wharf_control::bootstrap_token;
use wharf_http::{Authority, CertificateRequest, certificate_ends};

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::create("fuzz").expect("an authority"))
}

/// Whoever has shown to hold a key gets a certificate that can be read.
fn request(pem: &[u8]) {
    let Ok(request) = CertificateRequest::parse(pem) else { return };
    let ends = certificate_ends(authority().certificate().as_bytes()).expect("an end");
    let signed = authority().sign(&request, &["client auth"], 3600, ends - 7200).expect("a certificate");
    assert_eq!(certificate_ends(signed.as_bytes()), Some(ends - 3600));
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(data);
    match kind % 6 {
        0 => request(data),
        1 => {
            let body = base64(data);
            request(format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n").as_bytes());
        }
        2 => drop(Authentication::parse(&text)),
        3 => drop(Encryption::parse(&text)),
        4 => {
            let (token, keys) = text.split_once('\n').unwrap_or((&text, ""));
            let keys = serde_json::from_str(keys).unwrap_or_default();
            assert!(!is_signed(token, &keys));
        }
        _ => {
            if let Some((id, secret)) = bootstrap_token::split(&text) {
                assert_eq!((id.len(), secret.len()), (6, 16));
            }
        }
    }
});
