//! Metric windows, triggers and forecasts to replicas, as pure functions.
//!
//! [`hpa`] decides about `autoscaling/v2` HorizontalPodAutoscalers, [`scaled_object`] about KEDA's ScaledObjects; both
//! share [`behavior`], which bounds how fast a size may change. This room knows nothing of clients, metric stores or
//! clocks: a runner measures and applies.

pub mod behavior;
pub mod hpa;
pub mod pods;
pub mod scaled_object;

use wharf_control::action::Gvr;

/// `autoscaling/v2` HorizontalPodAutoscalers.
pub const HORIZONTAL_POD_AUTOSCALERS: Gvr = Gvr::fixed("autoscaling", "v2", "horizontalpodautoscalers");
/// `keda.sh/v1alpha1` ScaledObjects.
pub const SCALED_OBJECTS: Gvr = Gvr::fixed("keda.sh", "v1alpha1", "scaledobjects");
