//! The story: what is done in which order, and what has to come of it.

use std::{
    future::Future,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::time::{Instant, interval};
use wharf_build::{PackRequest, pack};
use wharf_ci::api::{JobStatus, NAMESPACE, WorkflowRun};
use wharf_client::{
    Client, Gvr, Informer, ListParams,
    action::{PODS, SECRETS},
};
use wharf_deliver::ROLLOUTS;
use wharf_image::Store;

use super::{
    load::{Load, Plan},
    pipeline,
    production::{Fleet, Metrics, ROLLOUT, Rollout},
    sample::Sample,
    screen::{Screen, Style, columns, time},
};
use crate::{commands::platform::text, platform::Endpoints};

const AUTOSCALERS: Gvr = Gvr::fixed("autoscaling", "v2", "horizontalpodautoscalers");
/// How often the story looks where it cannot wait for an event.
const LOOK: Duration = Duration::from_millis(250);

const DAY: Plan = Plan { rate: 40.0, work: 0 };
/// A fifth of the requests burn 20 ms of processor time each.
const RUSH: Plan = Plan { rate: 80.0, work: 20 };
/// One per cent of it is a request in two seconds or so.
const EVENING: Plan = Plan { rate: 60.0, work: 0 };
/// Goes on while the demo keeps serving, so that there is something to see.
pub(super) const NIGHT: Plan = Plan { rate: 10.0, work: 0 };

/// The canary has to be caught with no more than this share of the requests.
const CAUGHT_BY: i64 = 5;

/// Stages so far.
pub(super) struct Stages<'a> {
    screen: &'a Screen,
    rows: Mutex<Vec<Vec<String>>>,
}

impl<'a> Stages<'a> {
    pub(super) fn new(screen: &'a Screen) -> Self {
        Self { screen, rows: Mutex::default() }
    }

    /// Tells and keeps what comes of one stage.
    pub(super) async fn run<T>(
        &self,
        title: &str,
        work: impl Future<Output = Result<(T, String)>>,
    ) -> Result<T> {
        let (screen, begun) = (self.screen, Instant::now());
        screen.say(&format!("\n{}", screen.paint(Style::Bold, title)));
        let result = work.await;
        let took = time(begun.elapsed());
        let (style, text) = match &result {
            Ok((_, text)) => (Style::Good, format!("✓ {text}")),
            Err(_) => (Style::Bad, "✗ failed".to_owned()),
        };
        screen.say(&format!("  {}  {}", screen.paint(style, &text), screen.paint(Style::Dim, &took)));
        let row = vec![title.to_owned(), took, text];
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
        result.map(|(value, _)| value).with_context(|| format!("the stage \"{title}\" failed"))
    }

