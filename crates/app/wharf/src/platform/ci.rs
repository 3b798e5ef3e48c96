//! What pipelines need of other parts: builds, scans, and a network for jobs.

use std::{
    path::Path,
    sync::{Arc, mpsc},
};

use anyhow::{Context, Result, anyhow};
use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;
use wharf_base::Hinted;
use wharf_build::{
    BuildRequest, Builder, Cancel, CancelOnDrop, Context as BuildContext, DockerfileSource, Progress,
};
use wharf_ci::{
    sandbox::{JobNetwork, NetworkFiles},
    services::{Build, BuildOrder, Built, Finding, Pull, Say, Scan},
};
use wharf_image::{Reference, Store};
use wharf_node::PodNetwork as _;
use wharf_scan::{LayerSecret, Scanner, Severity};

use super::host::{Puller, Wiring};

/// Builds into the platform's own store, which the registry serves and pods run from.
pub(crate) struct Images {
    pub(crate) images: Arc<Store>,
    pub(crate) builder: Arc<Builder>,
}

impl Build for Images {
    fn build(&self, order: BuildOrder, say: Say) -> BoxFuture<'_, Result<Built>> {
        Box::pin(async move {
            let (images, builder) = (Arc::clone(&self.images), Arc::clone(&self.builder));
            let cancel = Cancel::default();
            let _cancel = CancelOnDrop(cancel.clone());
            let remote: Vec<Reference> = order
                .tags
                .iter()
                .filter_map(|t| t.parse().ok())
                .filter(|r: &Reference| r.domain() != "docker.io")
                .collect();
            let push = order.push;
            let built = spawn_blocking(move || build(&builder, order, cancel, &say)).await??;
            if push {
                let client = wharf_engineapi::client::Client::of_user();
                for name in remote
                    .iter()
                    .filter(|name| images.local_name(name).is_ok_and(|n| n.domain() != "docker.io"))
                {
                    client
                        .push(&images, name, &wharf_engineapi::client::Silent)
                        .await
                        .with_context(|| format!("cannot push {name}"))?;
                }
            }
            Ok(built)
        })
    }
}

fn build(builder: &Builder, order: BuildOrder, cancel: Cancel, say: &Say) -> Result<Built> {
    let first = order.tags.first().cloned().context("with.tags names no tag for the image")?;
    let mut request = BuildRequest::new(BuildContext::Folder(order.context));
    request.dockerfile = DockerfileSource::File(order.dockerfile);
    request.args = order.args.into_iter().collect();
    request.target = Some(order.target).filter(|t| !t.is_empty());
    request.cancel = cancel;
    for tag in &order.tags {
        request.tags.push(tag.parse().with_context(|| format!("with.tags: {tag:?} is no image name"))?);
    }
    // Progress comes from several threads; the log takes it from one.
    let (sender, lines) = mpsc::channel::<String>();
    let say = Arc::clone(say);
    let printer = std::thread::spawn(move || {
        for line in lines {
            say(&line);
        }
    });
    let names = std::sync::Mutex::new(std::collections::HashMap::new());
    let sender = std::sync::Mutex::new(sender);
    let result = builder.build(request, |progress| {
        let mut names = names.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let text = match progress {
            Progress::Started { step, name } => {
                names.insert(step, name.clone());
                name
            }
            Progress::Cached { step } => {
                format!("{} CACHED", names.get(&step).map_or("", String::as_str))
            }
            Progress::Output { line, .. } => format!("  {line}"),
            Progress::Failed { error, .. } => format!("error: {error}"),
            Progress::Note { text } => text,
            Progress::Planned { .. } | Progress::Done { .. } => return,
        };
        // The printer lives until the build is over.
        let _ = sender.lock().unwrap_or_else(std::sync::PoisonError::into_inner).send(text);
    });
    drop(sender);
    printer.join().map_err(|_| anyhow!("the log of the build broke"))?;
    let result = result.map_err(|error| hinted(error.hint.clone(), error))?;
    let digest = result.manifest.digest.to_string();
    Ok(Built { image: format!("{first}@{digest}"), digest })
}

fn hinted(hint: Option<String>, error: impl std::error::Error + Send + Sync + 'static) -> anyhow::Error {
    match hint {
        Some(hint) => Hinted::new(error, hint).into(),
        None => error.into(),
    }
}

/// Looks for vulnerabilities with the advisories in DIR/osv.
pub(crate) struct Advisories {
    pub(crate) images: Arc<Store>,
    pub(crate) folder: std::path::PathBuf,
}

impl Scan for Advisories {
    fn scan(&self, image: &str, severity: &str, say: Say) -> BoxFuture<'_, Result<Vec<Finding>>> {
        let (images, folder) = (Arc::clone(&self.images), self.folder.clone());
        let (image, severity) = (image.to_owned(), severity.to_owned());
        Box::pin(
            async move { spawn_blocking(move || scan(&images, &folder, &image, &severity, &say)).await? },
        )
    }
}

