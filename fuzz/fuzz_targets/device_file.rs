//! CDI files and platforms: any text is read or refused, never more.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for is_json in [true, false] {
        let _ = wharf_build::registered_devices(text, is_json);
    }
    if let Ok(platform) = wharf_build::parse_platform(text) {
        // What is read once is read the same again.
        assert_eq!(wharf_build::parse_platform(&platform.to_string()).ok(), Some(platform));
    }
});
