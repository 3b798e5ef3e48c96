//! Any bytes sent to the DNS server, and any resolv.conf: no panic.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use wharf_network::{Zone, fuzz_query};

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let networks = vec!["10.96.0.0/16".parse().expect("a network")];
    Zone::new("cluster.local", networks).expect("a domain")
});

fuzz_target!(|bytes: &[u8]| fuzz_query(&ZONE, bytes));
