//! Blue-green, canary and sequential analysis, as pure functions.
//!
//! [`rollout`] decides about Argo Rollouts' `Rollout`, [`analysis`] about its `AnalysisRun`; [`sequential`] tells from
//! counts of requests whether a new version is worse than the old one. This room knows nothing of clients, routers,
//! metrics stores or clocks: a runner gives it a view and applies what it asks for.

pub mod analysis;
pub mod rollout;

pub mod sequential;

use wharf_control::action::Gvr;

/// `argoproj.io/v1alpha1` Rollouts.
pub const ROLLOUTS: Gvr = Gvr::fixed("argoproj.io", "v1alpha1", "rollouts");
/// `argoproj.io/v1alpha1` AnalysisRuns.
pub const ANALYSIS_RUNS: Gvr = Gvr::fixed("argoproj.io", "v1alpha1", "analysisruns");
/// `argoproj.io/v1alpha1` AnalysisTemplates.
pub const ANALYSIS_TEMPLATES: Gvr = Gvr::fixed("argoproj.io", "v1alpha1", "analysistemplates");
/// `argoproj.io/v1alpha1` ClusterAnalysisTemplates.
pub const CLUSTER_ANALYSIS_TEMPLATES: Gvr = Gvr::fixed("argoproj.io", "v1alpha1", "clusteranalysistemplates");
/// The `apiVersion` of all of them.
pub const API_VERSION: &str = "argoproj.io/v1alpha1";
