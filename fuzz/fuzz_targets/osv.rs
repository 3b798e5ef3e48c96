#![no_main]
//! Advisories, versions and vectors from strangers: nothing may panic, and orders stay orders.

use libfuzzer_sys::fuzz_target;
use wharf_scan::{Advisory, Ecosystem, base_score};

const ALL: [Ecosystem; 6] = [
    Ecosystem::Debian,
    Ecosystem::Ubuntu,
    Ecosystem::Alpine,
    Ecosystem::PyPI,
    Ecosystem::CratesIo,
    Ecosystem::Npm,
];

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        base_score(text);
        let (a, b) = text.split_once('\n').unwrap_or((text, "1.0"));
        for ecosystem in ALL {
            let order = ecosystem.compare(a, b);
            assert_eq!(order.map(std::cmp::Ordering::reverse), ecosystem.compare(b, a));
        }
    }
    if let Ok(advisory) = Advisory::parse(data) {
        advisory.headline();
        for ecosystem in ALL {
            advisory.affects(ecosystem, Some("12"), "p", "1.0.0");
        }
    }
});
