//! How a container is to stand in a network.

use serde::Deserialize;
use wharf_engine::EndpointWish;

use super::nothing_is_default;
use crate::docker::answer::Failure;

/// An `EndpointSettings` as clients send it.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(in crate::docker) struct Endpoint {
    #[serde(deserialize_with = "nothing_is_default")]
    aliases: Vec<String>,
    #[serde(rename = "IPAMConfig", deserialize_with = "nothing_is_default")]
    ipam_config: IpamConfig,
    #[serde(deserialize_with = "nothing_is_default")]
    links: Vec<String>,
    #[serde(deserialize_with = "nothing_is_default")]
    mac_address: String,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct IpamConfig {
    #[serde(rename = "IPv4Address", deserialize_with = "nothing_is_default")]
    ipv4: String,
    #[serde(rename = "IPv6Address", deserialize_with = "nothing_is_default")]
    ipv6: String,
}

impl Endpoint {
    /// In the engine's words.
    pub(in crate::docker) fn read(self, network: &str) -> Result<wharf_engine::Endpoint, Failure> {
        let asked = self.ipam_config.ipv4;
        let asked6 = self.ipam_config.ipv6;
        if !(asked.is_empty() && asked6.is_empty()) && network == "bridge" {
            return Err(Failure::bad("user specified IP address is supported on user defined networks only"));
        }
        let wrong = |_| Failure::bad(format!("invalid IPv4 address: {asked}"));
        let address = if asked.is_empty() { None } else { Some(asked.parse().map_err(wrong)?) };
        let wrong = |_| Failure::bad(format!("invalid IPv6 address: {asked6}"));
        let ipv6 = if asked6.is_empty() { None } else { Some(asked6.parse().map_err(wrong)?) };
        let hardware = match self.mac_address.as_str() {
            "" => None,
            text => Some(hardware(text)?),
        };
        Ok(wharf_engine::Endpoint {
            aliases: self.aliases,
            links: self.links,
            wish: EndpointWish { address, ipv6, hardware },
        })
    }
}

/// A hardware address from its text.
pub(super) fn hardware(text: &str) -> Result<[u8; 6], Failure> {
    let bytes: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
        .collect();
    let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    bytes.ok_or_else(|| Failure::bad(format!("invalid mac address: {text}")))
}
