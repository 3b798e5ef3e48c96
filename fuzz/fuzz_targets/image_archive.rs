#![no_main]
//! Archives from strangers: `Store::load` refuses or takes them, and never names what is not whole.

use libfuzzer_sys::fuzz_target;
use wharf_image::Store;

fuzz_target!(|data: &[u8]| {
    let dir = std::env::temp_dir().join(format!("wharf-fuzz-archive-{}", std::process::id()));
    let store = Store::open(&dir).expect("a writable temporary folder");
    if store.load(data).is_err() {
        assert!(store.references().expect("readable names").is_empty());
    }
    std::fs::remove_dir_all(&dir).ok();
});
