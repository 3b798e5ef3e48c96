//! `RUN --device`: devices that are registered on this machine and that the caller of the build allows.

use std::collections::BTreeSet;

use super::{request::AllowedDevices, stage::StageRun};
use crate::{
    cdi::{Registry, Request},
    error::{Error, Result},
};

impl StageRun<'_> {
    /// The full names of the devices of a step. What is not there and not required is left out, with a remark.
    pub(super) fn devices(&self, registry: &Registry, wanted: &[Request]) -> Result<BTreeSet<String>> {
        let chosen = choose(registry, &self.build.request.allowed.devices, wanted)?;
        for name in &chosen.missing {
            super::executor::warn(
                self.build.listener,
                &format!("the device '{name}' is not registered: the step has none"),
            );
        }
        Ok(chosen.devices)
    }
}

#[derive(Debug, Default)]
struct Chosen {
    devices: BTreeSet<String>,
    missing: Vec<String>,
}

/// What a step gets of what it wants, or why it must not have it.
fn choose(registry: &Registry, allowed: &AllowedDevices, wanted: &[Request]) -> Result<Chosen> {
    let mut chosen = Chosen::default();
    let granted: BTreeSet<&str> = allowed.names.keys().flat_map(|name| registry.find(name)).collect();
    for request in wanted {
        // The caller may give another device under the name the Dockerfile asks for.
        let alias = allowed.names.get(&request.name).and_then(Option::as_deref);
        let found = registry.find(alias.unwrap_or(&request.name));
        if found.is_empty() && request.required {
            return Err(registry.missing(alias.unwrap_or(&request.name)));
        }
        if found.is_empty() {
            chosen.missing.push(request.name.clone());
        }
        for device in found {
            let may = allowed.all
                || alias.is_some()
                || granted.contains(device)
                || registry.is_allowed_to_all(device);
            if !may {
                return Err(Error::invalid(format!(
                    "RUN --device={} asks for the device {device}, which is not allowed in this build",
                    request.name
                ))
                .hint(format!(
                    "if the step may use it, add --allow device={device}, or --allow device for all"
                )));
            }
            chosen.devices.insert(device.to_owned());
        }
    }
    Ok(chosen)
}
