//! `wharf kubeconfig`: what kubectl and other clients need to reach the platform.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use wharf_api::codec::{value_to_yaml, yaml_to_values};
use wharf_base::Hinted;

use super::{
    Globals,
    platform::{file_of, say},
};
use crate::platform::write_private;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Add it to the first file of $KUBECONFIG, or to ~/.kube/config, and make it the current one there
    #[arg(long)]
    merge: bool,
    /// Name of the context that is added
    #[arg(long, default_value = "wharf", requires = "merge")]
    context: String,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let own = file_of(&globals.data_dir()?, "kubeconfig")?;
        if !self.merge {
            say(&own);
            return Ok(ExitCode::SUCCESS);
        }
        let path = target().context("neither $KUBECONFIG nor $HOME is set")?;
        // A link stays a link: the file behind it is replaced.
        let path = std::fs::canonicalize(&path).unwrap_or(path);
        let present = match std::fs::read_to_string(&path) {
            Ok(text) => read(&path, &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let merged = merge(present, &read(Path::new("kubeconfig"), &own)?, &self.context)
            .with_context(|| format!("cannot merge into {}", path.display()))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        write_private(&path, value_to_yaml(&merged).as_bytes())?;
        say(&format!("{}: the current context is now {}\n", path.display(), self.context));
        Ok(ExitCode::SUCCESS)
    }
}

fn target() -> Option<PathBuf> {
    let named = std::env::var_os("KUBECONFIG")
        .and_then(|list| std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty()));
    named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".kube/config")))
}

fn read(path: &Path, text: &str) -> anyhow::Result<Value> {
    match yaml_to_values(text) {
        Ok(mut documents) if documents.len() <= 1 => Ok(documents.pop().unwrap_or_default()),
        Ok(_) => anyhow::bail!("{} holds several documents", path.display()),
        Err(error) => {
            let error = format!("{} is no YAML: {error}", path.display());
            Err(Hinted::new(error, "correct the file, or point $KUBECONFIG to another one").into())
        }
    }
}

/// `present` with the cluster, user and context of `own` under the name `name`, which becomes the current one.
fn merge(present: Value, own: &Value, name: &str) -> Result<Value, Hinted> {
    let mut merged = match present {
        Value::Null => json!({"apiVersion": "v1", "kind": "Config", "preferences": {}}),
        Value::Object(_) => present,
        _ => return Err(Hinted::new("it is no kubeconfig", "point $KUBECONFIG to another file")),
    };
    let entry = |list: &str, field: &str| {
        let content = own[list][0][field].clone();
        json!({"name": name, field: content})
    };
    let context = json!({"name": name, "context": {"cluster": name, "user": name}});
    for (list, entry) in
        [("clusters", entry("clusters", "cluster")), ("users", entry("users", "user")), ("contexts", context)]
    {
        if merged[list].is_null() {
            merged[list] = json!([]);
        }
        let Some(entries) = merged[list].as_array_mut() else {
            return Err(Hinted::new(format!("its {list} are no list"), "point $KUBECONFIG to another file"));
        };
        match entries.iter_mut().find(|known| known["name"] == name) {
            Some(known) => *known = entry,
            None => entries.push(entry),
        }
    }
    merged["current-context"] = name.into();
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_what_is_there() {
        let own = json!({"clusters": [{"name": "wharf", "cluster": {"server": "https://a"}}],
            "users": [{"name": "wharf-admin", "user": {"client-key-data": "k"}}]});
        let fresh = merge(Value::Null, &own, "wharf").unwrap();
        assert_eq!(fresh["current-context"], "wharf");
        assert_eq!(fresh["users"], json!([{"name": "wharf", "user": {"client-key-data": "k"}}]));
        let present = json!({"apiVersion": "v1", "kind": "Config", "current-context": "x", "extensions": [1],
            "clusters": [{"name": "x", "cluster": {}}, {"name": "wharf", "cluster": {"server": "https://old"}}]});
        let merged = merge(present, &own, "wharf").unwrap();
        assert_eq!(
            merged["clusters"],
            json!([{"name": "x", "cluster": {}}, {"name": "wharf", "cluster": {"server": "https://a"}}])
        );
        assert_eq!(merged["extensions"], json!([1]));
        assert!(merge(json!("text"), &own, "wharf").is_err());
        assert!(merge(json!({"clusters": 5}), &own, "wharf").is_err());
    }
}
