use wharf_state::{Embedded, Expect, Options};

use super::*;

const FIRST: &str = "{name: first, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}";
const SECOND: &str = "{name: second, secret: ZmVkY2JhOTg3NjU0MzIxMA==}";
/// Of the same name as the first, but another.
const FALSE_FIRST: &str = "{name: first, secret: ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=}";

fn file(resources: &str, providers: &str) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [{resources}]\n  providers: [{providers}]"
    )
}

fn aes(keys: &str) -> String {
    format!("{{aesgcm: {{keys: [{keys}]}}}}, {{identity: {{}}}}")
}

fn write(key: &str, value: &str) -> Write {
    Write { key: key.to_owned().into(), value: Some(value.to_owned().into()), expect: Expect::Any }
}

struct Disk(tempfile::TempDir);

impl Disk {
    fn open(&self, providers: &str) -> Encrypted {
        let inner = Embedded::open(&self.0.path().join("state"), Options::default()).unwrap();
        let encryption = match providers {
            "" => Encryption::none(),
            providers => Encryption::parse(&file("secrets", providers)).unwrap(),
        };
        Encrypted::new(Arc::new(inner), encryption)
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.0.path().join("state")).unwrap()
    }
}

/// What a store has told a subscriber.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<(Vec<KeyValue>, Vec<Change>)>>);

impl Subscriber for Heard {
    fn load(&mut self, keys: Vec<KeyValue>) {
        self.0.lock().unwrap().0.extend(keys);
    }

    fn loaded(&mut self, _: Revision) {}

    fn apply(&mut self, changes: &[Change]) {
        self.0.lock().unwrap().1.extend_from_slice(changes);
    }
}

/// All keys a store tells of.
async fn all(store: &dyn Store) -> Result<Vec<KeyValue>, Error> {
    let heard = Heard::default();
    store.subscribe(Box::new(heard.clone())).await?;
    let keys = heard.0.lock().unwrap().0.clone();
    Ok(keys)
}

