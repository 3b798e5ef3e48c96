//! Containers: shim, namespaces, cgroups, root filesystems, exec and stdio.
