//! The shim by itself, for this room's tests; `wharf` carries the same code in its one binary.

fn main() {
    if !wharf_runtime::shim_entry() {
        std::process::exit(64);
    }
}
