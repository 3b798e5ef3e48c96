//! Which resources are served now: the built-in ones and those of CustomResourceDefinitions.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use wharf_api::{
    crd,
    resource::{Resource, builtin_resources},
};

use crate::{
    measured,
    storage::{Snapshot, Storage},
};

/// A version of a group with its resources in order.
pub(crate) type Version = (String, Vec<Arc<Resource>>);

/// The served resources at one time.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By group, version and plural.
    by_path: HashMap<(String, String, String), Arc<Resource>>,
    /// Group to its versions, preferred first, each with its resources in order.
    pub groups: BTreeMap<String, Vec<Version>>,
}

impl Index {
    fn build(measured: bool, definitions: impl Iterator<Item = Arc<Resource>>) -> Self {
        let mut index = Self::default();
        for resource in builtin_resources() {
            index.add(Arc::new(resource.clone()));
        }
        if measured {
            measured::resources().into_iter().for_each(|resource| index.add(Arc::new(resource)));
        }
        for resource in definitions {
            // A definition never shadows what is built in.
            let path = (resource.gvk.group.clone(), resource.gvk.version.clone(), resource.plural.clone());
            if !index.by_path.contains_key(&path) {
                index.add(resource);
            }
        }
        index
    }

    fn add(&mut self, resource: Arc<Resource>) {
        let gvk = &resource.gvk;
        let path = (gvk.group.clone(), gvk.version.clone(), resource.plural.clone());
        let versions = self.groups.entry(gvk.group.clone()).or_default();
        match versions.iter_mut().find(|(v, _)| *v == gvk.version) {
            Some((_, resources)) => resources.push(Arc::clone(&resource)),
            None => versions.push((gvk.version.clone(), vec![Arc::clone(&resource)])),
        }
        versions.sort_by_key(|(v, _)| std::cmp::Reverse(version_rank(v)));
        self.by_path.insert(path, resource);
    }

    /// The resource at a path.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// Whether the server itself has this version of the group.
    pub(crate) fn serves(&self, group: &str, version: &str) -> bool {
        self.groups.get(group).is_some_and(|versions| versions.iter().any(|(v, _)| v == version))
    }

    /// Every resource.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.groups.values().flatten().flat_map(|(_, resources)| resources)
    }
}

/// Kubernetes' order of versions: `v2` over `v1` over `v1beta1` over `v1alpha1` over anything else.
fn version_rank(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse().unwrap_or(0);
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    for (stage, word) in [(2, "beta"), (1, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return (stage, number(major), number(minor));
        }
    }
    match rest.parse() {
        Ok(major) => (3, major, 0),
        Err(_) => (0, 0, 0),
    }
}

/// The index, rebuilt when definitions change.
pub(crate) struct Registry {
    current: RwLock<(u64, Arc<Index>)>,
    /// Resources that are measured are served.
    measured: AtomicBool,
    /// What definitions compiled to, by name and the revision they were written at.
    compiled: Mutex<HashMap<Arc<str>, (u64, Compiled)>>,
}

/// The resources of one definition.
type Compiled = Vec<Arc<Resource>>;

/// No revision of the definitions.
const STALE: u64 = u64::MAX;

const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            current: RwLock::new((STALE, Arc::default())),
            measured: AtomicBool::new(false),
            compiled: Mutex::default(),
        }
    }

    /// From here on resources that are measured are served too.
    pub(crate) fn serve_measured(&self) {
        self.measured.store(true, Ordering::Release);
        self.current.write().unwrap_or_else(PoisonError::into_inner).0 = STALE;
    }

    /// The resources of all definitions; those that are as they were are not compiled again.
    fn compiled(&self, definitions: &Snapshot) -> Compiled {
        let mut known = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|key, _| definitions.entries.contains_key(key));
        let mut all = Vec::new();
        for (key, entry) in &definitions.entries {
            let fresh = known.get(key).filter(|(revision, _)| *revision == entry.revision);
            let resources = match fresh {
                Some((_, resources)) => resources.clone(),
                None => {
                    let resources: Compiled =
                        crd::resources(&entry.object()).into_iter().map(Arc::new).collect();
                    known.insert(Arc::clone(key), (entry.revision, resources.clone()));
                    resources
                }
            };
            all.extend(resources);
        }
        all
    }

    /// The index as of the definitions stored now.
    pub(crate) fn index(&self, storage: &Storage) -> Arc<Index> {
        let definitions = storage.cache(DEFINITIONS);
        let newest = *definitions.subscribe().borrow();
        {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            if current.0 == newest {
                return Arc::clone(&current.1);
            }
        }
        let snapshot = definitions.snapshot();
        let measured = self.measured.load(Ordering::Acquire);
        let index = Arc::new(Index::build(measured, self.compiled(&snapshot).into_iter()));
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // An index begun before a source was connected is not kept.
        if measured == self.measured.load(Ordering::Acquire) {
            *current = (newest, Arc::clone(&index));
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_upstream() {
        let mut versions = ["v1alpha1", "v2", "foo", "v1", "v1beta2", "v1beta1", "v10"];
        versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]);
    }
}
