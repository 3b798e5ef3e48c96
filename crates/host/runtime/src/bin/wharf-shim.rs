//! The shim by itself, as a release of `wharf` carries it inside, and as `wharf` is one under another name.

#![no_main]
#![allow(unsafe_code, reason = "the C library looks for the name")]

/// Without what the standard library prepares for every program: it reads the memory map to guard the stack, and the shim blocks all
/// signals anyway.
// SAFETY: the only `main` of the program, with a signature the C library may call it by.
#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    if wharf_runtime::shim_entry() { 0 } else { 64 }
}
