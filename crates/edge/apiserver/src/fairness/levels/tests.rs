use serde_json::json;

use super::*;

fn level(shares: u32, lendable: u32, borrowing: Value, response: Value) -> Limits {
    Limits::read(&json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": shares,
        "lendablePercent": lendable, "borrowingLimitPercent": borrowing, "limitResponse": response}}}))
}

fn queue(queues: u32, hand: u32, length: u32) -> Value {
    json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
}

fn levels(total: u32, all: &[(&str, Limits)]) -> Levels {
    let mut levels = Levels::new(total);
    let all: Vec<(String, Limits)> =
        all.iter().map(|(name, limits)| ((*name).to_owned(), limits.clone())).collect();
    levels.configure(&all);
    levels
}

#[test]
fn seats_are_shared_out() {
    let reject = json!({"type": "Reject"});
    let levels = levels(
        600,
        &[
            ("a", level(30, 33, json!(null), reject.clone())),
            ("b", level(70, 50, json!(20), reject)),
            ("exempt", Limits::read(&json!({"spec": {"type": "Exempt"}}))),
        ],
    );
    let shown = |name: &str| {
        let level = &levels.levels[name];
        (level.nominal, level.min, level.max)
    };
    assert_eq!(shown("a"), (180, 121, 600));
    assert_eq!(shown("b"), (420, 210, 504));
    assert!(!levels.levels.contains_key("exempt"));
}

#[test]
fn what_is_lent_is_borrowed_and_what_is_not_is_kept() {
    let reject = json!({"type": "Reject"});
    let mut levels = levels(
        10,
        &[("a", level(1, 60, json!(null), reject.clone())), ("b", level(1, 60, json!(null), reject))],
    );
    // Of five seats each, two are never lent.
    let begun = |levels: &mut Levels, name: &str| {
        (0..20).filter(|i| levels.ask(name, 0, 1, *i) == Asked::Started(0)).count()
    };
    assert_eq!(begun(&mut levels, "a"), 8, "its own and what the other lends");
    assert_eq!(begun(&mut levels, "b"), 2, "what it never lends");
    assert_eq!(levels.levels["a"].refused["concurrency-limit"], 12);
    assert!(levels.end("a", 0, 1, 0.1).is_empty());
    assert_eq!(levels.ask("b", 0, 1, 99), Asked::Started(0), "it takes back what is free");
}

#[test]
fn those_who_wait_begin_in_turn() {
    let mut levels = levels(1, &[("a", level(1, 0, json!(null), queue(8, 1, 10)))]);
    // Flows of different queues: one is busy, the other comes late.
    let (busy, quiet) = (0, 1);
    assert!(matches!(levels.ask("a", busy, 1, 0), Asked::Started(_)));
    for ticket in 1..6 {
        assert_eq!(levels.ask("a", busy, 1, ticket), Asked::Waits);
    }
    assert_eq!(levels.ask("a", quiet, 1, 100), Asked::Waits);
    let mut order = Vec::new();
    let mut running = 0;
    for _ in 0..6 {
        let begun = levels.end("a", running, 1, 0.01);
        assert_eq!(begun.len(), 1, "one seat, one request");
        (running, order) = (begun[0].2, [order, vec![begun[0].0]].concat());
    }
    assert_eq!(order, [100, 1, 2, 3, 4, 5], "who had nothing yet is next, then the others by age");
    assert!(levels.end("a", running, 1, 0.01).is_empty());
    assert_eq!((levels.levels["a"].in_use, levels.levels["a"].waiting), (0, 0));
}

#[test]
fn queues_have_an_end_and_may_be_left() {
    let mut levels = levels(1, &[("a", level(1, 0, json!(null), queue(1, 1, 2)))]);
    assert_eq!(levels.ask("a", 0, 1, 0), Asked::Started(0));
    assert_eq!(levels.ask("a", 0, 1, 1), Asked::Waits);
    assert_eq!(levels.ask("a", 0, 1, 2), Asked::Waits);
    assert_eq!(levels.ask("a", 0, 1, 3), Asked::Refused("queue-full"));
    levels.give_up("a", 1, Some("time-out"));
    assert_eq!(levels.ask("a", 0, 1, 4), Asked::Waits);
    assert_eq!(levels.end("a", 0, 1, 0.1), [(2, "a".to_owned(), 0)]);
    assert_eq!(levels.levels["a"].refused, [("queue-full", 1), ("time-out", 1)].into());
}