fn scan(images: &Store, folder: &Path, image: &str, severity: &str, say: &Say) -> Result<Vec<Finding>> {
    let threshold: Severity = severity.parse().map_err(|e| anyhow!("with.severity: {e}"))?;
    let scanner = if folder.is_dir() {
        Scanner::open(folder)
            .with_context(|| format!("the advisories in {} cannot be read", folder.display()))?
    } else {
        say(&format!(
            "no advisories: put OSV files into {} to have packages compared with them",
            folder.display()
        ));
        Scanner::new(wharf_scan::Database::default())
    };
    let resolved = images.resolve(image).map_err(|error| hinted(error.hint(), error))?;
    let report = scanner.scan(images, &resolved)?;
    let (packages, findings, secrets) = (&report.packages, &report.findings, &report.secrets);
    say(&format!("{} packages, {} findings, {} secrets", packages.len(), findings.len(), secrets.len()));
    note_lines(&report.notes).chain(secret_lines(secrets)).for_each(|line| say(&line));
    let bad = report.at_least(threshold);
    Ok(bad
        .into_iter()
        .map(|finding| Finding {
            id: finding.id.clone(),
            severity: finding.severity.to_string(),
            package: finding.package.clone(),
            version: finding.version.clone(),
            fixed: finding.fixed_in.clone().unwrap_or_default(),
        })
        .collect())
}

/// What limits the report, such as advisories that cannot be read, as `wharf image scan` tells it.
fn note_lines(notes: &[String]) -> impl Iterator<Item = String> {
    notes.iter().map(|note| format!("note: {note}"))
}

/// Where the credentials of an image are, and that they do not fail the step, as with `wharf image scan`.
fn secret_lines(secrets: &[LayerSecret]) -> Vec<String> {
    let mut lines: Vec<String> = secrets
        .iter()
        .map(|found| {
            let hidden = if found.hidden { ", hidden by an upper layer" } else { "" };
            let (secret, layer) = (&found.secret, found.layer.short());
            format!("secret {} {}:{} in layer {layer}{hidden}", secret.kind, secret.path, secret.line)
        })
        .collect();
    if !lines.is_empty() {
        lines.push("warning: secrets do not fail this step; everyone who has the image can read them".into());
    }
    lines
}

impl Pull for Puller {
    fn pull<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mine = wharf_engineapi::client::DockerConfig::load().map_err(|error| anyhow!(error))?;
            self.with_credentials(image, vec![mine]).await.map_err(|failure| anyhow!(failure.0))
        })
    }
}

/// Jobs stand in the pod network.
pub(crate) struct Jobs(pub(crate) Wiring);

impl JobNetwork for Jobs {
    fn attach(&self, id: &str, namespace: &Path) -> Result<NetworkFiles> {
        self.0.attach(id, namespace)?;
        Ok(NetworkFiles {
            resolv_conf: format!(
                "nameserver {}\nsearch svc.cluster.local cluster.local\noptions ndots:5\n",
                self.0.network.dns()
            ),
            hosts: String::new(),
        })
    }

    fn detach(&self, id: &str) -> Result<()> {
        Ok(self.0.detach(id)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_limits_a_report_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let advisories = folder.path().join("osv");
        std::fs::create_dir(&advisories).unwrap();
        std::fs::write(advisories.join("bad.json"), "{").unwrap();
        let good = r#"{"id": "A-1", "affected": [{"package": {"ecosystem": "npm", "name": "x"}, "versions": ["1"]}]}"#;
        std::fs::write(advisories.join("good.json"), good).unwrap();
        let images = Store::open(folder.path().join("images")).unwrap();
        let image = images.put_image(wharf_image::ImageConfig::for_host(), &[]).unwrap();
        images.tag(&["shop:1".parse().unwrap()], &image).unwrap();
        let said = Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        let say: Say = Arc::new(move |line: &str| heard.lock().unwrap().push(line.to_owned()));
        scan(&images, &advisories, "shop:1", "high", &say).unwrap();
        let said = said.lock().unwrap().join("\n");
        assert!(
            said.contains("note: some advisories cannot be read, such as ") && said.contains("bad.json"),
            "{said}"
        );
    }

    #[test]
    fn secrets_are_listed_with_a_word_on_their_weight() {
        assert_eq!(secret_lines(&[]), [""; 0]);
        let layer = wharf_base::Digest::of(b"layer");
        let secret = wharf_scan::Secret { path: "/root/.npmrc".into(), line: 2, kind: "npm token".into() };
        let lines = secret_lines(&[LayerSecret { secret, layer, hidden: true }]);
        assert_eq!(
            lines,
            [
                format!(
                    "secret npm token /root/.npmrc:2 in layer {}, hidden by an upper layer",
                    layer.short()
                ),
                "warning: secrets do not fail this step; everyone who has the image can read them".to_owned(),
            ]
        );
    }
}
