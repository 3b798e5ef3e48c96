//! Keeps the routing table as the API says.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use wharf_client::{Change, Client, Gvr, Informer, ListParams, action};
use wharf_http::Certificates;

use crate::{
    forward::Gateway,
    objects::{INGRESS_CLASSES, INGRESSES, Kind, ROLLOUTS, SECRETS, World},
    publish::Report,
    table::{Dirty, update},
};

/// Changes taken together at the most.
const BATCH: usize = 4096;

/// The resources watched.
pub(crate) struct Informers(Vec<(Kind, Informer)>);

impl Informers {
    pub(crate) fn start(client: &Client) -> Self {
        let watched: [(Kind, Gvr, &str); 7] = [
            (Kind::Class, INGRESS_CLASSES, ""),
            (Kind::Ingress, INGRESSES, ""),
            (Kind::Service, action::SERVICES, ""),
            (Kind::Slice, action::ENDPOINT_SLICES, ""),
            (Kind::Pod, action::PODS, ""),
            (Kind::Rollout, ROLLOUTS, ""),
            (Kind::Secret, SECRETS, "type=kubernetes.io/tls"),
        ];
        Self(
            watched
                .into_iter()
                .map(|(kind, resource, fields)| {
                    let params = ListParams { fields: fields.to_owned(), ..ListParams::default() };
                    (kind, Informer::start(client.clone(), resource, params))
                })
                .collect(),
        )
    }

    /// Waits for the first list of everything but Rollouts, whose definition may not be there.
    pub(crate) async fn synced(&self) {
        for (_, informer) in self.0.iter().filter(|(kind, _)| *kind != Kind::Rollout) {
            informer.synced().await;
        }
    }

    /// Applies what changes until the informers are gone.
    pub(crate) async fn run(
        self,
        gateway: Arc<Gateway>,
        certificates: Certificates,
        reports: mpsc::Sender<Report>,
    ) {
        let streams = self.0.iter().map(|(kind, informer)| {
            let kind = *kind;
            let next = move |mut changes: mpsc::UnboundedReceiver<Change>| async move {
                changes.recv().await.map(|change| ((kind, change), changes))
            };
            stream::unfold(informer.subscribe(), next).boxed()
        });
        let mut batches = stream::select_all(streams).ready_chunks(BATCH);
        let mut world = World::default();
        while let Some(batch) = batches.next().await {
            let mut dirty = Dirty::default();
            for (kind, change) in batch {
                if world.set(kind, &change.key, change.new.as_deref()) {
                    dirty.note(kind, &change.key);
                }
            }
            if dirty.is_empty() {
                continue;
            }
            let (table, outcome) = update(&gateway.table(), &world, &dirty, &gateway.registry);
            gateway.swap(table);
            gateway.registry.sweep();
            if let Some(outcome) = outcome {
                certificates.replace(outcome.certificates);
                // A report that finds no room is followed by a newer one.
                let _ = reports.try_send(Report { served: outcome.served, warnings: outcome.warnings });
            }
        }
    }
}
