use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, PublicKeyData, SanType};
use x509_parser::prelude::*;

use super::*;

fn request(names: Vec<SanType>) -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, "system:node:a");
    subject.push(DnType::OrganizationName, "system:nodes");
    subject.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "more");
    params.distinguished_name = subject;
    params.subject_alt_names = names;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let text = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, text)
}

#[test]
fn certificates_say_what_was_asked_for_and_are_signed() {
    let names = vec![
        SanType::DnsName("a.example".try_into().unwrap()),
        SanType::IpAddress([10, 0, 0, 1].into()),
        SanType::URI("spiffe://x/y".try_into().unwrap()),
    ];
    let (key, text) = request(names);
    let read = CertificateRequest::parse(text.as_bytes()).unwrap();
    assert_eq!(read.common_name, "system:node:a");
    assert_eq!(read.organizations, ["system:nodes", "more"]);
    assert_eq!((read.dns_names.len(), read.addresses.len(), read.uris.len()), (1, 1, 1));

    let authority = Authority::create("test").unwrap();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let signed = authority
        .sign(&read, &["digital signature", "key encipherment", "client auth"], 86_400, now)
        .unwrap();
    let block = Pem::iter_from_buffer(signed.as_bytes()).next().unwrap().unwrap();
    let certificate = block.parse_x509().unwrap();
    let own = Pem::iter_from_buffer(authority.certificate().as_bytes()).next().unwrap().unwrap();
    let own = own.parse_x509().unwrap();
    certificate.verify_signature(Some(own.public_key())).unwrap();
    assert_eq!(certificate.issuer(), own.subject());
    let organizations: Vec<&str> =
        certificate.subject().iter_organization().map(|o| o.as_str().unwrap()).collect();
    assert_eq!(organizations, ["system:nodes", "more"]);
    assert_eq!(certificate.validity().not_before.timestamp(), now - 300);
    assert_eq!(certificate.validity().not_after.timestamp(), now + 86_400 - 300);
    assert!(!certificate.is_ca());
    assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), key.der_bytes());
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && !extended.server_auth);
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(certificate.version(), X509Version::V3);
}

#[test]
fn certificates_end_with_their_authority() {
    let (_, text) = request(Vec::new());
    let read = CertificateRequest::parse(text.as_bytes()).unwrap();
    let authority = Authority::create("test").unwrap();
    let own = Pem::iter_from_buffer(authority.certificate().as_bytes()).next().unwrap().unwrap();
    let ends = own.parse_x509().unwrap().validity().not_after.timestamp();
    let until = |seconds: i64, now: i64| {
        let signed = authority.sign(&read, &["client auth"], seconds, now)?;
        let block = Pem::iter_from_buffer(signed.as_bytes()).next().unwrap().unwrap();
        Ok::<_, RequestError>(block.parse_x509().unwrap().validity().not_after.timestamp())
    };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    assert_eq!(until(600, now).unwrap(), now + 600, "a short one has its whole time");
    assert_eq!(until(86_400, ends - 60).unwrap(), ends);
    assert!(until(86_400, ends).is_err());
    assert!(authority.sign(&read, &["cooking"], 600, now).is_err());
}

