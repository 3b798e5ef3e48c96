//! Open-loop load: requests start on schedule, however slow the answers are. As `tools/load.py` of the sample.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};
use wharf_http::client::{Client, ClientError, Failure, Protocol, Target};

/// Under this name the Ingress knows the shop.
pub(super) const HOST: &str = "shop.localhost";
const TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way at once; more count as failed.
const MAX_UNDER_WAY: usize = 512;
const MAX_BODY: usize = 1 << 20;

/// How much load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    /// Requests a second.
    pub(super) rate: f64,
    /// Of a hundred, those that burn processor time.
    pub(super) work: u64,
}

/// What came of a request.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// When it was due.
    pub(super) due: Instant,
    /// From then to the end of the answer.
    pub(super) took: Duration,
    /// The answer's status; nothing without an answer.
    pub(super) status: Option<u16>,
    /// The version that answered.
    pub(super) version: String,
}

impl Outcome {
    /// No answer, or one that blames the server.
    pub(super) fn failed(&self) -> bool {
        self.status.is_none_or(|status| status >= 500)
    }
}

/// Many outcomes in short.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tally {
    pub(super) requests: usize,
    pub(super) failed: usize,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

impl Tally {
    fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Self {
        let mut failed = 0;
        let mut times: Vec<Duration> = outcomes
            .map(|outcome| {
                failed += usize::from(outcome.failed());
                outcome.took
            })
            .collect();
        times.sort_unstable();
        let mark = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100);
            times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { requests: times.len(), failed, p50: mark(50), p99: mark(99) }
    }
}

/// Load that goes on until it is dropped.
pub(super) struct Load {
    shared: Arc<Shared>,
    plan: watch::Sender<Plan>,
    pump: AbortHandle,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

struct Shared {
    client: Client,
    target: Target,
    under_way: Semaphore,
    outcomes: Mutex<Vec<Outcome>>,
}

impl Load {
    /// Begins once the shop tells what it sells.
    pub(super) async fn start(ingress: SocketAddr, plan: Plan) -> Result<Self> {
        let shared = Arc::new(Shared {
            client: Client::default(),
            target: Target { address: ingress, protocol: Protocol::Http1 },
            under_way: Semaphore::new(MAX_UNDER_WAY),
            outcomes: Mutex::default(),
        });
        let call = Call { method: Method::GET, path: "/products".into(), body: None };
        let (status, _, body) = shared.exchange(&call).await.context("the shop does not answer")?;
        ensure!(status == StatusCode::OK, "GET /products of {HOST} through the Ingress answered {status}");
        let products = product_names(&body)?;
        let (plan, plans) = watch::channel(plan);
        let pump = tokio::spawn(pump(Arc::clone(&shared), plans, Customer::new(products, 1))).abort_handle();
        Ok(Self { shared, plan, pump })
    }

    /// More load, or less.
    pub(super) fn change(&self, plan: Plan) {
        self.plan.send_replace(plan);
    }

    /// What came of the requests due since a time, of one version or of all.
    pub(super) fn since(&self, time: Option<Instant>, version: Option<&str>) -> Tally {
        let outcomes = self.shared.outcomes();
        Tally::of(outcomes.iter().filter(|outcome| {
            time.is_none_or(|time| outcome.due >= time)
                && version.is_none_or(|version| outcome.version == version)
        }))
    }

    /// All versions that answered.
    pub(super) fn versions(&self) -> BTreeSet<String> {
        self.shared.outcomes().iter().map(|outcome| outcome.version.clone()).collect()
    }

    /// When the first request was due that a version answered.
    pub(super) fn first(&self, version: &str) -> Option<Instant> {
        let outcomes = self.shared.outcomes();
        outcomes.iter().filter(|outcome| outcome.version == version).map(|outcome| outcome.due).min()
    }

    /// Failed requests as people tell them: status and version of each kind.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut kinds = BTreeMap::<String, usize>::new();
        for outcome in self.shared.outcomes().iter().filter(|outcome| outcome.failed()) {
            let kind = match outcome.status {
                Some(status) if outcome.version.is_empty() => format!("status {status} from the router"),
                Some(status) => format!("status {status} from version {}", outcome.version),
                None => "no answer".to_owned(),
            };
            *kinds.entry(kind).or_default() += 1;
        }
        kinds.into_iter().map(|(kind, count)| format!("{count} × {kind}")).collect()
    }
}

impl Shared {
    fn outcomes(&self) -> MutexGuard<'_, Vec<Outcome>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Status, version and body of the answer.
    async fn exchange(&self, call: &Call) -> Result<(StatusCode, String, bytes::Bytes)> {
        let body = call.body.clone().map_or_else(wharf_http::empty, wharf_http::full);
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header("host", HOST)
            .header("content-type", "application/json")
            .body(body)?;
        loop {
            match self.client.send(&self.target, request).await {
                Ok(response) => {
                    let (status, headers) = (response.status(), response.headers());
                    let version = headers.get("x-shop-version").and_then(|value| value.to_str().ok());
                    let version = version.unwrap_or_default().to_owned();
                    let body = wharf_http::collect(response.into_body(), MAX_BODY).await;
                    return Ok((status, version, body.map_err(anyhow::Error::from_boxed)?));
                }
                // A kept connection was closed before anything was sent: on a new one it is the same request.
                Err(mut error) if error.failure == Failure::NotSent => match error.request.take() {
                    Some(again) => request = *again,
                    None => return Err(unanswered(&error)),
                },
                Err(error) => return Err(unanswered(&error)),
            }
        }
    }

