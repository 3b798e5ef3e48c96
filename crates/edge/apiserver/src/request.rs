//! What a request asks for: verb, resource, name, subresource and options, read from its path and query.

use http::{Method, Uri};
use percent_encoding::percent_decode_str;
use wharf_api::{selector::FieldSelector, status::Status};

/// A request to a resource, or to another path of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name; empty when the path is no resource.
    pub resource: String,
    /// Namespace, empty for none.
    pub namespace: String,
    /// Object name, empty for collections.
    pub name: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// What follows the subresource (`proxy/…`).
    pub rest: String,
    /// Decoded path.
    pub path: String,
    /// Decoded query parameters in order.
    pub query: Vec<(String, String)>,
}

impl RequestInfo {
    pub(crate) fn of(method: &Method, uri: &Uri) -> Result<Self, Status> {
        let path = percent_decode_str(uri.path())
            .decode_utf8()
            .map_err(|_| Status::bad_request("the path is not UTF-8"))?
            .into_owned();
        let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let mut info = Self { query, ..Self::default() };
        info.resource_path(&path);
        info.path = path;
        info.verb = info.verb_of(method);
        Ok(info)
    }

    fn resource_path(&mut self, path: &str) {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let rest = match &parts[..] {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                self.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                self.group = (*group).to_owned();
                self.version = (*version).to_owned();
                rest
            }
            _ => return,
        };
        let rest = match rest {
            // `namespaces/x/finalize` and `namespaces/x/status` are the namespace's own.
            ["namespaces", namespace, sub @ ("status" | "finalize")] => {
                (self.resource, self.name, self.subresource) =
                    ("namespaces".into(), (*namespace).to_owned(), (*sub).to_owned());
                self.namespace = (*namespace).to_owned();
                return;
            }
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
                self.namespace = (*namespace).to_owned();
                rest
            }
            rest => rest,
        };
        let part = |i: usize| rest.get(i).copied().unwrap_or_default().to_owned();
        (self.resource, self.name, self.subresource) = (part(0), part(1), part(2));
        self.rest = rest.get(3..).unwrap_or_default().join("/");
        if self.resource == "namespaces" && self.group.is_empty() {
            self.namespace = self.name.clone();
        }
    }

    fn verb_of(&self, method: &Method) -> &'static str {
        match *method {
            Method::GET | Method::HEAD if self.resource.is_empty() => "get",
            Method::GET | Method::HEAD if self.flag("watch") && self.subresource.is_empty() => "watch",
            Method::GET | Method::HEAD if self.name.is_empty() => "list",
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if self.name.is_empty() && !self.resource.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ => "",
        }
    }

    /// The only name the request is about: a collection may be asked for the one object of a name.
    pub(crate) fn selected_name(&self) -> String {
        if !self.name.is_empty() || !matches!(self.verb, "list" | "watch" | "deletecollection") {
            return self.name.clone();
        }
        let selector = FieldSelector::parse(self.param("fieldSelector").unwrap_or_default(), |_| true);
        selector.ok().and_then(|s| s.exact("metadata.name").map(str::to_owned)).unwrap_or_default()
    }

    /// Whether it lasts as long as the client likes; a watch does, too.
    pub(crate) fn is_long(&self) -> bool {
        matches!(self.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
    }

    /// The first value of a query parameter.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Every value of a query parameter.
    pub(crate) fn params(&self, name: &str) -> Vec<String> {
        self.query.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }

    /// Whether a parameter is true (`true`, `1`, or there without a value).
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.param(name).is_some_and(|v| matches!(v, "" | "1" | "t" | "T" | "true" | "True" | "TRUE"))
    }

    /// A parameter that is a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Status> {
        match self.param(name) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!(
                    "query parameter {name}: invalid value {text:?}: not a number in range"
                ))
            }),
        }
    }

    /// All fields of a dry run are checked, nothing is stored.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        match &self.params("dryRun")[..] {
            [] => Ok(false),
            all if all.iter().all(|v| v == "All") => Ok(true),
            other => Err(Status::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, uri: &str, expect: [&str; 7]) {
        let i = RequestInfo::of(&method, &uri.parse().unwrap()).unwrap();
        assert_eq!(
            [i.verb, &i.group, &i.version, &i.resource, &i.namespace, &i.name, &i.subresource],
            expect,
            "{uri}"
        );
    }

    #[test]
    fn a_collection_of_one_name_is_about_that_name() {
        let name = |uri: &str| RequestInfo::of(&Method::GET, &uri.parse().unwrap()).unwrap().selected_name();
        assert_eq!(name("/api/v1/namespaces/d/pods?fieldSelector=metadata.name%3Da"), "a");
        assert_eq!(
            name("/api/v1/namespaces/d/pods?watch=1&fieldSelector=metadata.name%3Da,status.phase%3Db"),
            "a"
        );
        assert_eq!(name("/api/v1/namespaces/d/pods?fieldSelector=metadata.name!%3Da"), "");
        assert_eq!(name("/api/v1/namespaces/d/pods/x?fieldSelector=metadata.name%3Da"), "x");
    }

    #[test]
    fn paths_name_resources() {
        check(Method::GET, "/api/v1/pods?watch=true", ["watch", "", "v1", "pods", "", "", ""]);
        check(Method::GET, "/api/v1/namespaces/d/pods/p/log", ["get", "", "v1", "pods", "d", "p", "log"]);
        check(
            Method::PUT,
            "/api/v1/namespaces/d/finalize",
            ["update", "", "v1", "namespaces", "d", "d", "finalize"],
        );
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/d/deployments",
            ["deletecollection", "apps", "v1", "deployments", "d", "", ""],
        );
        check(Method::GET, "/api/v1/namespaces", ["list", "", "v1", "namespaces", "", "", ""]);
        check(Method::GET, "/api/v1/namespaces/x", ["get", "", "v1", "namespaces", "x", "x", ""]);
        check(Method::GET, "/apis/apps/v1", ["get", "", "", "", "", "", ""]);
        check(Method::GET, "/version", ["get", "", "", "", "", "", ""]);
    }
}
