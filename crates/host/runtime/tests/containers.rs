//! What a program finds in its container.

mod support;

use support::*;

#[test]
fn exit_codes_and_signals_come_back() {
    let pod = Pod::new();
    assert_eq!(pod.run("ok", "exit 0").0.code, 0);
    assert_eq!(pod.run("seven", "exit 7").0.code, 7);
    let (exit, _) = pod.run("signal", "kill -TERM $$; trap - TERM; kill -KILL $$; exec /bin/false");
    // A first process is immune to signals from within that it does not handle.
    assert_eq!((exit.code, exit.signal), (1, None));
    pod.container("killed", "while :; do sleep 1; done").start().unwrap();
    pod.sandbox.kill("killed", 9, wharf_runtime::SignalTo::First).unwrap();
    let exit = pod.sandbox.wait("killed").unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
}