    async fn send(&self, call: Call, due: Instant) {
        let answer = match self.under_way.try_acquire() {
            Ok(_permit) => timeout(TIMEOUT, self.exchange(&call)).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        let (status, version) = match answer {
            Some((status, version, _)) => (Some(status.as_u16()), version),
            None => (None, String::new()),
        };
        self.outcomes().push(Outcome { due, took: due.elapsed(), status, version });
    }
}

/// The client's error keeps the request, which cannot be shared between threads.
pub(super) fn unanswered(error: &ClientError) -> anyhow::Error {
    anyhow!("{error}")
}

async fn pump(shared: Arc<Shared>, mut plans: watch::Receiver<Plan>, mut customer: Customer) {
    let mut due = Instant::now();
    loop {
        let plan = *plans.borrow_and_update();
        due += Duration::from_secs_f64(1.0 / plan.rate.max(0.1));
        tokio::select! {
            () = sleep_until(due) => {
                let (shared, call) = (Arc::clone(&shared), customer.call(plan.work));
                tokio::spawn(async move { shared.send(call, due).await });
            }
            changed = plans.changed() => {
                if changed.is_err() {
                    return;
                }
                due = Instant::now();
            }
        }
    }
}

fn product_names(body: &[u8]) -> Result<Vec<String>> {
    let body: Value = serde_json::from_slice(body).context("GET /products answered no JSON")?;
    let products = body["products"].as_array().into_iter().flatten();
    let names: Vec<String> =
        products.filter_map(|product| Some(product["id"].as_str()?.to_owned())).collect();
    ensure!(!names.is_empty(), "the shop sells nothing");
    Ok(names)
}

/// One request.
#[derive(Debug, PartialEq)]
struct Call {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
}

/// Invents plausible requests; the same seed invents the same ones.
struct Customer {
    products: Vec<String>,
    state: u64,
}

impl Customer {
    fn new(products: Vec<String>, seed: u64) -> Self {
        Self { products, state: seed }
    }

    /// Of ten requests three look around, one looks at a product, six buy.
    fn call(&mut self, work: u64) -> Call {
        let get = |path: String| Call { method: Method::GET, path, body: None };
        if self.below(100) < work {
            return get("/work?ms=20".into());
        }
        match self.below(10) {
            0..3 => get("/products".into()),
            3 => {
                let product = self.below(self.products.len() as u64) as usize;
                get(format!("/products/{}", self.products.get(product).map_or("", String::as_str)))
            }
            _ => Call {
                method: Method::POST,
                path: format!("/checkout/load-{:08x}", self.below(1 << 32)),
                body: Some(self.basket().to_string().into_bytes()),
            },
        }
    }

    /// Mostly a few things for one person, sometimes an order for a whole office.
    fn basket(&mut self) -> Value {
        let office = self.below(100) < 15;
        let (lines, (least, most)) =
            if office { (6 + self.below(5), (60, 99)) } else { (1 + self.below(3), (1, 5)) };
        let mut left = self.products.clone();
        let mut items = Vec::new();
        for _ in 0..lines {
            if left.is_empty() {
                break;
            }
            let chosen = self.below(left.len() as u64) as usize;
            let quantity = least + self.below(most - least + 1);
            items.push(json!({"product": left.swap_remove(chosen), "quantity": quantity}));
        }
        json!({ "items": items })
    }

    /// A number below `limit` (splitmix64).
    fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted() {
        let due = Instant::now();
        let outcome = |millis, status| Outcome {
            due,
            took: Duration::from_millis(millis),
            status,
            version: String::new(),
        };
        let all = [outcome(1, Some(200)), outcome(2, Some(404)), outcome(3, Some(500)), outcome(40, None)];
        let tally = Tally::of(all.iter());
        assert_eq!((tally.requests, tally.failed), (4, 2));
        assert_eq!((tally.p50.as_millis(), tally.p99.as_millis()), (2, 40));
        assert_eq!(Tally::of([].iter()), Tally::default());
    }

    #[test]
    fn customers_do_what_the_samples_load_does() {
        let products = ["mug", "rope", "atlas"].map(str::to_owned).to_vec();
        let mut customer = Customer::new(products.clone(), 1);
        let calls: Vec<Call> = (0..1000).map(|_| customer.call(0)).collect();
        let buys = calls.iter().filter(|call| call.path.starts_with("/checkout/")).count();
        assert!((550..650).contains(&buys), "{buys}");
        let basket: Value =
            serde_json::from_slice(calls.iter().find_map(|c| c.body.as_ref()).unwrap()).unwrap();
        assert!(!basket["items"].as_array().unwrap().is_empty());
        let mut again = Customer::new(products, 1);
        assert_eq!(calls[..10], (0..10).map(|_| again.call(0)).collect::<Vec<_>>());
        assert!((0..100).all(|_| again.call(100).path.starts_with("/work?ms=")));
    }
}
