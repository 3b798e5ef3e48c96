//! The control loops: each wires one decision of `wharf_control` or `wharf_schedule` to the API.

mod aggregation;
mod analysis;
mod apply;
mod autoscaler;
mod bootstrap_token;
mod cache;
mod certificate;
mod cronjob;
mod daemonset;
mod definition;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslicemirroring;
mod events;
mod evidence;
mod garbage;
mod job;
pub(crate) mod keys;
pub(crate) mod measure;
mod namespace;
mod namespace_defaults;
mod node_lifecycle;
mod podgc;
mod recorder;
mod redis;
mod replicaset;
mod resource_quota;
mod rollout;
mod runner;
mod scale_target;
mod scaled_object;
mod scheduler;
mod statefulset;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::sleep};
use wharf_base::Clock;
use wharf_client::Client;
use wharf_control::replicaset::{ReplicaSet, ReplicationController};
use wharf_http::Authority;

use cache::Informers;
use measure::Measure;
use recorder::Recorder;
use runner::{Controller, Shared, run};

/// Workers of a loop whose keys are many.
const MANY: usize = 8;
/// Workers of the other loops.
const FEW: usize = 2;
/// How long a loop rests after a panic.
const REST: Duration = Duration::from_secs(1);

/// The running loops.
pub(crate) struct Loops {
    tasks: JoinSet<()>,
}

/// Starts every loop. `authority` is what clients trust, and signs their certificates.
pub(crate) fn start(
    client: Client,
    clock: Arc<dyn Clock>,
    authority: &Arc<Authority>,
    measure: &Arc<dyn Measure>,
) -> Loops {
    let (recorder, recording) = Recorder::new(client.clone(), Arc::clone(&clock));
    let shared = Shared { informers: Informers::new(client.clone()), client, clock, recorder };
    let mut loops = Loops { tasks: JoinSet::new() };
    loops.tasks.spawn(recording);
    loops.controller(&shared, MANY, deployment::Deployments::new);
    loops.controller(&shared, MANY, replicaset::ReplicaSets::<ReplicaSet>::new);
    loops.controller(&shared, MANY, replicaset::ReplicaSets::<ReplicationController>::new);
    loops.controller(&shared, MANY, statefulset::StatefulSets::new);
    loops.controller(&shared, FEW, daemonset::DaemonSets::new);
    loops.controller(&shared, MANY, job::Jobs::new);
    loops.controller(&shared, FEW, cronjob::CronJobs::new);
    loops.controller(&shared, FEW, resource_quota::ResourceQuotas::new);
    loops.controller(&shared, 1, aggregation::Aggregations::new);
    loops.controller(&shared, FEW, disruption::Disruptions::new);
    loops.controller(&shared, FEW, disruption::Targets::new);
    loops.controller(&shared, MANY, endpointslice::EndpointSlices::new);
    loops.controller(&shared, MANY, endpoints::EndpointsLoop::new);
    loops.controller(&shared, FEW, endpointslicemirroring::Mirrors::new);
    loops.controller(&shared, FEW, namespace::Namespaces::new);
    // One at a time: the first to ask gets a name.
    loops.controller(&shared, 1, definition::Definitions::new);
    let certificate = authority.certificate().to_owned();
    loops.controller(&shared, FEW, move |shared| {
        namespace_defaults::NamespaceDefaults::new(shared, &certificate)
    });
    loops.controller(&shared, FEW, certificate::Approver::new);
    let authority = Arc::clone(authority);
    loops.controller(&shared, FEW, move |shared| certificate::Signer::new(shared, &authority));
    loops.controller(&shared, 1, certificate::Cleaner::new);
    loops.controller(&shared, 1, bootstrap_token::Cleaner::new);
    loops.controller(&shared, 1, bootstrap_token::Signer::new);
    loops.controller(&shared, 1, podgc::PodGc::new);
    loops.controller(&shared, 1, events::Expiry::new);
    loops.controller(&shared, FEW, node_lifecycle::NodeLifecycle::new);
    let measuring = |measure: &Arc<dyn Measure>| Arc::clone(measure);
    let measure_of = measuring(measure);
    loops.controller(&shared, FEW, move |shared| rollout::Rollouts::new(shared, &measure_of));
    let measure_of = measuring(measure);
    loops.controller(&shared, FEW, move |shared| analysis::AnalysisRuns::new(shared, &measure_of));
    let measure_of = measuring(measure);
    loops.controller(&shared, FEW, move |shared| autoscaler::Autoscalers::new(shared, &measure_of));
    let measure_of = measuring(measure);
    loops.controller(&shared, FEW, move |shared| scaled_object::ScaledObjects::new(shared, &measure_of));
    loops.supervise("garbage collector", shared.clone(), garbage::run);
    loops.supervise("scheduler", shared, scheduler::run);
    loops
}

impl Loops {
    fn controller<C: Controller>(
        &mut self,
        shared: &Shared,
        workers: usize,
        make: impl Fn(&Shared) -> C + Send + Sync + 'static,
    ) {
        self.supervise(C::NAME, shared.clone(), move |shared| run(make(&shared), shared, workers));
    }

    /// Runs a part again whenever it ends: a panic in one decision must not end a loop for good.
    fn supervise<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        name: &'static str,
        shared: Shared,
        part: impl Fn(Shared) -> F + Send + Sync + 'static,
    ) {
        self.tasks.spawn(async move {
            loop {
                let mut running = JoinSet::new();
                running.spawn(part(shared.clone()));
                running.join_next().await;
                tracing::error!(name, "a control loop has ended; it starts again");
                sleep(REST).await;
            }
        });
    }

    /// Stops every loop. What a loop was about to write is decided again at the next start.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}
