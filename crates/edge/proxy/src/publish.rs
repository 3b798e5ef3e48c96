//! Tells the owners of Ingresses: the address they are served at, and what of them is not honoured.

use std::{collections::HashSet, net::IpAddr};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use wharf_base::{Clock, SystemClock, random_suffix};
use wharf_client::{Client, Gvr};

use crate::{objects::INGRESSES, routes::Warning};

const EVENTS: Gvr = Gvr::fixed("", "v1", "events");
/// Warnings remembered, so that each is told once.
const MAX_TOLD: usize = 10_000;

/// What came with new routes.
pub(crate) struct Report {
    pub(crate) served: Vec<(String, String)>,
    pub(crate) warnings: Vec<Warning>,
}

/// Publishes reports until their sender is gone.
pub(crate) async fn run(client: Client, address: Option<IpAddr>, mut reports: mpsc::Receiver<Report>) {
    let mut told = HashSet::new();
    while let Some(report) = reports.recv().await {
        for warning in report.warnings {
            if told.len() >= MAX_TOLD {
                told.clear();
            }
            if told.insert(warning.clone()) {
                tell(&client, &warning).await;
            }
        }
        let Some(address) = address else { continue };
        for (namespace, name) in &report.served {
            address_of(&client, namespace, name, address).await;
        }
    }
}

async fn tell(client: &Client, warning: &Warning) {
    let Warning { namespace, name, uid, message } = warning;
    tracing::warn!(ingress = %format!("{namespace}/{name}"), "{message}");
    let now = SystemClock.now().to_string();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"namespace": namespace, "name": format!("{name}.{}", random_suffix(10))},
        "involvedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "namespace": namespace, "name": name, "uid": uid},
        "reason": "NotHonoured", "message": message, "type": "Warning", "count": 1,
        "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": "wharf-proxy"}, "reportingComponent": "wharf-proxy", "reportingInstance": "",
    });
    if let Err(error) = client.create(&EVENTS, namespace, &event).await {
        tracing::debug!(%error, "cannot record an event");
    }
}

/// Writes the address into the Ingress' status, unless it stands there.
async fn address_of(client: &Client, namespace: &str, name: &str, address: IpAddr) {
    let wanted = json!([{"ip": address.to_string()}]);
    let written = async {
        let Some(ingress) = client.get(&INGRESSES, namespace, name).await? else { return Ok(()) };
        let there = ingress.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
        let same = there.is_some_and(|list| list.len() == 1 && list[0]["ip"] == wanted[0]["ip"]);
        if !same {
            let status = json!({"loadBalancer": {"ingress": wanted}});
            client.patch_status(&INGRESSES, namespace, name, &status).await?;
        }
        Ok::<_, wharf_client::Error>(())
    };
    if let Err(error) = written.await {
        tracing::debug!(%error, ingress = %format!("{namespace}/{name}"), "cannot write the address of an Ingress");
    }
}
