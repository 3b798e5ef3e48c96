//! Any expression, compiled and evaluated over a small object: no panic, and no more than the budget.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_cel::{Activation, Budget, Env, Type};

fuzz_target!(|source: &str| {
    let data = serde_json::json!({"a": [1, 2.5, "x", null, {"b": true}], "s": "text", "m": {"k": "v"}});
    let env = Env::new().var_of("self", Type::Dyn).mutation().bindings();
    if let Ok(program) = env.compile(source) {
        let _ = program.eval(&Activation::new().any("self", &data), &mut Budget::default());
    }
    let _ = wharf_cel::reprint(source);
});
