//! Any path, query and body sent to the Docker Engine API: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_engineapi::docker::fuzz_request;

fuzz_target!(|bytes: &[u8]| fuzz_request(bytes));
