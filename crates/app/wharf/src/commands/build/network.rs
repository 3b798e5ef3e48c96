//! The network of build steps: that of containers (`wharf run`), for as long as a step runs.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use wharf_base::Hinted;
use wharf_build::StepNetwork;
use wharf_network::PodNetwork;

use crate::{
    commands::containers::bridge,
    platform::{network_folder, open_network},
};

const PREFIX: &str = "build-";

/// Connects steps to the bridge network of a data folder.
pub(super) struct Steps {
    data: PathBuf,
}

impl Steps {
    pub(super) fn new(data: PathBuf) -> Self {
        Self { data }
    }

    fn connect(&self, id: &str, namespace: &Path) -> anyhow::Result<()> {
        let _lock = bridge::lock(&self.data)?;
        let left = left_over(&self.data)?;
        let namespace = File::open(namespace)?;
        block_on(async {
            let network = open_network(&self.data).await?;
            for id in left {
                network.detach(&id).await?;
            }
            network.attach(id, &namespace).await?;
            Ok(())
        })
    }

    fn release_left_over(&self) -> anyhow::Result<()> {
        if left_over(&self.data)?.is_empty() {
            return Ok(());
        }
        let _lock = bridge::lock(&self.data)?;
        let left = left_over(&self.data)?;
        block_on(async {
            let network = open_network(&self.data).await?;
            for id in left {
                network.detach(&id).await?;
            }
            Ok(())
        })
    }

    /// Removes the network unless containers or the platform use it.
    pub(super) fn finish(&self) {
        // The next command on containers does it, when this one cannot.
        let _ = self.release_left_over().and_then(|()| bridge::release_ended(&self.data));
    }
}

/// Addresses of steps that are over: their folders are gone, by themselves or swept by the build that came next.
fn left_over(data: &Path) -> anyhow::Result<Vec<String>> {
    let folder = network_folder(data);
    if !PodNetwork::exists(&folder) {
        return Ok(Vec::new());
    }
    let of_builds = |id: &String| {
        id.strip_prefix(PREFIX).is_some_and(|temp| !data.join("build-cache/tmp").join(temp).exists())
    };
    Ok(PodNetwork::attached(&folder)?.into_iter().filter(of_builds).collect())
}

impl StepNetwork for Steps {
    fn attach(&self, id: &str, namespace: &Path) -> Result<(), Hinted> {
        let hint = "use --network none or --network host";
        self.connect(id, namespace).map_err(|error| Hinted::new(format!("{error:#}"), hint))
    }

    /// Its link goes with the pod, and its address with the next step or the end of the build, which open the network anyway.
    fn detach(&self, _id: &str) {}

    fn resolver(&self) -> Vec<u8> {
        let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        bridge::resolver(&text).into_bytes()
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
