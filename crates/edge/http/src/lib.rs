//! Listeners, TLS, routing and streaming; the only room that names hyper and rustls.
