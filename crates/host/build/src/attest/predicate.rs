//! Provenance: pure, from what a build noted to SLSA's documents in BuildKit's build types.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::{
    Provenance, Slsa,
    steps::{self, Traced},
};
use crate::progress::StepId;

/// What the build took from outside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Material {
    /// A package URL or an address, without passwords.
    pub(crate) uri: String,
    /// Algorithm and hexadecimal digits.
    pub(crate) digest: Option<(String, String)>,
}

impl Material {
    pub(crate) fn of_digest(uri: String, digest: &wharf_base::Digest) -> Self {
        Self { uri, digest: Some((digest.algorithm().name().to_owned(), digest.hex())) }
    }

    /// A repository at a commit.
    pub(crate) fn of_commit(uri: String, commit: &str) -> Self {
        let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
        Self { uri, digest: Some((algorithm.into(), commit.to_owned())) }
    }

    fn json(&self) -> Value {
        let mut value = json!({ "uri": self.uri });
        if let Some(digest) = self.digest_json() {
            value["digest"] = digest;
        }
        value
    }

    fn digest_json(&self) -> Option<Value> {
        let (algorithm, digits) = self.digest.as_ref()?;
        Some(json!({ algorithm.as_str(): digits }))
    }
}

/// Where the Dockerfile came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ConfigSource {
    /// The remote context it was in.
    pub(crate) context: Option<Material>,
    /// Its path.
    pub(crate) path: String,
}

/// A secret or an agent a step asked for, by its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) id: String,
    pub(crate) optional: bool,
}

/// What a build noted for its provenance.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) config: ConfigSource,
    /// What was asked for, in the words of BuildKit's front end: `build-arg:NAME`, `label:NAME`, `target`.
    pub(crate) args: BTreeMap<String, String>,
    pub(crate) secrets: Vec<Named>,
    pub(crate) ssh: Vec<Named>,
    /// Folders of this machine files came from, by name.
    pub(crate) locals: Vec<String>,
    pub(crate) materials: Vec<Material>,
    /// Something came from outside whose digest is not known.
    pub(crate) incomplete: bool,
    /// A step had a network.
    pub(crate) network: bool,
    /// The platform of this machine.
    pub(crate) builder_platform: String,
    pub(crate) invocation: String,
    /// RFC 3339.
    pub(crate) started: String,
    pub(crate) finished: String,
    pub(crate) steps: BTreeMap<StepId, Traced>,
    /// Name and text.
    pub(crate) dockerfile: (String, String),
}

/// The predicate, of the type `wish.version` says.
pub(crate) fn predicate(wish: &Provenance, facts: &Facts) -> Value {
    let told = Told { wish, facts };
    match wish.version {
        Slsa::V1 => told.v1(),
        Slsa::V02 => told.v02(),
    }
}

struct Told<'a> {
    wish: &'a Provenance,
    facts: &'a Facts,
}

impl Told<'_> {
    fn v1(&self) -> Value {
        let facts = self.facts;
        let mut internal = json!({ "builderPlatform": facts.builder_platform });
        if let Some(config) = self.build_config() {
            internal["buildConfig"] = config;
        }
        let mut metadata = json!({
            "invocationId": facts.invocation,
            "startedOn": facts.started,
            "finishedOn": facts.finished,
            "buildkit_metadata": self.metadata(),
            "buildkit_completeness": {
                "request": self.is_request_complete(), "resolvedDependencies": self.are_materials_complete(),
            },
        });
        if self.is_hermetic() {
            metadata["buildkit_hermetic"] = true.into();
        }
        if self.wish.reproducible {
            metadata["buildkit_reproducible"] = true.into();
        }
        json!({
            "buildDefinition": {
                "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                "externalParameters": { "configSource": self.config_source("path"), "request": self.request() },
                "internalParameters": internal,
                "resolvedDependencies": self.materials(),
            },
            "runDetails": { "builder": { "id": self.wish.builder_id }, "metadata": metadata },
        })
    }

    fn v02(&self) -> Value {
        let facts = self.facts;
        let mut metadata = json!({
            "buildInvocationID": facts.invocation,
            "buildStartedOn": facts.started,
            "buildFinishedOn": facts.finished,
            "completeness": {
                "parameters": self.is_request_complete(), "environment": true, "materials": self.are_materials_complete(),
            },
            "reproducible": self.wish.reproducible,
            "https://mobyproject.org/buildkit@v1#metadata": self.metadata(),
        });
        if self.is_hermetic() {
            metadata["https://mobyproject.org/buildkit@v1#hermetic"] = true.into();
        }
        let mut value = json!({
            "builder": { "id": self.wish.builder_id },
            "buildType": "https://mobyproject.org/buildkit@v1",
            "materials": self.materials(),
            "invocation": {
                "configSource": self.config_source("entryPoint"),
                "parameters": self.request(),
                "environment": { "platform": facts.builder_platform },
            },
            "metadata": metadata,
        });
        if let Some(config) = self.build_config() {
            value["buildConfig"] = config;
        }
        value
    }

    fn config_source(&self, path: &str) -> Value {
        let config = &self.facts.config;
        let mut value = Map::new();
        if let Some(context) = &config.context {
            value.insert("uri".into(), context.uri.clone().into());
            value.extend(context.digest_json().map(|digest| ("digest".to_owned(), digest)));
        }
        if !config.path.is_empty() {
            value.insert(path.into(), config.path.clone().into());
        }
        Value::Object(value)
    }

    fn request(&self) -> Value {
        let facts = self.facts;
        let mut value = json!({ "frontend": "dockerfile.v0" });
        let told = facts.args.iter().filter(|(name, _)| self.wish.max || !is_private(name));
        let args: Map<String, Value> =
            told.map(|(name, value)| (name.clone(), value.clone().into())).collect();
        if !args.is_empty() {
            value["args"] = args.into();
        }
        let named = |all: &[Named]| -> Value {
            let one = |named: &Named| match named.optional {
                true => json!({ "id": named.id, "optional": true }),
                false => json!({ "id": named.id }),
            };
            all.iter().map(one).collect()
        };
        for (key, all) in [("secrets", &facts.secrets), ("ssh", &facts.ssh)] {
            if self.wish.max && !all.is_empty() {
                value[key] = named(all);
            }
        }
        if !facts.locals.is_empty() {
            value["locals"] = facts.locals.iter().map(|name| json!({ "name": name })).collect();
        }
        value
    }

    fn materials(&self) -> Value {
        self.facts.materials.iter().map(Material::json).collect()
    }

    fn build_config(&self) -> Option<Value> {
        self.wish.max.then(|| json!({ "llbDefinition": steps::definition(&self.facts.steps) }))
    }

    fn metadata(&self) -> Value {
        let facts = self.facts;
        if !self.wish.max {
            return json!({});
        }
        let (name, text) = &facts.dockerfile;
        let data = base64::engine::general_purpose::STANDARD.encode(text);
        json!({
            "source": {
                "locations": steps::locations(&facts.steps),
                "infos": [{ "filename": name, "language": "Dockerfile", "data": data }],
            },
            "layers": steps::layers(&facts.steps),
        })
    }

    /// Whether all the build was asked for is told.
    fn is_request_complete(&self) -> bool {
        let facts = self.facts;
        let hidden = facts.args.keys().any(|name| is_private(name));
        self.wish.max || !(hidden || !facts.secrets.is_empty() || !facts.ssh.is_empty())
    }

    /// Nobody knows what was in a folder of this machine.
    fn are_materials_complete(&self) -> bool {
        !self.facts.incomplete && self.facts.locals.is_empty()
    }

    fn is_hermetic(&self) -> bool {
        self.are_materials_complete() && !self.facts.network
    }
}