    /// All stages with their times and results.
    pub(super) fn table(&self) -> Vec<String> {
        columns(&self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the story needs of the platform.
pub(super) struct Story<'a> {
    pub(super) screen: &'a Screen,
    pub(super) stages: &'a Stages<'a>,
    pub(super) data: &'a Path,
    pub(super) endpoints: &'a Endpoints,
    pub(super) client: Client,
}

/// How the bad version fared.
struct Caught {
    weight: i64,
    /// From its first request until it was taken back.
    after: Duration,
    requests: usize,
    failed: usize,
    stable_requests: usize,
}

impl Story<'_> {
    /// Tells it to the end; gives the load, which goes on.
    pub(super) async fn tell(&self) -> Result<Load> {
        self.stages.run("Make a base image of this machine's own Python", self.pack()).await?;
        let sample = self.stages.run("Create the sample's repository", self.sample()).await?;
        let title = "Push the first version, through tests and staging to production";
        let version = self.stages.run(title, self.first_push(&sample)).await?;
        let load = self.stages.run("Customers come: golden signals", self.customers(&version)).await?;
        self.stages.run("More customers come: pods are added", self.rush(&load)).await?;
        let title = "Push a bad version, which passes every test";
        let caught = self.stages.run(title, self.bad_version(&sample, &load, &version)).await?;
        self.sum_up(&load, &caught);
        Ok(load)
    }

    async fn pack(&self) -> Result<((), String)> {
        let images = self.data.join("images");
        self.screen.live("packing python3, sh and what they need");
        let packed = tokio::task::spawn_blocking(move || -> Result<_> {
            let request = PackRequest {
                tags: vec!["base/python".parse()?],
                programs: vec!["python3".into(), "sh".into()],
                applets: false,
            };
            Ok(pack(&Store::open(images)?, &request)?)
        })
        .await??;
        for warning in &packed.warnings {
            self.screen.detail(&format!("warning: {warning}"));
        }
        Ok(((), format!("base/python: {} files, {:.1} MB", packed.files, packed.bytes as f64 / 1e6)))
    }

    async fn sample(&self) -> Result<(Sample, String)> {
        let sample = Sample::create(self.data.join("demo/shop")).await?;
        let code = STANDARD.encode("WELCOME10");
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": "pipeline-secrets", "namespace": NAMESPACE},
            "data": {"DISCOUNT_CODE": code},
        });
        self.client
            .create(&SECRETS, NAMESPACE, &secret)
            .await
            .context("the pipelines' secret cannot be made")?;
        let files = sample.files().await?;
        Ok((sample, format!("{files} files, and the secret DISCOUNT_CODE for its pipeline")))
    }

    fn address(&self) -> String {
        format!("http://{}/git/shop.git", self.endpoints.console)
    }

    /// Pushes, and gives the commit's name as its version has it.
    async fn push(&self, sample: &Sample) -> Result<(WorkflowRun, String)> {
        let (sha, url) = (sample.head().await?, self.address());
        self.screen.detail(&format!("git push {url} main"));
        let run = pipeline::push(&self.client, self.screen, sample.push(&url), &sha).await?;
        Ok((run, sha.chars().take(12).collect()))
    }

    fn watch(&self, resource: Gvr) -> Informer {
        Informer::start(self.client.clone(), resource, ListParams::namespace("shop"))
    }

    async fn first_push(&self, sample: &Sample) -> Result<(String, String)> {
        let (run, version) = self.push(sample).await?;
        let jobs = pipeline::expect_success(&run)?;
        let object = self.client.get(&ROLLOUTS, "shop", "shop").await?.context("there is no Rollout shop")?;
        let rollout = Rollout::read(&object);
        ensure!(rollout.phase == "Healthy", "the Rollout is {}: {}", rollout.phase, rollout.message);
        Ok((version.clone(), format!("{jobs} succeeded, version {version} serves on {} pods", rollout.ready)))
    }

    async fn customers(&self, version: &str) -> Result<(Load, String)> {
        let load = Load::start(self.endpoints.ingress_http, DAY).await?;
        let metrics = Metrics::new(self.endpoints.console);
        let mut look = interval(LOOK * 2);
        let deadline = Instant::now() + Duration::from_secs(40);
        let signals = loop {
            look.tick().await;
            let signals = metrics.signals().await?;
            self.screen.live(&signals.text());
            // Rates look ten seconds back: they are full when they come near to what is sent.
            if signals.traffic > DAY.rate * 0.9 && !signals.p99.is_zero() {
                break signals;
            }
            ensure!(
                Instant::now() < deadline,
                "the metrics tell of {:.1} requests a second; {} are sent",
                signals.traffic,
                DAY.rate
            );
        };
        let all = load.since(None, None);
        ensure!(
            all.failed == 0,
            "{} of {} requests failed: {}",
            all.failed,
            all.requests,
            load.failures().join(", ")
        );
        let versions: Vec<String> = load.versions().into_iter().collect();
        ensure!(versions == [version], "version {version} should answer; {} did", versions.join(" and "));
        Ok((load, signals.text()))
    }

    async fn rush(&self, load: &Load) -> Result<((), String)> {
        let (rollouts, autoscalers) = (self.watch(ROLLOUTS), self.watch(AUTOSCALERS));
        rollouts.synced().await;
        let read = || rollouts.get(ROLLOUT).map(|object| Rollout::read(&object)).unwrap_or_default();
        let before = read().ready;
        let begun = Instant::now();
        load.change(RUSH);
        self.screen.detail(&format!(
            "{} requests a second, {} % of them heavy; {before} pods",
            RUSH.rate, RUSH.work
        ));
        let metrics = Metrics::new(self.endpoints.console);
        let (mut look, mut told) = (interval(LOOK * 2), before);
        let decided = loop {
            look.tick().await;
            let rollout = read();
            let signals = metrics.signals().await?;
            let cpu = autoscalers.get(ROLLOUT).and_then(|object| utilization(&object));
            let cpu = cpu.map_or("unknown".to_owned(), |cpu| format!("{cpu} % of the request"));
            self.screen.live(&format!("{}   processor {cpu}   pods {}", signals.text(), rollout.ready));
            if rollout.replicas > told {
                let after = time(begun.elapsed());
                self.screen.detail(&format!(
                    "processor {cpu}: {told} → {} pods wanted, after {after}",
                    rollout.replicas
                ));
                told = rollout.replicas;
            }
            if rollout.ready > before {
                break rollout;
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(90),
                "no pod was added in {}",
                time(begun.elapsed())
            );
        };
        let after = time(begun.elapsed());
        let rush = load.since(None, None);
        load.change(EVENING);
        ensure!(rush.failed == 0, "{} requests failed: {}", rush.failed, load.failures().join(", "));
        Ok(((), format!("{before} → {} pods ready after {after}, no request failed", decided.ready)))
    }

    async fn bad_version(&self, sample: &Sample, load: &Load, good: &str) -> Result<(Caught, String)> {
        let rollouts = self.watch(ROLLOUTS);
        rollouts.synced().await;
        let stable = rollouts.get(ROLLOUT).map(|object| Rollout::read(&object).stable).unwrap_or_default();
        sample.change("faults/errors.patch", "Price books by category").await?;
        let bad: String = sample.head().await?.chars().take(12).collect();
        self.screen
            .detail("git apply faults/errors.patch && git commit: a faster checkout, with a fault in it");
        let run = async {
            let (run, _) = self.push(sample).await?;
            expect_rollback(&run)
        };
        let watch = self.canary(load, &rollouts, &stable, (good, &bad));
        let ((), caught) = tokio::try_join!(run, watch)?;
        let all = load.since(None, None);
        ensure!(
            all.failed == caught.failed,
            "{} requests failed, and only {} of them met the bad version: {}",
            all.failed,
            caught.failed,
            load.failures().join(", ")
        );
        let text = format!(
            "caught at {} % after {} of its requests, taken back {} after the first one",
            caught.weight,
            caught.requests,
            time(caught.after)
        );
        Ok((caught, text))
    }

    /// Watches the new version until it is taken back.
    async fn canary(
        &self,
        load: &Load,
        rollouts: &Informer,
        stable: &str,
        (good, bad): (&str, &str),
    ) -> Result<Caught> {
        let pods = self.watch(PODS);
        pods.synced().await;
        let mut look = interval(LOOK);
        let (mut weight, mut before) = (0, None);
        let rollout = loop {
            look.tick().await;
            let Some(object) = rollouts.get(ROLLOUT) else { bail!("the Rollout shop is gone") };
            let rollout = Rollout::read(&object);
            ensure!(rollout.stable == stable, "the bad version was promoted");
            if rollout.aborted {
                break rollout;
            }
            if rollout.current == stable {
                continue;
            }
            if before.is_none() {
                before = Some((Fleet::of(&pods.list(), stable), rollout.replicas));
                self.screen.detail("a pod of the new version starts; all requests still go to the old one");
            }
            if rollout.weight > weight {
                weight = rollout.weight;
                self.screen.detail(&format!("{weight} % of the requests go to the new version"));
            }
            if let Some(first) = load.first(bad) {
                self.screen.live(&fares(load, first, weight, good, bad));
            }
        };
        let taken_back = Instant::now();
        let first = load.first(bad).context("the bad version was taken back before it had a request")?;
        self.screen.detail(&fares(load, first, weight, good, bad));
        self.screen.detail(&self.screen.paint(Style::Bad, &format!("rolled back: {}", rollout.message)));
        ensure!((1..=CAUGHT_BY).contains(&weight), "it was caught only at {weight} % of the requests");
        self.only_good(load, bad).await?;

        let (fleet, replicas) = before.context("the new version was never seen starting")?;
        let object = rollouts.get(ROLLOUT).context("the Rollout shop is gone")?;
        let scaled_in = usize::try_from(replicas - Rollout::read(&object).replicas).unwrap_or(0);
        let harm = fleet.harmed(&Fleet::of(&pods.list(), stable), scaled_in);
        ensure!(harm.is_empty(), "the good version was harmed: {}", harm.join(", "));
        let (own, old) = (load.since(Some(first), Some(bad)), load.since(Some(first), Some(good)));
        ensure!(old.failed == 0, "{} requests to the good version failed", old.failed);
        self.screen.detail(&format!(
            "the good version: {} pods untouched, {} requests meanwhile, 0 failed",
            fleet.len(),
            old.requests
        ));
        Ok(Caught {
            weight,
            after: taken_back - first,
            requests: own.requests,
            failed: own.failed,
            stable_requests: old.requests,
        })
    }

    /// Waits until two seconds' requests all went to the good version.
    async fn only_good(&self, load: &Load, bad: &str) -> Result<()> {
        let begun = Instant::now();
        let mut look = interval(LOOK);
        let quiet = Duration::from_secs(2);
        loop {
            look.tick().await;
            let from = Instant::now() - quiet;
            let (all, bad) = (load.since(Some(from), None), load.since(Some(from), Some(bad)));
            if from >= begun && all.requests > 0 && bad.requests == 0 && all.failed == 0 {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(15),
                "after the rollback {} requests still went to the bad version, {} failed",
                bad.requests,
                all.failed
            );
        }
    }

    fn sum_up(&self, load: &Load, caught: &Caught) {
        let all = load.since(None, None);
        self.screen.say(&format!(
            "\nfailed requests: {} of {}, all of them answered by the bad version",
            all.failed, all.requests
        ));
        self.screen.say(&format!(
            "from the bad version's first request to its rollback: {}; the good version answered {} others, 0 failed",
            time(caught.after),
            caught.stable_requests
        ));
    }
}

