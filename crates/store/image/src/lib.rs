//! Content-addressed blobs, manifests, unpacked layers, archives and registry client.
