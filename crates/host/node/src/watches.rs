//! ConfigMaps and Secrets that pods use: read when needed, watched while a volume shows them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use wharf_client::{Client, Gvr, Informer, ListParams, action::CONFIG_MAPS};

use crate::{env::config_error, step::Reason};

const SECRETS: Gvr = Gvr::fixed("", "v1", "secrets");

/// Objects with named contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    /// As messages say it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }

    fn resource(self) -> Gvr {
        match self {
            Self::ConfigMap => CONFIG_MAPS,
            Self::Secret => SECRETS,
        }
    }
}

/// Contents by key.
pub(crate) type Content = BTreeMap<String, Vec<u8>>;

/// One object of a kind.
pub(crate) type ObjectName = (Kind, String, String);

/// Reads and watches objects.
pub(crate) struct Objects {
    client: Client,
    watches: Mutex<HashMap<ObjectName, Weak<Informer>>>,
}

impl Objects {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, watches: Mutex::default() }
    }

    /// The contents of an object as it is now; nothing when it is not there.
    pub(crate) async fn content(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Content>, Reason> {
        let object = self.client.get(&kind.resource(), namespace, name).await;
        let object =
            object.map_err(|error| config_error(format!("failed to get {} {name}: {error}", kind.word())))?;
        object.map(|object| content_of(kind, name, &object)).transpose()
    }

    /// A watch of one object, shared by all who hold it.
    pub(crate) fn watch(&self, object: &ObjectName) -> Arc<Informer> {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|_, watch| watch.strong_count() > 0);
        if let Some(known) = watches.get(object).and_then(Weak::upgrade) {
            return known;
        }
        let (kind, namespace, name) = object;
        let params =
            ListParams { fields: format!("metadata.name={name}"), ..ListParams::namespace(namespace) };
        let watch = Arc::new(Informer::start(self.client.clone(), kind.resource(), params));
        watches.insert(object.clone(), Arc::downgrade(&watch));
        watch
    }
}

fn content_of(kind: Kind, name: &str, object: &Value) -> Result<Content, Reason> {
    let (plain, encoded) = match kind {
        Kind::ConfigMap => (&object["data"], &object["binaryData"]),
        Kind::Secret => (&Value::Null, &object["data"]),
    };
    let texts = |value: &Value| -> Vec<(String, String)> {
        let fields = value.as_object().into_iter().flatten();
        fields.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    };
    let mut content: Content = texts(plain).into_iter().map(|(key, text)| (key, text.into_bytes())).collect();
    for (key, text) in texts(encoded) {
        let bytes = STANDARD
            .decode(text)
            .map_err(|_| config_error(format!("key {key} of {} {name} is not base64", kind.word())))?;
        content.insert(key, bytes);
    }
    Ok(content)
}
