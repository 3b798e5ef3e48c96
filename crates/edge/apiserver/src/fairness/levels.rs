//! Seats of priority levels, and queues of those who wait for one. Nothing here waits or knows the time.
//!
//! A level has a nominal number of seats by its shares. Of these it may lend some to levels that need more, and never
//! falls below the rest; what others lend it may borrow up to its limit. Within a level a flow is dealt a hand of queues
//! and takes the shortest; the next to start is of the queue that has had least, counted in seats and seconds (start-time
//! fair queueing, Goyal, Vin and Cheng 1996).
//!
//! Source: `flowcontrol.apiserver.k8s.io/v1` PriorityLevelConfiguration; Kubernetes' API priority and fairness.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

/// Cards of a hand at the most: more need more bits than a flow's number has, and are refused where a level is written.
const HAND: usize = 15;
/// Seconds a request is thought to take until it has.
const GUESS: f64 = 0.003;

/// What a level is by its configuration.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Limits {
    Exempt { shares: f64, lendable: f64 },
    Limited { shares: f64, lendable: f64, borrowing: Option<f64>, queues: Option<Queuing> },
}

/// How requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queuing {
    queues: usize,
    hand: usize,
    length: usize,
}

impl Limits {
    pub(super) fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let of = |part: &Value, name: &str, otherwise: f64| part[name].as_f64().unwrap_or(otherwise).max(0.0);
        if spec["type"] == "Exempt" {
            let part = &spec["exempt"];
            let shares = of(part, "nominalConcurrencyShares", 0.0);
            return Self::Exempt { shares, lendable: of(part, "lendablePercent", 0.0) };
        }
        let part = &spec["limited"];
        let response = &part["limitResponse"];
        let queuing = &response["queuing"];
        let number = |name: &str, otherwise: u64| {
            usize::try_from(queuing[name].as_u64().unwrap_or(otherwise).clamp(1, 100_000)).unwrap_or(1)
        };
        Self::Limited {
            shares: of(part, "nominalConcurrencyShares", 30.0),
            lendable: of(part, "lendablePercent", 0.0),
            borrowing: part["borrowingLimitPercent"].as_f64(),
            queues: (response["type"] == "Queue").then(|| Queuing {
                queues: number("queues", 64),
                hand: number("handSize", 8).min(HAND),
                length: number("queueLengthLimit", 50),
            }),
        }
    }

    fn shares(&self) -> f64 {
        match self {
            Self::Exempt { shares, .. } | Self::Limited { shares, .. } => *shares,
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It is started, of this queue.
    Started(usize),
    /// It waits.
    Waits,
    /// There is no room for it.
    Refused(&'static str),
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    width: u32,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Seats its requests have now.
    executing: u32,
    /// When, in the level's own time, its next request starts.
    start: f64,
}

impl Queue {
    fn seats(&self) -> u32 {
        self.executing + self.waiting.iter().map(|waiting| waiting.width).sum::<u32>()
    }
}

#[derive(Debug)]
pub(super) struct Level {
    queuing: Option<Queuing>,
    pub nominal: u32,
    min: u32,
    max: u32,
    pub in_use: u32,
    pub waiting: usize,
    queues: Vec<Queue>,
    /// The start of the request that started last.
    time: f64,
    /// No level any more, but for those who are still in it.
    gone: bool,
    pub refused: HashMap<&'static str, u64>,
    pub started: u64,
}

/// All limited levels, by name.
#[derive(Debug, Default)]
pub(super) struct Levels {
    total: u32,
    pub levels: HashMap<String, Level>,
}

/// A request that has begun: its ticket, level and queue.
pub(super) type Begun = (u64, String, usize);

impl Levels {
    pub(super) fn new(total: u32) -> Self {
        Self { total, levels: HashMap::new() }
    }

    /// Takes a configuration over; gives those that begin by it. Levels that are gone keep no seats for themselves, and
    /// stay until nobody is in them.
    pub(super) fn configure(&mut self, all: &[(String, Limits)]) -> Vec<Begun> {
        for level in self.levels.values_mut() {
            (level.gone, level.nominal, level.min, level.max) = (true, 0, 0, self.total);
        }
        let shares: f64 = all.iter().map(|(_, limits)| limits.shares()).sum();
        let total = f64::from(self.total);
        for (name, limits) in all {
            let Limits::Limited { shares: own, lendable, borrowing, queues } = limits else { continue };
            let nominal = if shares > 0.0 { (total * own / shares).ceil() } else { 0.0 };
            let lent = (nominal * lendable.min(100.0) / 100.0).round();
            let most = borrowing.map_or(total, |percent| nominal + (nominal * percent / 100.0).round());
            let level = self.levels.entry(name.clone()).or_insert_with(Level::new);
            level.gone = false;
            level.queuing = *queues;
            (level.nominal, level.min) = (nominal as u32, (nominal - lent) as u32);
            level.max = (most as u32).clamp(level.nominal, self.total.max(level.nominal));
            // Queues with requests in them do not go.
            let wanted = queues.map_or(0, |queuing| queuing.queues);
            if level.queues.len() < wanted || (level.waiting == 0 && level.in_use == 0) {
                level.queues.resize_with(wanted, Queue::default);
            }
        }
        self.levels.retain(|_, level| !level.is_over());
        self.begin_waiting()
    }

    /// A request of a flow asks for a number of seats.
    pub(super) fn ask(&mut self, name: &str, flow: u64, width: u32, ticket: u64) -> Asked {
        let others = self.reserved_by_others(name);
        let total = self.total;
        let Some(level) = self.levels.get_mut(name) else { return Asked::Refused("no-level") };
        let width = level.width(width);
        let Some(queuing) = level.queuing else {
            if level.has_room(width, others, total) {
                level.begin(None, width);
                return Asked::Started(0);
            }
            return level.refuse("concurrency-limit");
        };
        let place = level.place(queuing, flow);
        if level.waiting == 0 && level.has_room(width, others, total) {
            level.begin(Some(place), width);
            return Asked::Started(place);
        }
        match level.queues.get_mut(place) {
            Some(queue) if queue.waiting.len() < queuing.length => {
                queue.waiting.push_back(Waiting { ticket, width });
                level.waiting += 1;
                Asked::Waits
            }
            _ => level.refuse("queue-full"),
        }
    }

    /// The seats a request takes that asks for so many.
    pub(super) fn width(&self, name: &str, asked: u32) -> u32 {
        self.levels.get(name).map_or(asked, |level| level.width(asked))
    }

    /// A request has ended after so many seconds, and gives back the seats it took; gives those that begin now.
    pub(super) fn end(&mut self, name: &str, place: usize, width: u32, seconds: f64) -> Vec<Begun> {
        if let Some(level) = self.levels.get_mut(name) {
            level.in_use = level.in_use.saturating_sub(width);
            if let Some(queue) = level.queues.get_mut(place) {
                queue.executing = queue.executing.saturating_sub(width);
                queue.start += (seconds - GUESS) * f64::from(width);
            }
        }
        self.left(name)
    }

    /// One that waits gives up; gives those that begin now.
    pub(super) fn give_up(&mut self, name: &str, ticket: u64, why: Option<&'static str>) -> Vec<Begun> {
        let Some(level) = self.levels.get_mut(name) else { return Vec::new() };
        for queue in &mut level.queues {
            let before = queue.waiting.len();
            queue.waiting.retain(|waiting| waiting.ticket != ticket);
            level.waiting -= before - queue.waiting.len();
        }
        if let Some(why) = why {
            level.refuse(why);
        }
        // Who stood behind a wide request may find room.
        self.left(name)
    }

    fn left(&mut self, name: &str) -> Vec<Begun> {
        if self.levels.get(name).is_some_and(Level::is_over) {
            self.levels.remove(name);
        }
        self.begin_waiting()
    }

    /// Seats that others have, or may not be kept from.
    fn reserved_by_others(&self, name: &str) -> u32 {
        let others = self.levels.iter().filter(|(other, _)| *other != name);
        others.map(|(_, level)| level.in_use.max(level.min)).sum()
    }

    /// Begins what has room by now: first in levels that have less than is theirs.
    fn begin_waiting(&mut self) -> Vec<Begun> {
        let mut begun = Vec::new();
        loop {
            let mut names: Vec<&String> =
                self.levels.iter().filter(|(_, level)| level.waiting > 0).map(|(name, _)| name).collect();
            names.sort_by(|a, b| self.need(a).total_cmp(&self.need(b)).then(a.cmp(b)));
            let next = names.into_iter().find(|name| {
                let (others, level) = (self.reserved_by_others(name), self.levels.get(*name));
                level.is_some_and(|level| {
                    level.next().is_some_and(|(_, width)| level.has_room(width, others, self.total))
                })
            });
            let Some(name) = next.cloned() else { return begun };
            let Some(level) = self.levels.get_mut(&name) else { return begun };
            let Some((place, width)) = level.next() else { return begun };
            let waiting = level.queues.get_mut(place).and_then(|queue| queue.waiting.pop_front());
            let Some(waiting) = waiting else { return begun };
            level.waiting -= 1;
            level.begin(Some(place), width);
            begun.push((waiting.ticket, name, place));
        }
    }

    /// How much of what is its own a level has.
    fn need(&self, name: &str) -> f64 {
        self.levels.get(name).map_or(0.0, |level| f64::from(level.in_use) / f64::from(level.nominal.max(1)))
    }
}

impl Level {
    fn new() -> Self {
        Self {
            queuing: None,
            nominal: 0,
            min: 0,
            max: 0,
            in_use: 0,
            waiting: 0,
            queues: Vec::new(),
            time: 0.0,
            gone: false,
            refused: HashMap::new(),
            started: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.gone && self.in_use == 0 && self.waiting == 0
    }

    /// The widest request still gets in when it is alone.
    fn width(&self, asked: u32) -> u32 {
        asked.clamp(1, self.nominal.max(1))
    }

    fn has_room(&self, width: u32, others: u32, total: u32) -> bool {
        let wanted = self.in_use + width;
        wanted <= self.min || (wanted <= self.max && others.saturating_add(wanted) <= total)
    }

    fn refuse(&mut self, why: &'static str) -> Asked {
        *self.refused.entry(why).or_default() += 1;
        Asked::Refused(why)
    }

    fn begin(&mut self, place: Option<usize>, width: u32) {
        self.in_use += width;
        self.started += 1;
        let time = self.time;
        if let Some(queue) = place.and_then(|place| self.queues.get_mut(place)) {
            // Who did not ask for a while has saved nothing up.
            queue.start = queue.start.max(time);
            self.time = queue.start;
            queue.start += GUESS * f64::from(width);
            queue.executing += width;
        }
    }

    /// The queue a flow's next request goes to.
    fn place(&self, queuing: Queuing, flow: u64) -> usize {
        let hand = deal(flow, queuing.queues.min(self.queues.len()), queuing.hand);
        let seats = |place: &usize| self.queues.get(*place).map_or(u32::MAX, Queue::seats);
        hand.into_iter().min_by_key(seats).unwrap_or(0)
    }

    /// The queue that is next, and the seats its first request wants.
    fn next(&self) -> Option<(usize, u32)> {
        let waiting = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        let (place, queue) = waiting.min_by(|(_, a), (_, b)| a.start.total_cmp(&b.start))?;
        Some((place, queue.waiting.front()?.width))
    }
}

/// A hand of different cards of a deck, the same for the same flow.
fn deal(flow: u64, deck: usize, hand: usize) -> Vec<usize> {
    let mut rest = flow;
    let (mut dealt, mut sorted) = (Vec::with_capacity(hand), Vec::with_capacity(hand));
    for left in (1..=deck).rev().take(hand) {
        let mut card = (rest % left as u64) as usize;
        rest /= left as u64;
        // Those dealt already are not there any more.
        let mut place = 0;
        while sorted.get(place).is_some_and(|before| card >= *before) {
            (card, place) = (card + 1, place + 1);
        }
        sorted.insert(place, card);
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests;
