#![no_main]
//! Backups from strangers: nothing may panic, and what is read and written again is the same.

use libfuzzer_sys::fuzz_target;
use wharf_state::backup::{Reader, Record, Writer};

fuzz_target!(|data: &[u8]| {
    let Ok(mut reader) = Reader::new(data) else { return };
    let mut writer = Writer::new(Vec::new(), reader.head()).unwrap();
    loop {
        match reader.next_record() {
            Ok(Some(Record::Key(key))) => writer.key(&key).unwrap(),
            Ok(Some(Record::File { name, content })) => writer.file(&name, &content).unwrap(),
            Ok(None) => break,
            Err(_) => return,
        }
    }
    assert_eq!(writer.finish().unwrap(), data);
});
