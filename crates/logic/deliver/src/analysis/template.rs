//! Templates to the spec of a run: arguments resolved and put in their places.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use wharf_control::meta::null_default;

use super::{AnalysisRunSpec, Argument, Metric};

/// The spec of an AnalysisTemplate or ClusterAnalysisTemplate.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TemplateSpec {
    /// Arguments it takes, with defaults.
    #[serde(deserialize_with = "null_default")]
    pub args: Vec<Argument>,
    /// Metrics.
    #[serde(deserialize_with = "null_default")]
    pub metrics: Vec<Metric>,
    /// Further templates, which are not supported.
    #[serde(deserialize_with = "null_default")]
    pub templates: Vec<Value>,
}

/// Makes the spec of a run from templates and the arguments given to them.
///
/// # Errors
/// When an argument has no value, two metrics share a name, or a template uses what is not supported.
pub fn run_spec(
    templates: &[(String, TemplateSpec)],
    given: &BTreeMap<String, String>,
) -> Result<AnalysisRunSpec, String> {
    let mut spec = AnalysisRunSpec::default();
    for (name, template) in templates {
        if !template.templates.is_empty() {
            return Err(format!(
                "AnalysisTemplate {name:?}: templates that name templates are not supported"
            ));
        }
        let mut values = BTreeMap::new();
        for argument in &template.args {
            if argument.value_from.is_some() && !given.contains_key(&argument.name) {
                return Err(format!(
                    "AnalysisTemplate {name:?}: argument {:?} takes its value from elsewhere, which is not supported",
                    argument.name
                ));
            }
            let value = given.get(&argument.name).or(argument.value.as_ref()).ok_or_else(|| {
                format!("AnalysisTemplate {name:?}: argument {:?} has no value", argument.name)
            })?;
            values.insert(argument.name.clone(), value.clone());
            if !spec.args.iter().any(|a| a.name == argument.name) {
                let value = Some(value.clone());
                spec.args.push(Argument { name: argument.name.clone(), value, value_from: None });
            }
        }
        for metric in &template.metrics {
            if spec.metrics.iter().any(|m| m.name == metric.name) {
                return Err(format!("two metrics are named {:?}", metric.name));
            }
            spec.metrics.push(filled(name, metric, &values)?);
        }
    }
    Ok(spec)
}

fn filled(template: &str, metric: &Metric, values: &BTreeMap<String, String>) -> Result<Metric, String> {
    let mut json = wharf_control::meta::to_value(metric);
    fill(&mut json, values).map_err(|name| {
        format!("AnalysisTemplate {template:?}: metric {:?} uses {name:?}, which is no argument", metric.name)
    })?;
    wharf_control::read(&json).map_err(|e| format!("AnalysisTemplate {template:?}: {e}"))
}

/// Puts values in the place of `{{args.NAME}}` in every text; the name of one there is none for otherwise.
fn fill(value: &mut Value, values: &BTreeMap<String, String>) -> Result<(), String> {
    match value {
        Value::String(text) => {
            let mut out = String::with_capacity(text.len());
            let mut rest = text.as_str();
            while let Some((before, after)) = rest.split_once("{{") {
                let Some((inner, following)) = after.split_once("}}") else { break };
                let name = inner.trim();
                let found = name.strip_prefix("args.").and_then(|n| values.get(n));
                out.push_str(before);
                out.push_str(found.ok_or_else(|| name.to_owned())?);
                rest = following;
            }
            out.push_str(rest);
            *text = out;
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| fill(item, values)),
        Value::Object(fields) => fields.values_mut().try_for_each(|field| fill(field, values)),
        _ => Ok(()),
    }
}
