//! Dockerfiles and `.dockerignore` files: any text is read or refused, never more.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use wharf_build::{Ignore, dockerfile::Dockerfile};

fuzz_target!(|text: &str| {
    let _ = Dockerfile::parse(text);
    if let Ok(ignore) = Ignore::parse(text) {
        let _ = ignore.is_ignored(Path::new("a/b/c.txt"));
        let _ = ignore.may_want_below(Path::new("a"));
    }
});
