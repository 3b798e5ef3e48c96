//! Workflow YAML and expressions to a job graph and run state.
