//! No file makes the readers of workflows and actions panic, nor the scheduler that takes what they give.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_base::Timestamp;
use wharf_workflow::{expr::Object, read_action, read_workflow, run::{Run, step}};

fuzz_target!(|text: &str| {
    let _ = read_action("action.yml", text);
    if let Ok(workflow) = read_workflow("workflow.yml", text) {
        let mut run = Run::new(&workflow);
        let _ = step(&workflow, &Object::new(), &mut run, &[], Timestamp::EPOCH);
    }
});
