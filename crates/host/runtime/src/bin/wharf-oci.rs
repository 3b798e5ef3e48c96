//! The OCI runtime command line: what `podman --runtime`, containerd and docker call in place of runc or crun.

#![no_main]
#![allow(unsafe_code, reason = "the C library looks for the name")]

/// Without what the standard library prepares for every program: this one is run twice for each container.
// SAFETY: the only `main` of the program, with a signature the C library may call it by.
#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    wharf_runtime::oci_main()
}
