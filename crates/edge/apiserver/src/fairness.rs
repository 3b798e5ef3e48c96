//! API priority and fairness: which requests begin at once, which wait for a seat, and which are refused, so that nobody
//! keeps others from being served.
//!
//! Requests of the platform itself and of `system:masters` never wait. A seat is held until the answer begins to be sent;
//! what lasts as long as a client likes (exec, attach, logs, port-forward, proxies) needs none, and a watch only until it
//! has begun. A list takes a seat for each hundred objects it goes through, ten at the most.
//!
//! Source: `flowcontrol.apiserver.k8s.io/v1`; Kubernetes' API priority and fairness.

pub(crate) mod defaults;
mod levels;
mod schema;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};
use tokio::sync::oneshot;
use wharf_api::{meta, status::Status};

use crate::{
    Identity,
    derived::Derived,
    registry::Index,
    request::RequestInfo,
    storage::{Snapshot, Storage},
};

use levels::{Asked, Begun, Levels, Limits};
use schema::{Schema, sorted};

const SCHEMAS: &str = "flowschemas.flowcontrol.apiserver.k8s.io";
const LEVELS: &str = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";

/// Seats of all limited levels together, unless told otherwise: upstream's limits for reads and writes.
pub(crate) const SEATS: u32 = 600;
/// How long a request waits at the most: a quarter of the time a request may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Objects of a list that take one seat, and seats a list takes at the most.
const OBJECTS: usize = 100;
const WIDEST: u32 = 10;

/// Who waits and who is served.
pub(crate) struct Fairness {
    compiled: Derived<Compiled, 2>,
    state: Arc<Mutex<State>>,
}

struct Compiled {
    schemas: Vec<Schema>,
    /// By name of a level: its uid, and whether it is exempt.
    levels: HashMap<String, (Option<HeaderValue>, bool)>,
}

struct State {
    levels: Levels,
    /// Whom to tell that they begin, by ticket.
    waiting: HashMap<u64, oneshot::Sender<()>>,
    /// Queues of those who have been told and have not heard it yet.
    told: HashMap<u64, usize>,
    tickets: u64,
}

impl State {
    fn begin(&mut self, begun: Vec<Begun>) {
        for (ticket, _, place) in begun {
            if let Some(waiting) = self.waiting.remove(&ticket) {
                self.told.insert(ticket, place);
                // Whoever gives up meanwhile gives the seat back.
                let _ = waiting.send(());
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a request was classified, as answers say it: by the uids of schema and level.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Class {
    schema: Option<HeaderValue>,
    level: Option<HeaderValue>,
}

impl Class {
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        let told = [
            ("x-kubernetes-pf-flowschema-uid", self.schema),
            ("x-kubernetes-pf-prioritylevel-uid", self.level),
        ];
        for (name, uid) in told {
            if let Some(uid) = uid {
                headers.insert(name, uid);
            }
        }
    }
}

/// A request that waits, or has a seat. It gives back what it has when it is dropped.
pub(crate) struct Seat {
    state: Arc<Mutex<State>>,
    level: String,
    width: u32,
    ticket: u64,
    /// Since when it has its seat, and its queue.
    begun: Option<(Instant, usize)>,
    why: Option<&'static str>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if self.begun.is_none() && state.waiting.remove(&self.ticket).is_some() {
            let begun = state.levels.give_up(&self.level, self.ticket, self.why);
            return state.begin(begun);
        }
        // It may have been given a seat in just this moment.
        let told = state.told.remove(&self.ticket).unwrap_or_default();
        let (since, place) = self.begun.unwrap_or((Instant::now(), told));
        let begun = state.levels.end(&self.level, place, self.width, since.elapsed().as_secs_f64());
        state.begin(begun);
    }
}

fn refusal() -> Status {
    Status::new(429, "TooManyRequests", "Too many requests, please try again later.")
}

impl Fairness {
    pub(crate) fn new(seats: u32) -> Self {
        let levels = Levels::new(seats);
        let state = State { levels, waiting: HashMap::new(), told: HashMap::new(), tickets: 0 };
        Self { compiled: Derived::of_all([SCHEMAS, LEVELS]), state: Arc::new(Mutex::new(state)) }
    }

    /// The schemas and levels stored now, by which the seats are shared out when they have changed.
    fn compiled(&self, storage: &Storage) -> Arc<Compiled> {
        self.compiled.of_now(storage, |stored| {
            let (compiled, limits) = compile(&stored);
            let mut state = lock(&self.state);
            let begun = state.levels.configure(&limits);
            state.begin(begun);
            compiled
        })
    }

    /// Classifies a request and waits for its seat, where it needs one.
    ///
    /// # Errors
    /// 429 when there is no room, or none in time; with how it was classified.
    pub(crate) async fn admit(
        &self,
        storage: &Storage,
        index: &Index,
        who: &Identity,
        info: &RequestInfo,
    ) -> Result<(Class, Option<Seat>), (Class, Status)> {
        if who.is_platform() || info.is_long() {
            return Ok((Class::default(), None));
        }
        let compiled = self.compiled(storage);
        let found = compiled.schemas.iter().find(|schema| schema.fits(who, info));
        let Some((schema, (uid, exempt))) = found.and_then(|s| Some((s, compiled.levels.get(&s.level)?)))
        else {
            // Before the first objects are there, or of a level that is not.
            return Ok((Class::default(), None));
        };
        let class = Class { schema: schema.uid.clone(), level: uid.clone() };
        if *exempt {
            return Ok((class, None));
        }
        let (seat, waiting) = match self.ask(schema, who, info, width(storage, index, info)) {
            Ok(asked) => asked,
            Err(status) => return Err((class, status)),
        };
        match waiting {
            None => Ok((class, Some(seat))),
            Some(waiting) => match wait(seat, waiting).await {
                Ok(seat) => Ok((class, Some(seat))),
                Err(status) => Err((class, status)),
            },
        }
    }

