//! Any request to the container runtime interface for a sandbox or a container: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| wharf_criapi::fuzz_request(bytes));
