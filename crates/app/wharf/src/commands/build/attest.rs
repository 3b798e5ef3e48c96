//! `--provenance`, `--sbom` and `--attest`: what is attested of an image, in docker's words.

use std::sync::Arc;

use anyhow::bail;
use wharf_base::Hinted;
use wharf_build::{Attestations, Bill, Provenance, Slsa};
use wharf_image::Reference;

use super::{
    Args,
    options::{Output, fields, wrong},
    reference,
};

const HINT: &str =
    "write type=provenance with mode=min|max, version=v1|v0.2, builder-id=…, reproducible=true, or type=sbom";

/// What the flags ask for. `--provenance` and `--sbom` stand before `--attest`.
pub(super) fn wanted(args: &Args, outputs: &[Output]) -> anyhow::Result<Attestations> {
    let mut wanted = Attestations::default();
    for text in &args.attest {
        let mut all = fields(text);
        let at = all.iter().position(|(key, _)| key == "type");
        let kind = at.map(|at| all.remove(at).1).unwrap_or_default();
        let disabled = take_switch(&mut all, "disabled");
        match (kind.as_str(), disabled) {
            ("provenance", true) => wanted.provenance = None,
            ("provenance", false) => wanted.provenance = Some(provenance("--attest", text, all)?),
            ("sbom", off) => wanted.sbom = sbom("--attest", text, all)? && !off,
            _ => return Err(wrong("--attest", text, "has no type that is known", HINT)),
        }
    }
    match args.provenance.as_deref() {
        None => {}
        Some("true" | "1") => wanted.provenance = Some(Provenance { max: true, ..Provenance::default() }),
        Some("false" | "0") => wanted.provenance = None,
        Some(text) => wanted.provenance = Some(provenance("--provenance", text, fields(text))?),
    }
    match args.sbom.as_deref() {
        None => {}
        Some("true" | "1") => wanted.sbom = true,
        Some("false" | "0") => wanted.sbom = false,
        Some(text) => wanted.sbom = sbom("--sbom", text, fields(text))?,
    }
    if !wanted.is_empty() && outputs.iter().all(|output| matches!(output, Output::Local(_) | Output::Tar(_)))
    {
        bail!(Hinted::new(
            "attestations go with an image, and no output is one",
            "add -o type=image or type=oci, or leave --provenance, --sbom and --attest out",
        ));
    }
    wanted.as_image = outputs.iter().any(Output::wants_image_config);
    wanted.names = names(args, outputs)?;
    Ok(wanted)
}

/// Every name the image will have, in the store or elsewhere.
fn names(args: &Args, outputs: &[Output]) -> anyhow::Result<Vec<Reference>> {
    let mut all: Vec<Reference> = Vec::new();
    for name in args.tag.iter().chain(outputs.iter().flat_map(Output::names)) {
        let name = reference(name)?;
        if !all.contains(&name) {
            all.push(name);
        }
    }
    Ok(all)
}

fn take_switch(all: &mut Vec<(String, String)>, name: &str) -> bool {
    let Some(at) = all.iter().position(|(key, _)| key == name) else { return false };
    !matches!(all.remove(at).1.as_str(), "false" | "0")
}

fn provenance(flag: &str, text: &str, fields: Vec<(String, String)>) -> anyhow::Result<Provenance> {
    let mut wish = Provenance { max: true, ..Provenance::default() };
    for (key, value) in fields {
        match (key.as_str(), value.as_str()) {
            ("mode", "min") => wish.max = false,
            ("mode", "max") => wish.max = true,
            ("version", "v1") => wish.version = Slsa::V1,
            ("version", "v0.2") => wish.version = Slsa::V02,
            ("builder-id", _) => wish.builder_id = value,
            ("reproducible", "true" | "1") => wish.reproducible = true,
            ("reproducible", "false" | "0") => wish.reproducible = false,
            // Here they go with images only.
            ("inline-only", "true" | "false" | "1" | "0") => {}
            _ => {
                return Err(wrong(flag, text, &format!("has '{key}={value}', which is not supported"), HINT));
            }
        }
    }
    Ok(wish)
}

fn sbom(flag: &str, text: &str, fields: Vec<(String, String)>) -> anyhow::Result<bool> {
    match fields.first() {
        None => Ok(true),
        Some((key, _)) if key == "generator" => Err(wrong(
            flag,
            text,
            "names a generator, and packages are listed by wharf's own scanner",
            "write true",
        )),
        Some((key, _)) => {
            Err(wrong(flag, text, &format!("has '{key}', which is not supported"), "write true or false"))
        }
    }
}

/// Lists packages with wharf's scanner.
pub(super) fn bill() -> Bill {
    Arc::new(|store, image, request| {
        let report = wharf_scan::inventory(store, image).map_err(|error| {
            let hint = error.hint().unwrap_or_else(|| "build without --sbom".into());
            Hinted::new(error, hint)
        })?;
        let about =
            wharf_scan::About { name: &request.name, digest: &request.manifest, created: &request.created };
        Ok(wharf_scan::spdx(&report, &about))
    })
}
