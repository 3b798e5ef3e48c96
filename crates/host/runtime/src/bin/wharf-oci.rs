//! The OCI runtime command line: what `podman --runtime`, containerd and docker call in place of runc or crun.

fn main() {
    std::process::exit(wharf_runtime::oci_main());
}
