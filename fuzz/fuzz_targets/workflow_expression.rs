//! No text makes the expression parser or evaluator panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_workflow::expr::{Condition, Env, Object, Scope, Status, Template};

const SCOPE: Scope = Scope { contexts: &["github", "env"], status: true, files: true };

fuzz_target!(|text: &str| {
    let contexts = Object::new();
    let env = Env { contexts: &contexts, status: Status::default(), hash_files: &|_| Ok(String::new()) };
    if let Ok(condition) = Condition::parse(text, &SCOPE) {
        let _ = condition.holds(&env);
    }
    if let Ok(template) = Template::parse(text, &SCOPE) {
        let _ = template.value(&env);
    }
});