/// How both versions fare since the new one's first request.
fn fares(load: &Load, first: Instant, weight: i64, good: &str, bad: &str) -> String {
    let (new, old) = (load.since(Some(first), Some(bad)), load.since(Some(first), Some(good)));
    format!(
        "new version at {weight} %: {} requests, {} failed; old version: {} requests, {} failed",
        new.requests, new.failed, old.requests, old.failed
    )
}

/// The processor time of the pods in per cent of what they asked for.
fn utilization(autoscaler: &Value) -> Option<i64> {
    autoscaler.pointer("/status/currentMetrics/0/resource/current/averageUtilization")?.as_i64()
}

/// The run has to fail, and nowhere but in production.
fn expect_rollback(run: &WorkflowRun) -> Result<()> {
    let failed: Vec<&JobStatus> = run.status.jobs.iter().filter(|job| job.conclusion == "failure").collect();
    match failed.as_slice() {
        [] => bail!(
            "the run {} ended as {:?}; the canary should have failed it",
            run.metadata.name,
            run.status.phase
        ),
        [job] if job.id == "production" => Ok(()),
        jobs => {
            let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
            bail!("the run {} failed in {}; only production should", run.metadata.name, names.join(", "))
        }
    }
}

/// What an object says of itself when something went wrong.
pub(super) fn complaint(object: &Value) -> String {
    let place = format!("{}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    let (phase, message) = (text(object, "/status/phase"), text(object, "/status/message"));
    format!("{place}: {phase} {message}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(jobs: Value) -> WorkflowRun {
        serde_json::from_value(
            json!({"metadata": {"name": "shop-2"}, "status": {"phase": "Failed", "jobs": jobs}}),
        )
        .unwrap()
    }

    #[test]
    fn only_production_may_fail() {
        let job = |id: &str, conclusion: &str| json!({"id": id, "name": id, "conclusion": conclusion});
        let table = [
            (json!([job("lint", "success"), job("production", "failure")]), true),
            (json!([job("lint", "success"), job("production", "success")]), false),
            (json!([job("lint", "failure"), job("production", "skipped")]), false),
            (json!([job("unit", "failure"), job("production", "failure")]), false),
        ];
        for (jobs, good) in table {
            assert_eq!(expect_rollback(&run(jobs.clone())).is_ok(), good, "{jobs}");
        }
    }

    #[tokio::test]
    async fn stages_are_kept_with_their_results() {
        let screen = Screen::new();
        let stages = Stages::new(&screen);
        let good = stages.run("One", async { Ok((7, "seven".to_owned())) }).await;
        assert_eq!(good.unwrap(), 7);
        let bad: Result<()> = stages.run("Two", async { bail!("no") }).await;
        assert_eq!(format!("{:#}", bad.unwrap_err()), "the stage \"Two\" failed: no");
        let table = stages.table();
        assert!(table[0].ends_with("✓ seven") && table[1].ends_with("✗ failed"), "{table:?}");
    }
}
