//! Any expression, compiled and evaluated over a small object: no panic, and no more than the budget.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_cel::{Activation, Budget, Env, FailureKind, PER_CALL_LIMIT, Type};

fuzz_target!(|source: &str| {
    let data = serde_json::json!({"a": [1, 2.5, "x", null, {"b": true}], "s": "text", "m": {"k": "v"}});
    let env = Env::new().var_of("self", Type::Dyn).mutation();
    let Ok(program) = env.compile(source) else { return };
    let activation = Activation::new().any("self", &data);
    let Ok(evaluated) = program.eval(&activation, &mut Budget::default()) else { return };
    assert!(evaluated.cost <= PER_CALL_LIMIT, "{source:?} cost {}", evaluated.cost);
    if let Some(less) = evaluated.cost.checked_sub(1) {
        // What is one too dear for the budget is refused.
        let refused = program.eval(&activation, &mut Budget::new(less)).map(drop);
        assert!(refused.is_err_and(|error| error.kind() == FailureKind::Budget), "{source:?}");
    }
    let _ = evaluated.value.to_json();
});
