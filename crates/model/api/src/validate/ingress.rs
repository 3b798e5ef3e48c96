//! Ingresses, their classes, and network policies.

use std::net::IpAddr;

use super::field::{Errors, Field};
use super::{names, values};

/// Parts that must not be in a path, and parts it must not end with.
const BAD_PARTS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: [&str; 2] = ["/..", "/."];
const NOT_ABSOLUTE: &str = "must be an absolute path";

/// An Ingress.
pub(super) fn ingress(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let (backend, rules) = (spec.child("defaultBackend"), spec.child("rules"));
    if rules.is_empty() && !backend.is_set() {
        let message = "either `defaultBackend` or `rules` must be specified";
        errors.push(spec.invalid_as(rules.value().clone(), message));
    }
    if backend.is_set() {
        ingress_backend(&backend, errors);
    }
    for rule in rules.items() {
        host(&rule.child("host"), errors);
        let http = rule.child("http");
        if http.is_set() {
            let paths = http.child("paths");
            if paths.is_empty() {
                errors.push(paths.required(""));
            }
            paths.items().for_each(|path| ingress_path(&path, errors));
        }
    }
    for tls in spec.child("tls").items() {
        for name in tls.child("hosts").items() {
            dns_name(&name, errors);
        }
        values::optionally_named(&tls.child("secretName"), names::dns_subdomain, errors);
    }
    values::optionally_named(&spec.child("ingressClassName"), names::dns_subdomain, errors);
}

/// A new Ingress: the old annotation and the field must not name different classes.
pub(super) fn create(root: &Field<'_>, errors: &mut Errors) {
    let annotation = root.text_at("/metadata/annotations/kubernetes.io~1ingress.class");
    let class = root.text_at("/spec/ingressClassName");
    if !annotation.is_empty() && !class.is_empty() && annotation != class {
        let annotations = root.child("annotations");
        errors.push(
            annotations
                .child("kubernetes.io/ingress.class")
                .invalid_as(annotation, "must match `ingressClassName` when both are specified"),
        );
    }
}

fn host(host: &Field<'_>, errors: &mut Errors) {
    if host.text().is_empty() {
        return;
    }
    if host.text().parse::<IpAddr>().is_ok() {
        errors.push(host.invalid("must be a DNS name, not an IP address"));
    }
    dns_name(host, errors);
}

/// A host name; the first part may be a star.
fn dns_name(name: &Field<'_>, errors: &mut Errors) {
    let is_wild = name.text().contains('*');
    values::named(name, if is_wild { names::wildcard_subdomain } else { names::dns_subdomain }, errors);
}

fn ingress_path(path: &Field<'_>, errors: &mut Errors) {
    let (type_, field) = (path.child("pathType"), path.child("path"));
    if !type_.is_set() {
        errors.push(type_.required("pathType must be specified"));
        return;
    }
    let text = field.text();
    match type_.text() {
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.push(field.invalid(NOT_ABSOLUTE));
            }
            for part in BAD_PARTS.iter().filter(|part| text.contains(**part)) {
                errors.push(field.invalid(format!("must not contain '{part}'")));
            }
            for end in BAD_ENDS.iter().filter(|end| text.ends_with(**end)) {
                errors.push(field.invalid(format!("cannot end with '{end}'")));
            }
        }
        "ImplementationSpecific" if text.is_empty() || text.starts_with('/') => {}
        "ImplementationSpecific" => errors.push(field.invalid(NOT_ABSOLUTE)),
        _ => errors.push(type_.not_supported(&["Exact", "ImplementationSpecific", "Prefix"])),
    }
    ingress_backend(&path.child("backend"), errors);
}

fn ingress_backend(backend: &Field<'_>, errors: &mut Errors) {
    let (resource, service) = (backend.child("resource"), backend.child("service"));
    match (resource.is_set(), service.is_set()) {
        (true, true) => errors.push(backend.invalid_as("", "cannot set both resource and service backends")),
        (true, false) => {
            for key in ["kind", "name"] {
                values::required_name(&resource.child(key), names::path_segment, errors);
            }
        }
        (false, true) => backend_service(backend, &service, errors),
        (false, false) => errors.push(backend.invalid_as("", "resource or service backend is required")),
    }
}

