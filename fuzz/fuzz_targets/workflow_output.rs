//! No output of a script makes the readers of commands and command files panic, and no secret survives masking.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_workflow::{Masker, command::{Command, parse_entries}};

fuzz_target!(|input: (String, String)| {
    let (secret, text) = input;
    let _ = Command::parse(&text);
    let _ = parse_entries(&text);
    let masked = Masker::new([secret.as_str()]).mask(&text);
    if secret.trim().len() > 3 && !"***".contains(&secret) && !secret.contains(['\r', '\n', '*']) {
        assert!(!masked.contains(&secret));
    }
});