#[test]
fn wide_requests_take_more_seats_and_still_get_in() {
    let mut levels = levels(4, &[("a", level(1, 0, json!(0), queue(1, 1, 5)))]);
    assert_eq!(levels.ask("a", 0, 100, 0), Asked::Started(0), "as wide as the level");
    assert_eq!(levels.ask("a", 0, 1, 1), Asked::Waits);
    assert_eq!(levels.end("a", 0, 100, 0.1).len(), 1);
}

#[test]
fn levels_that_are_gone_stay_until_they_are_empty() {
    let mut levels = levels(1, &[("a", level(1, 0, json!(null), queue(4, 2, 5)))]);
    let Asked::Started(place) = levels.ask("a", 7, 1, 0) else { panic!() };
    assert_eq!(levels.ask("a", 7, 1, 1), Asked::Waits);
    levels.configure(&[]);
    assert_eq!(levels.end("a", place, 1, 0.1).len(), 1, "what waited is begun");
    levels.configure(&[("b".to_owned(), level(1, 0, json!(null), queue(4, 2, 5)))]);
    assert!(levels.levels.contains_key("a"));
    levels.end("a", place, 1, 0.1);
    assert!(!levels.levels.contains_key("a"), "it goes with the last");
    assert_eq!(levels.ask("c", 0, 1, 9), Asked::Refused("no-level"));
}

#[test]
fn hands_are_of_different_queues() {
    for flow in [0, 1, 12_345, u64::MAX, 0xdead_beef_dead_beef] {
        let mut hand = deal(flow, 128, 6);
        assert!(hand.iter().all(|card| *card < 128));
        hand.sort_unstable();
        hand.dedup();
        assert_eq!(hand.len(), 6, "{flow}");
    }
    assert_eq!(deal(5, 2, 6).len(), 2, "no more than there are");
    assert_ne!(deal(1, 128, 6), deal(2, 128, 6));
}

#[test]
fn levels_that_are_gone_keep_no_seats_for_themselves() {
    let reject = || json!({"type": "Reject"});
    let exempt = || Limits::read(&json!({"spec": {"type": "Exempt"}}));
    for left in [vec![], vec![("a".to_owned(), exempt())]] {
        let mut levels = levels(
            10,
            &[("a", level(1, 0, json!(null), reject())), ("b", level(1, 100, json!(null), reject()))],
        );
        assert_eq!(levels.ask("a", 0, 1, 0), Asked::Started(0));
        let rest = [left, vec![("b".to_owned(), level(1, 100, json!(null), reject()))]].concat();
        levels.configure(&rest);
        let begun = (1..20).filter(|i| levels.ask("b", 0, 1, *i) == Asked::Started(0)).count();
        assert_eq!(begun, 9, "all but the one that is still in use");
        assert!(levels.end("a", 0, 1, 0.1).is_empty());
        assert!(!levels.levels.contains_key("a"));
        assert_eq!(levels.ask("b", 0, 1, 20), Asked::Started(0));
    }
}

#[test]
fn who_gives_up_lets_those_behind_begin() {
    let mut levels = levels(4, &[("a", level(1, 0, json!(0), queue(1, 1, 5)))]);
    assert_eq!(levels.ask("a", 0, 2, 0), Asked::Started(0));
    assert_eq!(levels.ask("a", 0, 4, 1), Asked::Waits, "too wide for now");
    assert_eq!(levels.ask("a", 0, 2, 2), Asked::Waits, "behind it");
    assert_eq!(levels.give_up("a", 1, None), [(2, "a".to_owned(), 0)]);
}
