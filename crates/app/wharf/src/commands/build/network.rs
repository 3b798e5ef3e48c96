//! The network of build steps: that of containers (`wharf run`), for as long as a step runs.

use std::{fs, path::Path};

use wharf_base::Hinted;
use wharf_build::StepNetwork;
use wharf_engine::{Engine, Result, resolver};

const PREFIX: &str = "build-";

/// Connects steps to the bridge network of a data folder.
pub(crate) struct Steps {
    engine: Engine,
}

impl Steps {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    /// Addresses of steps that are over: their folders are gone, by themselves or swept by the build that came next.
    fn over(&self) -> Result<Vec<String>> {
        let of_builds = |id: &String| {
            let temp = id.strip_prefix(PREFIX);
            temp.is_some_and(|temp| !self.engine.data().join("build-cache/tmp").join(temp).exists())
        };
        Ok(self.engine.bridge().connected()?.into_iter().filter(of_builds).collect())
    }

    /// Removes the network unless containers or the platform use it.
    pub(crate) fn finish(&self) {
        let bridge = self.engine.bridge();
        let released = self.over().and_then(|over| bridge.detach_others(&over));
        // The next command on containers does it, when this one cannot.
        let _ = released.and_then(|()| bridge.release_ended());
    }
}

impl StepNetwork for Steps {
    fn attach(&self, id: &str, namespace: &Path) -> std::result::Result<(), Hinted> {
        let joined = self.over().and_then(|over| self.engine.bridge().attach_other(id, namespace, &over));
        joined.map(drop).map_err(|error| Hinted::new(error, "use --network none or --network host"))
    }

    /// Its link goes with the pod, and its address with the next step or the end of the build, which open the network anyway.
    fn detach(&self, _id: &str) {}

    fn resolver(&self) -> Vec<u8> {
        resolver(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()).into_bytes()
    }
}
