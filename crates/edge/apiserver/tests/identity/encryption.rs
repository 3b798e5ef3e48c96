//! Secrets that are kept encrypted.

use std::{path::Path, sync::Arc};

use serde_json::{Value, json};
use wharf_apiserver::{Encrypted, Encryption, Security};
use wharf_state::{Change, Embedded, KeyValue, Options, Revision, Store, Subscriber};

use super::support::Api;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn config(names: &[&str]) -> Encryption {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let key = |name: &&str| json!({"name": name, "secret": STANDARD.encode([name.len() as u8; 32])});
    let keys: Vec<Value> = names.iter().map(key).collect();
    let file = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources":
        [{"resources": ["secrets"], "providers": [{"aesgcm": {"keys": keys}}, {"identity": {}}]}]});
    Encryption::parse(&file.to_string()).unwrap()
}

fn store(folder: &Path, encryption: Encryption) -> Encrypted {
    let inner = Embedded::open(&folder.join("state"), Options::default()).unwrap();
    Encrypted::new(Arc::new(inner), encryption)
}

async fn start(folder: tempfile::TempDir, encryption: Encryption) -> Api {
    let store = store(folder.path(), encryption);
    let security = Security { stale: store.stale(), ..Security::default() };
    Api::start_on(folder, Arc::new(store), None, security).await
}

/// Ends a server and gives its folder back.
async fn end(api: Api) -> tempfile::TempDir {
    let Api { server, folder } = api;
    let weak = Arc::downgrade(&server);
    drop(server);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while weak.strong_count() > 0 {
        assert!(std::time::Instant::now() < deadline, "the server does not end");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    folder
}

fn holds(folder: &Path, text: &str) -> bool {
    let bytes = std::fs::read(folder.join("state")).unwrap();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_new_key_takes_over_when_secrets_are_replaced_as_they_are() {
    let api = start(tempfile::tempdir().unwrap(), config(&["one"])).await;
    // "hunter2" as it stands in a Secret.
    let made =
        api.made(SECRETS, json!({"metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}})).await;
    assert_eq!(api.get(&format!("{SECRETS}/s")).await.body, made);
    let folder = end(api).await;
    assert!(!holds(folder.path(), "aHVudGVyMg==") && holds(folder.path(), "k8s:enc:aesgcm:v1:one:"));

    let api = start(folder, config(&["second", "one"])).await;
    let found = api.get(&format!("{SECRETS}/s")).await.body;
    assert_eq!(found, made);
    let replaced = api.send("PUT", &format!("{SECRETS}/s"), found.clone()).await;
    assert_eq!(replaced.code, 200);
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    assert_ne!(version(&replaced.body), version(&found), "it was written, although nothing changed");
    // From now on nothing is to be done again.
    let again = api.send("PUT", &format!("{SECRETS}/s"), replaced.body.clone()).await;
    assert_eq!(version(&again.body), version(&replaced.body));
    let folder = end(api).await;

    // The old key is needed no more; the new one is.
    let api = start(folder, config(&["second"])).await;
    assert_eq!(api.get(&format!("{SECRETS}/s")).await.body["data"], made["data"]);
    let folder = end(api).await;
    let unread = store(folder.path(), config(&["third-key"]));
    let said = unread.subscribe(Box::new(Nobody)).await.unwrap_err().to_string();
    assert!(said.contains("secrets/default/s") && said.contains("\"second\""), "{said}");
}

/// Asks a store to read itself.
struct Nobody;

impl Subscriber for Nobody {
    fn load(&mut self, _: Vec<KeyValue>) {}
    fn loaded(&mut self, _: Revision) {}
    fn apply(&mut self, _: &[Change]) {}
}
