//! The shim of build steps by itself, as `wharf` runs it inside its own binary.

fn main() {
    if !wharf_runtime::shim_entry() {
        std::process::exit(64);
    }
}
