//! The endpoints of a Service's port, and which of them gets the next request.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use wharf_http::client::{Protocol, Target};

use crate::metrics::{Series, ServiceState};

/// An endpoint that refuses a connection gets no request for this long, and twice as long each time after.
const FIRST_EJECTION: Duration = Duration::from_millis(500);
const LONGEST_EJECTION: Duration = Duration::from_secs(10);

/// Whether an address takes connections, and how busy it is.
#[derive(Debug)]
pub struct Gate {
    epoch: Instant,
    in_flight: AtomicUsize,
    refusals: AtomicU32,
    /// Milliseconds after the epoch.
    closed_until: AtomicU64,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            in_flight: AtomicUsize::new(0),
            refusals: AtomicU32::new(0),
            closed_until: AtomicU64::new(0),
        }
    }
}

impl Gate {
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn open(&self) -> bool {
        let until = self.closed_until.load(Ordering::Relaxed);
        until == 0 || until <= self.now()
    }

    /// A connection was refused.
    pub fn refused(&self) {
        let before = self.refusals.fetch_add(1, Ordering::Relaxed);
        let pause = FIRST_EJECTION.saturating_mul(1 << before.min(8)).min(LONGEST_EJECTION);
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.closed_until.store(self.now() + pause, Ordering::Relaxed);
    }

    /// A response came.
    pub fn answered(&self) {
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
            self.closed_until.store(0, Ordering::Relaxed);
        }
    }

    /// A request goes there.
    pub fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// The request has ended.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn busy(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// One address of a Service.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where, and what it speaks.
    pub target: Target,
    /// Name of the pod; empty when it is none.
    pub pod: Arc<str>,
    /// The version it runs.
    pub version: Arc<str>,
    /// What is counted for it.
    pub series: Arc<Series>,
    /// Whether it takes requests.
    pub gate: Arc<Gate>,
}

/// Endpoints that share a weight.
#[derive(Debug)]
pub struct Group {
    /// Share of the requests, of the sum of all groups.
    pub weight: u64,
    /// Its endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
    next: AtomicUsize,
}

impl Group {
    /// Endpoints with a share.
    pub fn new(weight: u64, endpoints: Vec<Arc<Endpoint>>) -> Self {
        Self { weight, endpoints, next: AtomicUsize::new(0) }
    }

    /// In turn; the less busy one of two neighbours.
    fn pick(&self, usable: impl Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(self.endpoints.len())?;
        let (before, from) = self.endpoints.split_at(turn);
        let mut usable = from.iter().chain(before).filter(|endpoint| usable(endpoint));
        let first = usable.next()?;
        Some(match usable.next() {
            Some(second) if second.gate.busy() < first.gate.busy() => second,
            _ => first,
        })
    }
}

/// A port of a Service with its endpoints.
#[derive(Debug)]
pub struct Backend {
    /// Why it can never answer, if so.
    pub problem: Option<String>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Its endpoints by version; only those that may get requests.
    pub groups: Vec<Group>,
    /// What is counted for the Service.
    pub state: Arc<ServiceState>,
}

impl Backend {
    /// Whether there is an endpoint.
    pub fn is_ready(&self) -> bool {
        self.groups.iter().any(|group| !group.endpoints.is_empty())
    }

    /// Number of endpoints.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.endpoints.len()).sum()
    }

    /// Whether there is no endpoint.
    pub fn is_empty(&self) -> bool {
        !self.is_ready()
    }

    /// The endpoint of the next request: a group by its weight, and one of the group in turn. Without those `tried`
    /// already, and as long as there are others without those that refused a connection just now.
    pub fn pick(&self, tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        let fresh = |endpoint: &Endpoint| !tried.contains(&endpoint.target.address);
        let open = |endpoint: &Endpoint| fresh(endpoint) && endpoint.gate.open();
        let chosen = self.choose()?;
        let others = || self.groups.iter().filter(|group| !std::ptr::eq(*group, chosen));
        chosen
            .pick(open)
            .or_else(|| others().find_map(|group| group.pick(open)))
            .or_else(|| chosen.pick(fresh))
            .or_else(|| others().find_map(|group| group.pick(fresh)))
            .cloned()
    }

    /// A group by weight. The multiples of the golden ratio are spread so evenly that every thousand requests hold a
    /// share of one per cent to within one or two.
    fn choose(&self) -> Option<&Group> {
        if let [only] = self.groups.as_slice() {
            return Some(only);
        }
        let total: u64 = self.groups.iter().map(|group| group.weight).sum();
        let turn = self.state.sequence.fetch_add(1, Ordering::Relaxed);
        let point = u128::from(turn.wrapping_mul(0x9E37_79B9_7F4A_7C15)) * u128::from(total);
        let mut point = u64::try_from(point >> 64).unwrap_or(0);
        self.groups.iter().find(|group| match point.checked_sub(group.weight) {
            Some(rest) => {
                point = rest;
                false
            }
            None => true,
        })
    }
}