async fn read(store: &dyn Store, key: &str) -> Option<String> {
    let keys = all(store).await.unwrap();
    let found = keys.into_iter().find(|object| object.key.starts_with(key.as_bytes()))?;
    Some(String::from_utf8(found.value.to_vec()).unwrap())
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn secrets_are_not_on_the_disk_and_keys_are_changed_one_by_one() {
    let disk = Disk(tempfile::tempdir().unwrap());
    {
        let store = disk.open(&aes(FIRST));
        let heard = Heard::default();
        store.subscribe(Box::new(heard.clone())).await.unwrap();
        store
            .commit(vec![write("secrets/n/a", "hunter2-hidden"), write("configmaps/n/a", "seen-by-all")])
            .await
            .unwrap();
        assert_eq!(heard.0.lock().unwrap().1[0].value.as_deref(), Some(&b"hunter2-hidden"[..]));
        assert_eq!(read(&store, "secrets/").await, Some("hunter2-hidden".into()));
    }
    let bytes = disk.bytes();
    assert!(!holds(&bytes, "hunter2-hidden") && holds(&bytes, "seen-by-all"));
    assert!(holds(&bytes, "k8s:enc:aesgcm:v1:first:"));
    // A backup of it holds no more than the disk does.
    {
        let store = disk.open(&aes(FIRST));
        let mut snapshot = store.snapshot().await.unwrap();
        while let Some(keys) = snapshot.next().await.unwrap() {
            assert!(keys.iter().all(|object| !holds(&object.value, "hunter2-hidden")));
        }
    }
    {
        // A new key writes, the old one still reads; what is written again is of the new one.
        let store = disk.open(&aes(&format!("{SECOND}, {FIRST}")));
        assert_eq!(read(&store, "secrets/").await, Some("hunter2-hidden".into()));
        assert!(store.stale().contains("secrets", "n/a"));
        store.commit(vec![write("secrets/n/a", "hunter2-hidden")]).await.unwrap();
    }
    let store = disk.open(&aes(SECOND));
    assert_eq!(read(&store, "secrets/").await, Some("hunter2-hidden".into()));
    assert!(!store.stale().contains("secrets", "n/a"));
}

#[tokio::test]
async fn what_cannot_be_decrypted_is_named() {
    let disk = Disk(tempfile::tempdir().unwrap());
    disk.open(&aes(FIRST)).commit(vec![write("secrets/n/a", "x"), write("secrets/n/b", "x")]).await.unwrap();
    for (providers, expect) in [
        (aes(SECOND), "the key \"first\", which is not configured"),
        (aes(FALSE_FIRST), "the aesgcm key \"first\" of --encryption-provider-config is not the one"),
        ("{identity: {}}".into(), "the key \"first\", which is not configured"),
        (String::new(), "the key \"first\", which is not configured"),
    ] {
        let said = all(&disk.open(&providers)).await.unwrap_err().to_string();
        assert!(said.contains("secrets/n/a") && said.contains(expect), "{providers}: {said}");
    }
    // A value in another's place is not believed.
    let moved = {
        let inner = Embedded::open(&disk.0.path().join("state"), Options::default()).unwrap();
        let value = all(&inner).await.unwrap()[0].value.clone();
        let write = Write { key: "secrets/n/b".into(), value: Some(value), expect: Expect::Any };
        inner.commit(vec![write]).await
    };
    moved.unwrap();
    let said = all(&disk.open(&aes(FIRST))).await.unwrap_err().to_string();
    assert!(said.contains("secrets/n/b"), "{said}");
}

#[tokio::test]
async fn what_was_plain_is_read_where_that_is_said() {
    let disk = Disk(tempfile::tempdir().unwrap());
    disk.open("").commit(vec![write("secrets/n/a", "x")]).await.unwrap();
    let store = disk.open(&aes(FIRST));
    all(&store).await.unwrap();
    assert!(store.stale().contains("secrets", "n/a"));
    drop(store);
    let only = format!("{{aesgcm: {{keys: [{FIRST}]}}}}");
    let said = all(&disk.open(&only)).await.unwrap_err().to_string();
    assert!(said.contains("the provider identity is not configured"), "{said}");
}

#[test]
fn files_say_where_they_are_wrong() {
    for (resources, providers, expect) in [
        (
            "secrets",
            "{aescbc: {keys: []}}",
            "resources[0].providers[0].aescbc: objects are not encrypted by this here",
        ),
        ("secrets", "{kms: {name: x}}", "resources[0].providers[0].kms"),
        ("secrets", "{aesgcm: {keys: []}}", "resources[0].providers[0].aesgcm.keys: there must be"),
        (
            "secrets",
            "{aesgcm: {keys: [{name: a, secret: '!'}]}}",
            "resources[0].providers[0].aesgcm.keys[0].secret: is not base64",
        ),
        (
            "secrets",
            "{aesgcm: {keys: [{name: a, secret: YQ==}]}}",
            "resources[0].providers[0].aesgcm.keys[0].secret: has 1 bytes",
        ),
        (
            "secrets",
            "{aesgcm: {keys: [{name: 'a:b', secret: YQ==}]}}",
            "resources[0].providers[0].aesgcm.keys[0].name: ",
        ),
        ("secrets", "", "resources[0].providers: there must be"),
        ("'*'", "{identity: {}}", "resources[0].resources: \"*\" is none of the forms"),
        ("secrets", "{identity: {}, aesgcm: {}}", "resources[0].providers[0]: must be one of"),
    ] {
        let said = Encryption::parse(&file(resources, providers)).unwrap_err().to_string();
        assert!(said.starts_with(expect), "{said}");
    }
    let twice = format!(
        "{}\n- resources: [secrets]\n  providers: [{{identity: {{}}}}]",
        file("'*.*'", "{identity: {}}")
    );
    let said = Encryption::parse(&twice).unwrap_err().to_string();
    assert!(said.starts_with("resources[1].resources: \"secrets\" is covered"), "{said}");
}

#[test]
fn resources_are_named_by_patterns() {
    let check = |pattern: &str, key: &str, covered: bool| {
        let encryption = Encryption::parse(&file(&format!("'{pattern}'"), "{identity: {}}")).unwrap();
        assert_eq!(encryption.rule(key.as_bytes()).is_some(), covered, "{pattern} {key}");
    };
    check("secrets", "secrets/n/a", true);
    check("secrets", "secrets.demo.io/n/a", false);
    check("*.demo.io", "widgets.demo.io/n/a", true);
    check("*.demo.io", "widgets.other.io/n/a", false);
    check("*.", "secrets/n/a", true);
    check("*.", "widgets.demo.io/n/a", false);
    check("*.*", "widgets.demo.io/n/a", true);
}

#[tokio::test]
async fn what_another_server_writes_and_cannot_be_read_is_not_served() {
    let disk = Disk(tempfile::tempdir().unwrap());
    let inner: Arc<dyn Store> =
        Arc::new(Embedded::open(&disk.0.path().join("state"), Options::default()).unwrap());
    let with = |providers: &str| {
        let encryption = match providers {
            "" => Encryption::none(),
            providers => Encryption::parse(&file("secrets", providers)).unwrap(),
        };
        Encrypted::new(Arc::clone(&inner), encryption)
    };
    let other = with(&aes(FIRST));
    for providers in [String::new(), aes(SECOND)] {
        // So that it can be read in the beginning.
        inner.commit(vec![write("secrets/n/a", "plain")]).await.unwrap();
        let (store, heard) = (with(&providers), Heard::default());
        store.subscribe(Box::new(heard.clone())).await.unwrap();
        store.commit(vec![write("configmaps/n/m", "x")]).await.unwrap();
        other.commit(vec![write("secrets/n/a", "hidden"), write("configmaps/n/m", "y")]).await.unwrap();
        let last: Vec<Option<Bytes>> =
            heard.0.lock().unwrap().1.iter().rev().take(2).map(|change| change.value.clone()).collect();
        assert_eq!(last, [Some(Bytes::from_static(b"y")), None], "{providers}");
        let said = store.commit(vec![write("configmaps/n/m", "z")]).await.unwrap_err().to_string();
        assert!(said.contains("secrets/n/a") && said.contains("start the server anew"), "{said}");
    }
}