/// What only `mode=max` tells.
fn is_private(name: &str) -> bool {
    name.starts_with("build-arg:") || name.starts_with("label:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::Op;

    fn facts() -> Facts {
        let traced = |op, inputs: &[usize]| Traced {
            op,
            inputs: inputs.to_vec(),
            place: Default::default(),
            platform: "linux/amd64".into(),
            layers: Vec::new(),
        };
        let exec = Op::Exec {
            args: vec!["true".into()],
            env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            network: "NONE",
            insecure: false,
        };
        Facts {
            args: [("build-arg:A", "secretive"), ("target", "t")].map(|(k, v)| (k.into(), v.into())).into(),
            secrets: vec![Named { id: "S".into(), optional: true }],
            steps: BTreeMap::from([
                (1, traced(Op::Source("docker-image://a".into()), &[])),
                (2, traced(Op::Same, &[1])),
                (3, traced(exec, &[2])),
            ]),
            ..Facts::default()
        }
    }

    #[test]
    fn less_is_told_without_max() {
        let min = predicate(&Provenance::default(), &facts());
        assert_eq!(
            min.pointer("/buildDefinition/externalParameters/request/args"),
            Some(&json!({ "target": "t" }))
        );
        assert!(!min.to_string().contains("secretive") && !min.to_string().contains("\"S\""));
        assert_eq!(min.pointer("/runDetails/metadata/buildkit_completeness/request"), Some(&json!(false)));
        let max = predicate(&Provenance { max: true, version: Slsa::V02, ..Provenance::default() }, &facts());
        assert_eq!(max.pointer("/invocation/parameters/args/build-arg:A"), Some(&json!("secretive")));
        assert_eq!(
            max.pointer("/invocation/parameters/secrets"),
            Some(&json!([{ "id": "S", "optional": true }]))
        );
        assert_eq!(max.pointer("/metadata/completeness/parameters"), Some(&json!(true)));
        // A stage on a stage is no step: its first step stands on the image itself.
        assert_eq!(max.pointer("/buildConfig/llbDefinition/1/id"), Some(&json!("step3")));
        assert_eq!(max.pointer("/buildConfig/llbDefinition/1/inputs"), Some(&json!(["step1:0"])));
        assert_eq!(max.pointer("/buildConfig/llbDefinition/1/op/Op/exec/network"), Some(&json!("NONE")));
    }

    #[test]
    fn hermetic_is_what_no_folder_and_no_network_were_part_of() {
        let hermetic = |change: &dyn Fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            let told = predicate(&Provenance::default(), &facts);
            told.pointer("/runDetails/metadata/buildkit_hermetic").is_some()
        };
        assert!(hermetic(&|_| {}));
        assert!(!hermetic(&|facts| facts.network = true));
        assert!(!hermetic(&|facts| facts.locals = vec!["context".into()]));
        assert!(!hermetic(&|facts| facts.incomplete = true));
    }
}