#[test]
fn what_is_no_request_is_refused() {
    let (_, text) = request(Vec::new());
    let lines: Vec<&str> = text.lines().collect();
    let mut changed = lines.clone();
    let other = changed[1].replacen('M', "N", 1);
    changed[1] = &other;
    let relabelled = text.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    // The signature stands at the end.
    let middle = lines.len() - 2;
    let mut forged = lines.clone();
    let flipped: String = forged[middle].chars().rev().collect();
    forged[middle] = &flipped;
    for bad in ["", "x", &changed.join("\n"), &relabelled, &forged.join("\n"), &"x".repeat(MAX + 1)] {
        assert!(CertificateRequest::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn values_are_written_by_the_rules() {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(oid(&[1, 2, 840, 10_045, 4, 3, 2])), "06082a8648ce3d040302");
    assert_eq!(hex(oid(&[2, 5, 29, 37, 0])), "0604551d2500");
    assert_eq!(hex(der::bits(0xa000)), "030205a0");
    assert_eq!(hex(der::bits(0x0080)), "0303070080");
    assert_eq!(hex(tlv(Tag::OCTETS, &[0; 200]))[..6], *"0481c8");
    let at = |seconds| when(OffsetDateTime::from_unix_timestamp(seconds).unwrap());
    assert_eq!(at(0)[2..], *b"700101000000Z");
    assert_eq!(at(2_524_608_000)[2..], *b"20500101000000Z");
}

#[test]
fn what_is_signed_otherwise_is_refused_with_what_is_supported() {
    // `openssl req -new -newkey rsa:2048 -sha1` and `-newkey ec -pkeyopt ec_paramgen_curve:P-521`.
    for (text, why) in [(SHA1, "SHA-1 proves nothing"), (P521, "this kind is not supported")] {
        let said = CertificateRequest::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(said.contains(why) && said.contains("P-384 or Ed25519"), "{said}");
    }
    let (_, text) = request(Vec::new());
    let read = CertificateRequest::of_base64(&STANDARD.encode(&text)).unwrap();
    assert_eq!(read, CertificateRequest::parse(text.as_bytes()).unwrap());
    assert_eq!(CertificateRequest::of_base64("*").unwrap_err().to_string(), "the request is not base64");
}

const SHA1: &str = "\
-----BEGIN CERTIFICATE REQUEST-----\n\
MIICUTCCATkCAQAwDDEKMAgGA1UEAwwBYTCCASIwDQYJKoZIhvcNAQEBBQADggEP\n\
ADCCAQoCggEBAOJmD6wG0ksQFLvTdPNEVSyEHDtaiEE2KN8ZfpyY1N9KTfJUzAe4\n\
d8ouWS8DevpOzJSXohjNeHYkqf0QCbgwe4RK8c7UQVgt1JhECTrmcXFnGw2G90wo\n\
+UB8APt7pEWrIOcYJBgQWaHxn2gwV40KT5hv9SOTahVNRiMGYaz+L22XMunkS0Cv\n\
ppvuMk0FTtQ/lh0Ljj9vyYaxKE+VdovDfqYcd9mm1VG+3vIyM0uJYDUH6eoiQUGP\n\
KGLgoON9ytOhRjf0Z0Jz+BEIz/NpT5FMJhhF8A9NHILgmWtMTDnWY7mxffJhNmXy\n\
AgoQVA7Wm6010xJvRHE4vFBS3R/CEENFWK0CAwEAAaAAMA0GCSqGSIb3DQEBBQUA\n\
A4IBAQCKhQaXxKiknNS4uR+B2Bz0VDxUJZ+av+B7j9L+UsHWC0sxkE1joB/Hk3YI\n\
ty8JzVG94l5ct7143yoTC2Lu1tPmzqUos8R9SimLl4eOs24FgOXdkdjV/uFsBL0U\n\
qmNhSEjVk8RdJf9IR7+/IlsogGmIJhvZUaq3D+9tBv35QbCJ5KyAPdoC9qUSTnR+\n\
7TTx3JO+LRaOClvjK1gPe68YMJib0n9W5j7hcqfeqgud7ttTBOwTYlmT7M2aDj6Z\n\
2M64H2orJEXQ0D0DQBWyyUL2Kf5O/aAkRQdPAnhhaqmU48a8T/ijGJbVQ2o+lLwD\n\
TBxsNbP6rS/M3f9vEq1GydgqQGjz\n\
-----END CERTIFICATE REQUEST-----\n\
";

const P521: &str = "\
-----BEGIN CERTIFICATE REQUEST-----\n\
MIIBTjCBsQIBADAMMQowCAYDVQQDDAFhMIGbMBAGByqGSM49AgEGBSuBBAAjA4GG\n\
AAQAfvDfgnbaeOaH8rHlkimpfdmCY71kJzCDc5PPmNcCpWhNqcMRqXwtALz80xAC\n\
wTfauvWxGtJmzvebqmbDjWFwSNcB3nJOUFxL8IXYGHfBLMRxmoa0jiNFX6/NaJsk\n\
uVHutZgpiXSe31TfvKG6uXxL7veQVP5Q9GlTEEquRyKl0vQ55jWgADAKBggqhkjO\n\
PQQDAgOBiwAwgYcCQgCVjRAs5RUkJ7b8dSZfF1+QBmV1mTOsaZF6INWkvYfcQuRt\n\
cQgEljMvqvbE8j0IWAIkdq/mkMjvcj15aP/OO0O1wgJBTOpDyqA20NweHVMj1l14\n\
nsqAQGaywyobzc9DlBpkz81P5QOZSD18OoCkjkKY1+EKyW8/YSvIFeo9agJ24dwJ\n\
05M=\n\
-----END CERTIFICATE REQUEST-----\n\
";
