//! AnalysisRuns: see `wharf_deliver::analysis`.

use std::sync::Arc;

use wharf_client::Result;
use wharf_control::Step;
use wharf_deliver::{
    ANALYSIS_RUNS,
    analysis::{AnalysisRun, Metric, Outcome, condition::Datum, record, step},
};

use super::{
    cache::Typed,
    keys,
    measure::{Measure, ask},
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct AnalysisRuns {
    runs: Arc<Typed<AnalysisRun>>,
    clock: Arc<dyn wharf_base::Clock>,
    measure: Arc<dyn Measure>,
}

impl AnalysisRuns {
    pub(crate) fn new(shared: &Shared, measure: &Arc<dyn Measure>) -> Self {
        Self {
            runs: shared.informers.typed(ANALYSIS_RUNS),
            clock: Arc::clone(&shared.clock),
            measure: Arc::clone(measure),
        }
    }

    async fn outcome(&self, metric: &Metric) -> Outcome {
        let started_at = self.clock.now();
        let result = match &metric.provider.prometheus {
            None => Err("the metric names no provider that is supported".to_owned()),
            Some(prometheus) => {
                let query = prometheus.query.clone();
                ask(&self.measure, move |measure| measure.now(&query)).await
            }
        };
        let result = result.map(|samples| {
            let values: Vec<f64> = samples.iter().map(|s| s.value).collect();
            let text = values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
            (Datum::List(values.into_iter().map(Datum::Number).collect()), format!("[{text}]"))
        });
        Outcome { metric: metric.name.clone(), started_at, finished_at: self.clock.now(), result }
    }
}

impl Controller for AnalysisRuns {
    const NAME: &'static str = "analysis-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.runs.informer, |_, change| keys::own(change))]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(run) = self.runs.get(key) else { return Ok(Step::idle()) };
        let decision = step(&run, seen.now);
        if decision.measure.is_empty() {
            return Ok(Step {
                actions: decision.write.into_iter().collect(),
                requeue_after: decision.requeue_after,
            });
        }
        let mut outcomes = Vec::with_capacity(decision.measure.len());
        for metric in &decision.measure {
            outcomes.push(self.outcome(metric).await);
        }
        let actions = record(&run, &outcomes, self.clock.now()).into_iter().collect();
        // When the next measurement is due is decided on the status that is written now.
        Ok(Step { actions, requeue_after: decision.requeue_after })
    }
}