    fn ask(
        &self,
        schema: &Schema,
        who: &Identity,
        info: &RequestInfo,
        width: u32,
    ) -> Result<(Seat, Option<oneshot::Receiver<()>>), Status> {
        let mut state = lock(&self.state);
        state.tickets += 1;
        let ticket = state.tickets;
        // The level may be of another size when they are given back.
        let width = state.levels.width(&schema.level, width);
        let seat = |begun| Seat {
            state: Arc::clone(&self.state),
            level: schema.level.clone(),
            width,
            ticket,
            begun,
            why: None,
        };
        match state.levels.ask(&schema.level, schema.flow(who, info), width, ticket) {
            Asked::Started(place) => Ok((seat(Some((Instant::now(), place))), None)),
            Asked::Waits => {
                let (sender, receiver) = oneshot::channel();
                state.waiting.insert(ticket, sender);
                Ok((seat(None), Some(receiver)))
            }
            Asked::Refused(_) => Err(refusal()),
        }
    }

    /// Prometheus' text of what goes on.
    pub(crate) fn metrics(&self, storage: &Storage) -> String {
        self.compiled(storage);
        let state = lock(&self.state);
        let mut names: Vec<_> = state.levels.levels.iter().collect();
        names.sort_by_key(|(name, _)| *name);
        let mut text = String::new();
        type Read = fn(&levels::Level) -> u64;
        let rows: [(&str, &str, &str, Read); 4] = [
            ("nominal_limit_seats", "gauge", "Nominal number of execution seats.", |level| {
                level.nominal.into()
            }),
            ("current_executing_seats", "gauge", "Seats of requests that are executing.", |level| {
                level.in_use.into()
            }),
            ("current_inqueue_requests", "gauge", "Requests that wait in queues.", |level| {
                level.waiting as u64
            }),
            ("dispatched_requests_total", "counter", "Requests that were executed.", |level| level.started),
        ];
        for (name, kind, help, read) in rows {
            text.push_str(&format!(
                "# HELP apiserver_flowcontrol_{name} {help}\n# TYPE apiserver_flowcontrol_{name} {kind}\n"
            ));
            for (level, of) in &names {
                text.push_str(&format!(
                    "apiserver_flowcontrol_{name}{{priority_level=\"{level}\"}} {}\n",
                    read(of)
                ));
            }
        }
        let name = "apiserver_flowcontrol_rejected_requests_total";
        text.push_str(&format!("# HELP {name} Requests that were refused.\n# TYPE {name} counter\n"));
        for (level, of) in &names {
            let mut reasons: Vec<_> = of.refused.iter().collect();
            reasons.sort();
            for (why, count) in reasons {
                text.push_str(&format!("{name}{{priority_level=\"{level}\",reason=\"{why}\"}} {count}\n"));
            }
        }
        text
    }
}

fn compile([schemas, levels]: &[Snapshot; 2]) -> (Compiled, Vec<(String, Limits)>) {
    let mut known = HashMap::new();
    let mut limits = Vec::new();
    for entry in levels.entries.values() {
        let object = entry.object();
        let own = Limits::read(&object);
        let exempt = matches!(own, Limits::Exempt { .. });
        let uid = HeaderValue::from_str(meta::text(&object, "uid")).ok();
        known.insert(entry.name().to_owned(), (uid, exempt));
        limits.push((entry.name().to_owned(), own));
    }
    let mut schemas = sorted(schemas.entries.values().map(|entry| Schema::read(&entry.object())).collect());
    // One whose level is not there leads nowhere.
    schemas.retain(|schema| known.contains_key(&schema.level));
    (Compiled { schemas, levels: known }, limits)
}

async fn wait(mut seat: Seat, waiting: oneshot::Receiver<()>) -> Result<Seat, Status> {
    let heard = tokio::time::timeout(PATIENCE, waiting).await;
    // It may have been told in just the moment it gives up.
    let told = lock(&seat.state).told.remove(&seat.ticket);
    match (heard, told) {
        (_, Some(place)) => {
            seat.begun = Some((Instant::now(), place));
            Ok(seat)
        }
        _ => {
            seat.why = Some("time-out");
            Err(refusal())
        }
    }
}

/// Seats a request takes.
fn width(storage: &Storage, index: &Index, info: &RequestInfo) -> u32 {
    if info.verb != "list" || !info.selected_name().is_empty() {
        return 1;
    }
    let Some(resource) = index.find(&info.group, &info.version, &info.resource) else { return 1 };
    let stored = storage.cache(&resource.storage_key()).snapshot().entries.len();
    seats(stored, info)
}

/// Seats a list takes of so many stored objects.
fn seats(stored: usize, info: &RequestInfo) -> u32 {
    let given = |name: &str| info.param(name).is_some_and(|value| !value.is_empty());
    let limit = info.number("limit").ok().flatten().filter(|limit| *limit > 0);
    // What is selected from may be all, however little of it is answered.
    let objects = match limit {
        Some(limit) if !given("labelSelector") && !given("fieldSelector") => stored.min(limit),
        _ => stored,
    };
    u32::try_from(objects / OBJECTS).unwrap_or(WIDEST).clamp(1, WIDEST)
}
