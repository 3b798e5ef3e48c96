//! What runs in production, as the API and the metrics tell it.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wharf_client::Object;
use wharf_http::client::Client;

use super::load::unanswered;
use crate::commands::platform::text;

/// Namespace and name of the Rollout, and of everything around it.
pub(super) const ROLLOUT: &str = "shop/shop";
const HASH_LABEL: &str = "rollouts-pod-template-hash";
const MAX_ANSWER: usize = 1 << 20;

/// Where a Rollout is.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rollout {
    pub(super) phase: String,
    pub(super) message: String,
    /// The new version was taken back.
    pub(super) aborted: bool,
    pub(super) stable: String,
    pub(super) current: String,
    /// Per cent of the requests that go to the new version.
    pub(super) weight: i64,
    /// Pods wanted.
    pub(super) replicas: i64,
    pub(super) ready: i64,
}

impl Rollout {
    pub(super) fn read(object: &Value) -> Self {
        let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let text = |pointer: &str| text(object, pointer).to_owned();
        let reason = text("/status/abortReason");
        Self {
            phase: text("/status/phase"),
            message: if reason.is_empty() { text("/status/message") } else { reason },
            aborted: object.pointer("/status/abort").and_then(Value::as_bool).unwrap_or(false),
            stable: text("/status/stableRS"),
            current: text("/status/currentPodHash"),
            weight: number("/status/canary/weights/canary/weight"),
            replicas: number("/spec/replicas"),
            ready: number("/status/readyReplicas"),
        }
    }
}

/// The pods of one version: uid to name and restarts.
#[derive(Debug, Default, PartialEq, Clone)]
pub(super) struct Fleet(BTreeMap<String, (String, i64)>);

impl Fleet {
    pub(super) fn of(pods: &[Object], hash: &str) -> Self {
        let own = pods.iter().filter(|pod| {
            pod.pointer("/metadata/labels").is_some_and(|labels| labels[HASH_LABEL] == *hash)
                && pod.pointer("/metadata/deletionTimestamp").is_none()
        });
        Self(
            own.map(|pod| {
                (text(pod, "/metadata/uid").into(), (text(pod, "/metadata/name").into(), restarts(pod)))
            })
            .collect(),
        )
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What happened to these pods until `later`. The autoscaler may have taken `scaled_in` of them.
    pub(super) fn harmed(&self, later: &Self, scaled_in: usize) -> Vec<String> {
        let mut harm: Vec<String> = Vec::new();
        let mut gone = Vec::new();
        for (uid, (name, restarts)) in &self.0 {
            match later.0.get(uid) {
                None => gone.push(name.clone()),
                Some((_, now)) if now > restarts => harm.push(format!("{name} restarted")),
                Some(_) => {}
            }
        }
        if gone.len() > scaled_in {
            harm.push(format!("{} are gone", gone.join(", ")));
        }
        harm
    }
}

fn restarts(pod: &Value) -> i64 {
    let containers = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    containers.into_iter().flatten().filter_map(|container| container["restartCount"].as_i64()).sum()
}

/// PromQL through the console's port.
pub(super) struct Metrics {
    client: Client,
    console: SocketAddr,
}

/// The golden signals of the shop, over the last seconds.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Requests a second.
    pub(super) traffic: f64,
    /// Per cent.
    pub(super) errors: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

impl Signals {
    pub(super) fn text(&self) -> String {
        let millis = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
        format!(
            "traffic {:.1}/s   errors {:.1} %   p50 {}   p99 {}",
            self.traffic,
            self.errors,
            millis(self.p50),
            millis(self.p99)
        )
    }
}

impl Metrics {
    pub(super) fn new(console: SocketAddr) -> Self {
        Self { client: Client::default(), console }
    }

    pub(super) async fn signals(&self) -> Result<Signals> {
        let requests =
            |more: &str| format!("sum(rate(wharf_http_requests_total{{namespace=\"shop\"{more}}}[10s]))");
        let latency = |share: f64| {
            let buckets = "rate(wharf_http_request_duration_seconds_bucket{namespace=\"shop\"}[10s])";
            format!("histogram_quantile({share}, sum by (le) ({buckets}))")
        };
        let traffic = self.value(&requests("")).await?;
        let failed = self.value(&requests(",code=~\"5..\"")).await?;
        let time = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        Ok(Signals {
            traffic,
            errors: if traffic > 0.0 { failed / traffic * 100.0 } else { 0.0 },
            p50: time(self.value(&latency(0.5)).await?),
            p99: time(self.value(&latency(0.99)).await?),
        })
    }

    /// The first value of an instant query, 0 when there is none.
    async fn value(&self, query: &str) -> Result<f64> {
        let url = format!("http://{}/prometheus/api/v1/query?query={}", self.console, escape(query));
        let response = self.client.get(&url).await.map_err(|error| unanswered(&error))?;
        let status = response.status();
        let body =
            wharf_http::collect(response.into_body(), MAX_ANSWER).await.map_err(anyhow::Error::from_boxed)?;
        ensure!(status.is_success(), "the query {query} failed: {status} {}", String::from_utf8_lossy(&body));
        let body: Value = serde_json::from_slice(&body).context("the metrics answered no JSON")?;
        let value = text(&body, "/data/result/0/value/1");
        Ok(value.parse().ok().filter(|value: &f64| value.is_finite()).unwrap_or(0.0))
    }
}

fn escape(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if safe(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_rollout_is_read() {
        let object = json!({"spec": {"replicas": 2}, "status": {
            "phase": "Degraded", "message": "RolloutAborted", "abortReason": "more errors", "abort": true,
            "stableRS": "a", "currentPodHash": "b", "readyReplicas": 3,
            "canary": {"weights": {"canary": {"weight": 1}}}}});
        let expected = Rollout {
            phase: "Degraded".into(),
            message: "more errors".into(),
            aborted: true,
            stable: "a".into(),
            current: "b".into(),
            weight: 1,
            replicas: 2,
            ready: 3,
        };
        assert_eq!(Rollout::read(&object), expected);
        assert_eq!(Rollout::read(&json!({})), Rollout::default());
    }

    #[test]
    fn harm_is_a_restart_or_a_pod_nobody_took() {
        let pod = |name: &str, hash: &str, restarts: i64| {
            Arc::new(json!({
                "metadata": {"name": name, "uid": name, "labels": {HASH_LABEL: hash}},
                "status": {"containerStatuses": [{"restartCount": restarts}]}}))
        };
        let before = Fleet::of(&[pod("a", "good", 0), pod("b", "good", 1), pod("c", "bad", 0)], "good");
        assert_eq!(before.len(), 2);
        assert_eq!(before.harmed(&before, 0), Vec::<String>::new());
        let after = Fleet::of(&[pod("b", "good", 2)], "good");
        assert_eq!(before.harmed(&after, 0), ["b restarted", "a are gone"]);
        assert_eq!(before.harmed(&after, 1), ["b restarted"]);
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(escape("a{b=~\"5..\"}"), "a%7Bb%3D~%225..%22%7D");
    }
}