fn backend_service(backend: &Field<'_>, service: &Field<'_>, errors: &mut Errors) {
    values::required_name(&service.child("name"), names::dns_1035_label, errors);
    let port = service.child("port");
    let (name, number) = (port.child("name"), port.child("number"));
    match (!name.text().is_empty(), port.int_at("/number") != 0) {
        (true, true) => errors.push(backend.invalid_as("", "cannot set both port name & port number")),
        (true, false) => values::named(&name, names::port_name, errors),
        (false, true) => values::port_number(&number, errors),
        (false, false) => errors.push(backend.required("port name or number is required")),
    }
}

/// An IngressClass.
pub(super) fn class(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let controller = spec.child("controller");
    let parts = controller.text().split_once('/');
    if controller.text().is_empty() {
        errors.push(controller.required(""));
    } else if !parts.is_some_and(|(domain, path)| !domain.is_empty() && !path.is_empty()) {
        errors.push(controller.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
    }
    if controller.text().len() > 250 {
        errors.push(controller.too_long(250));
    }
}

/// The controller of an IngressClass stays what it was.
pub(super) fn update_class(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (new, old) = (new.child("spec"), old.child("spec"));
    values::immutable(&new.child("controller"), &old.child("controller"), errors);
}

/// A NetworkPolicy.
pub(super) fn network_policy(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    values::selector(&spec.child("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.child(direction).items() {
            rule.child("ports").items().for_each(|port| policy_port(&port, errors));
            rule.child(peers).items().for_each(|peer| policy_peer(&peer, errors));
        }
    }
    let types = spec.child("policyTypes");
    if types.len() > 2 {
        errors.push(types.invalid("may not specify more than two policyTypes"));
        return;
    }
    for type_ in types.items() {
        values::optionally_one_of(&type_, &["Ingress", "Egress"], errors);
    }
}

fn policy_port(field: &Field<'_>, errors: &mut Errors) {
    values::optionally_one_of(&field.child("protocol"), &["TCP", "UDP", "SCTP"], errors);
    let (port, end) = (field.child("port"), field.child("endPort"));
    if port.is_set() {
        values::port_or_name(&port, errors);
    }
    if !end.is_set() {
        return;
    }
    match port.value().as_i64() {
        Some(start) => {
            if field.int_at("/endPort") < start {
                errors.push(end.invalid_as(start, "must be greater than or equal to `port`"));
            }
            values::port_number(&end, errors);
        }
        None if port.is_set() => {
            errors.push(end.invalid("may not be specified when `port` is non-numeric"));
        }
        None => errors.push(end.invalid("may not be specified when `port` is not specified")),
    }
}

fn policy_peer(peer: &Field<'_>, errors: &mut Errors) {
    let (pods, namespaces, block) =
        (peer.child("podSelector"), peer.child("namespaceSelector"), peer.child("ipBlock"));
    values::selector(&pods, errors);
    values::selector(&namespaces, errors);
    if block.is_set() {
        let range = block.child("cidr");
        if range.text().is_empty() {
            errors.push(range.required(""));
        } else {
            cidr(&range, errors);
        }
        block.child("except").items().for_each(|except| cidr(&except, errors));
        if pods.is_set() || namespaces.is_set() {
            errors.push(peer.forbidden("may not specify both ipBlock and another peer"));
        }
    } else if !pods.is_set() && !namespaces.is_set() {
        errors.push(peer.required("must specify a peer"));
    }
}

/// An address and the length of its prefix.
pub(super) fn cidr(field: &Field<'_>, errors: &mut Errors) {
    let is_cidr = field.text().split_once('/').is_some_and(|(ip, bits)| {
        let most = if ip.contains(':') { 128 } else { 32 };
        ip.parse::<IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if !is_cidr {
        errors.push(field.invalid("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"));
    }
}
