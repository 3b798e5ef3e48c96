//! OTLP and remote write in; Prometheus, Loki and Tempo APIs out.

mod answer;
pub mod loki;
pub mod otlp;
pub mod prometheus;
pub mod tempo;
