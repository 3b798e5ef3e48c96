//! The container runtime interface of Kubernetes on a socket of the data folder, for a kubelet and crictl.

use std::{net::IpAddr, path::Path, path::PathBuf, sync::Arc};

use tokio::{runtime::Handle, task::spawn_blocking};
use wharf_criapi::{Config, Cri, Network, Streams};
use wharf_http::Listener;
use wharf_network::PortMapping;
use wharf_node::Failure;
use wharf_runtime::ShimRuntime;

use super::{
    Listeners, Parts, handler,
    host::{Puller, Wiring, instance},
};

/// The pod network for sandboxes.
struct Wired(Wiring);

impl wharf_node::PodNetwork for Wired {
    fn attach(&self, pod_uid: &str, namespace: &Path) -> Result<IpAddr, Failure> {
        self.0.attach(pod_uid, namespace)
    }

    fn detach(&self, pod_uid: &str) -> Result<(), Failure> {
        self.0.detach(pod_uid)
    }
}

impl Network for Wired {
    fn publish(&self, id: &str, ports: Vec<PortMapping>) -> Result<(), Failure> {
        let published = self.0.handle.block_on(self.0.network.publish(id, ports));
        published.map_err(|error| Failure::of(&error))
    }
}

impl Parts {
    /// Serves the interface for whoever may enter the data folder. Everything else works without.
    pub(super) async fn serve_cri(&self, listeners: &mut Listeners) -> Option<(PathBuf, Arc<Cri>)> {
        let network = Arc::clone(self.network.as_ref()?);
        let path = self.data.join("cri.sock");
        let opened = async {
            let listener = Listener::unix(&path)?;
            let (streams, streaming) = Streams::serve(listeners.stopping.clone()).await?;
            let config = Config {
                data: self.data.clone(),
                instance: instance(&self.data),
                runtime: Arc::new(ShimRuntime::default()),
                images: Arc::clone(&self.images),
                network: Arc::new(Wired(Wiring { network, handle: Handle::current() })),
                puller: Arc::new(Puller { images: Arc::clone(&self.images) }),
            };
            let cri = spawn_blocking(move || Cri::open(config, streams)).await??;
            anyhow::Ok((listener, streaming, cri))
        };
        let (listener, streaming, cri) = match opened.await {
            Ok(opened) => opened,
            // Such as a path longer than sockets may have.
            Err(error) => {
                tracing::warn!(%error, "there is no container runtime interface");
                return None;
            }
        };
        let served = Arc::clone(&cri);
        let handler = handler(move |request| Arc::clone(&served).handle(request));
        listeners.tasks.spawn(streaming);
        listeners.tasks.spawn(listener.serve(handler, listeners.stopping.clone()));
        Some((path, cri))
    }
}
