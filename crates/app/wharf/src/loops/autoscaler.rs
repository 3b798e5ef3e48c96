//! HorizontalPodAutoscalers: see `wharf_scale::hpa`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use wharf_base::Timestamp;
use wharf_client::{Informer, Result, action::PODS};
use wharf_control::Step;
use wharf_scale::{
    HORIZONTAL_POD_AUTOSCALERS,
    behavior::History,
    hpa::{Autoscaler, Measured, MetricSpec, NamedMetric, View, step},
    pods::{ScaledPod, Usage},
};

use super::{
    cache::Typed,
    keys,
    measure::{Measure, Sample, ask, usage},
    runner::{Controller, Seen, Shared, Watch},
    scale_target::Targets,
};

/// Every autoscaler is decided about this often: a size may follow a load within seconds.
const EVERY: Duration = Duration::from_secs(2);

pub(crate) struct Autoscalers {
    autoscalers: Arc<Typed<Autoscaler>>,
    pods: Informer,
    targets: Targets,
    measure: Arc<dyn Measure>,
    histories: Mutex<HashMap<String, History>>,
}

impl Autoscalers {
    pub(crate) fn new(shared: &Shared, measure: &Arc<dyn Measure>) -> Self {
        Self {
            autoscalers: shared.informers.typed(HORIZONTAL_POD_AUTOSCALERS),
            pods: shared.informers.of(&PODS),
            targets: Targets::new(shared.client.clone()),
            measure: Arc::clone(measure),
            histories: Mutex::default(),
        }
    }

    fn pods(&self, namespace: &str, selector: &str) -> Vec<ScaledPod> {
        let Ok(selector) = wharf_api::selector::LabelSelector::parse(selector) else { return Vec::new() };
        let pods = self.pods.in_namespace(namespace);
        let selected = pods.iter().filter(|pod| selector.matches(&keys::labels(pod)));
        selected.filter_map(|pod| ScaledPod::read(pod)).collect()
    }
}

impl Controller for Autoscalers {
    const NAME: &'static str = "horizontal-pod-autoscaler";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.autoscalers.informer, |_, change| keys::own(change))]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(autoscaler) = self.autoscalers.get(key) else {
            self.histories.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Ok(Step::idle());
        };
        let namespace = keys::namespace(key);
        let target = &autoscaler.spec.scale_target_ref;
        let scale = self.targets.read(namespace, target).await;
        let pods = scale.as_ref().map(|s| self.pods(namespace, &s.selector)).unwrap_or_default();
        let mut measured = Vec::new();
        for spec in autoscaler.spec.effective_metrics() {
            let query = Question { autoscaler: Arc::clone(&autoscaler), spec, now: seen.now };
            let answer = ask(&self.measure, move |measure| Ok(query.ask(measure))).await;
            measured.push(answer.unwrap_or_else(Measured::Unknown));
        }
        let decision = {
            let mut histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
            let view = View {
                autoscaler: &autoscaler,
                scale: scale.as_ref().map(|s| (s.asked, s.there)).map_err(Clone::clone),
                pods: &pods,
                measured: &measured,
            };
            step(&view, histories.entry(key.to_owned()).or_default(), seen.now)
        };
        if let (Some(replicas), Ok(scale)) = (decision.replicas, &scale) {
            self.targets.set(namespace, &target.name, &scale.resource, replicas).await?;
        }
        Ok(Step { actions: decision.actions, requeue_after: Some(EVERY) })
    }
}

struct Question {
    autoscaler: Arc<Autoscaler>,
    spec: MetricSpec,
    now: Timestamp,
}

impl Question {
    fn namespace(&self) -> &str {
        &self.autoscaler.metadata.namespace
    }

    fn ask(&self, measure: &dyn Measure) -> Measured {
        let resource = self.spec.resource.as_ref().or(self.spec.container_resource.as_ref());
        if let Some(resource) = resource {
            return match usage(measure, self.namespace(), &resource.name, self.now) {
                Ok(usage) => Measured::Usage(usage),
                Err(problem) => Measured::Unknown(problem),
            };
        }
        let namespace = self.namespace();
        let named = |kind: &str, metric: &NamedMetric, usual: String| {
            // The annotation of Zalando's kube-metrics-adapter.
            let annotation = format!("metric-config.{kind}.{}.prometheus/query", metric.metric.name);
            self.autoscaler.metadata.annotations.get(&annotation).cloned().unwrap_or(usual)
        };
        let answer = if let Some(metric) = &self.spec.pods {
            let name = &metric.metric.name;
            let usual = format!("sum by (pod) ({name}{{namespace={namespace:?}{}}})", matchers(metric));
            return match measure.now(&named("pods", metric, usual)) {
                Ok(samples) => Measured::Usage(by_pod(samples, self.now)),
                Err(problem) => Measured::Unknown(problem),
            };
        } else if let Some(metric) = &self.spec.object {
            let object = metric.described_object.clone().unwrap_or_default();
            let name = &metric.metric.name;
            let kind = object.kind.to_lowercase();
            let usual = format!(
                "sum({name}{{namespace={namespace:?},{kind}={:?}{}}})",
                object.name,
                matchers(metric)
            );
            measure.now(&named("object", metric, usual))
        } else if let Some(metric) = &self.spec.external {
            let inner = matchers(metric);
            let usual = format!("sum({}{{{}}})", metric.metric.name, inner.trim_start_matches(','));
            measure.now(&named("external", metric, usual))
        } else {
            return Measured::Unknown(format!("the metric names no {}", self.spec.kind));
        };
        match answer {
            Ok(samples) => match samples.as_slice() {
                [] => Measured::Unknown("the query gives nothing".to_owned()),
                samples => {
                    Measured::Number((samples.iter().map(|s| s.value).sum::<f64>() * 1000.0).round() as i64)
                }
            },
            Err(problem) => Measured::Unknown(problem),
        }
    }
}

/// The selector of a metric as PromQL, each matcher after a comma.
fn matchers(metric: &NamedMetric) -> String {
    metric.metric.selector.as_ref().map(wharf_scale::hpa::matchers).unwrap_or_default()
}

fn by_pod(samples: Vec<Sample>, now: Timestamp) -> BTreeMap<String, Usage> {
    let mut usage = BTreeMap::new();
    for sample in samples {
        let Some(pod) = sample.labels.get("pod") else { continue };
        let containers = [(String::new(), (sample.value * 1000.0).round() as i64)].into();
        usage.insert(pod.clone(), Usage { containers, at: Some(now), window: Duration::ZERO });
    }
    usage
}
