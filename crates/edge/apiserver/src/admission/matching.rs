//! Which requests a webhook or a policy is about: operations, resources, selectors on the object and its namespace.
//!
//! Source: `admissionregistration.k8s.io/v1` RuleWithOperations, MatchResources, `matchPolicy`.

use std::sync::Arc;

use serde_json::Value;
use wharf_api::{
    meta,
    resource::Resource,
    selector::{LabelSelector, Labels},
    status::Status,
};

use super::{Attributes, Operation};
use crate::{ApiServer, Context};

/// The compiled conditions of one webhook or policy.
#[derive(Debug)]
pub(crate) struct Match {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    namespaces: LabelSelector,
    objects: LabelSelector,
    /// Other versions of a resource count as it.
    equivalent: bool,
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let texts = |name: &str| crate::values::texts(&rule[name]);
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
        }
    }

    fn is_about(&self, attributes: &Attributes<'_>, resource: &Resource) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|v| v == "*" || v == wanted);
        any(&self.operations, attributes.operation.name())
            && any(&self.groups, &resource.gvk.group)
            && any(&self.versions, &resource.gvk.version)
            && self.scope_fits(resource)
            && self.names_resource(&resource.plural, attributes.subresource)
            && (self.names.is_empty() || self.names.contains(&attributes.name))
    }

    fn scope_fits(&self, resource: &Resource) -> bool {
        match self.scope.as_str() {
            "Cluster" => !resource.namespaced,
            "Namespaced" => resource.namespaced,
            _ => true,
        }
    }

    fn names_resource(&self, plural: &str, subresource: &str) -> bool {
        self.resources.iter().any(|pattern| {
            let (resource, sub) = pattern.split_once('/').unwrap_or((pattern, ""));
            (resource == "*" || resource == plural)
                && (sub == subresource || (sub == "*" && pattern.contains('/')))
        })
    }
}

fn rules(list: &Value) -> Vec<Rule> {
    list.as_array().into_iter().flatten().map(Rule::read).collect()
}

/// A selector; an absent one selects everything here.
fn selector(value: &Value) -> LabelSelector {
    if value.is_object() { LabelSelector::from_object(Some(value)) } else { LabelSelector::default() }
}

impl Match {
    /// Of a webhook or of `matchConstraints`, whose rules have another name.
    pub(crate) fn of(conditions: &Value, included: &Value) -> Self {
        Self {
            rules: rules(included),
            excluded: rules(&conditions["excludeResourceRules"]),
            namespaces: selector(&conditions["namespaceSelector"]),
            objects: selector(&conditions["objectSelector"]),
            equivalent: conditions["matchPolicy"].as_str() != Some("Exact"),
        }
    }

    /// Whether it says of which resources it is.
    pub(crate) fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whether its selectors hold and nothing excludes the resource.
    pub(crate) fn selects(
        &self,
        server: &ApiServer,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<bool, Status> {
        Ok(self.selects_namespace(server, attributes, object)?
            && self.selects_object(attributes, object)
            && !self.excluded.iter().any(|rule| rule.is_about(attributes, attributes.resource)))
    }

    /// The version of the resource in which the request is to be judged, if it is.
    pub(crate) fn target(
        &self,
        server: &ApiServer,
        context: &Context,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Arc<Resource>>, Status> {
        Ok(if self.selects(server, attributes, object)? { self.version(context, attributes) } else { None })
    }

    fn version(&self, context: &Context, attributes: &Attributes<'_>) -> Option<Arc<Resource>> {
        let own = attributes.resource;
        if self.rules.iter().any(|rule| rule.is_about(attributes, own)) {
            return Some(Arc::clone(own));
        }
        let key = own.storage_key();
        let mut others = context.index.all().filter(|other| {
            self.equivalent
                && other.plural == own.plural
                && other.gvk != own.gvk
                && other.storage_key() == key
        });
        others.find(|other| self.rules.iter().any(|rule| rule.is_about(attributes, other))).cloned()
    }

    fn selects_object(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> bool {
        let mut both = [object, attributes.old].into_iter().flatten();
        self.objects.is_everything() || both.any(|object| self.objects.matches(&meta::labels(object)))
    }

    fn selects_namespace(
        &self,
        server: &ApiServer,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
    ) -> Result<bool, Status> {
        if self.namespaces.is_everything() {
            return Ok(true);
        }
        let resource = attributes.resource;
        let labels: Labels = if resource.plural == "namespaces" && resource.gvk.group.is_empty() {
            let itself = if attributes.operation == Operation::Delete { attributes.old } else { object };
            itself.map(meta::labels).unwrap_or_default()
        } else if resource.namespaced {
            let namespace = server.storage.get("namespaces", &format!("/{}", attributes.namespace));
            namespace.ok_or_else(|| Status::not_found("namespaces", &attributes.namespace))?.labels.clone()
        } else {
            return Ok(true);
        };
        Ok(self.namespaces.matches(&labels))
    }
}
