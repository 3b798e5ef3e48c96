//! Advisories in the Open Source Vulnerability format, found by package.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{Error, cvss, severity::Severity, version::Ecosystem, zip};

const MAX_ADVISORY: u64 = 8 << 20;
const MAX_DEPTH: usize = 12;

/// One advisory, reduced to what scanning needs.
#[derive(Debug, Clone, Deserialize)]
pub struct Advisory {
    /// Its id.
    pub id: String,
    /// Other ids of the same vulnerability.
    #[serde(default, deserialize_with = "null_is_default")]
    pub aliases: Vec<String>,
    /// One line about it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub summary: String,
    #[serde(default, deserialize_with = "null_is_default")]
    details: String,
    withdrawn: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    severity: Vec<Score>,
    #[serde(default, deserialize_with = "null_is_default")]
    affected: Vec<Affected>,
    #[serde(default)]
    database_specific: Value,
}

#[derive(Debug, Clone, Deserialize)]
struct Score {
    #[serde(default)]
    score: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Affected {
    package: Option<PackageName>,
    #[serde(default, deserialize_with = "null_is_default")]
    ranges: Vec<Range>,
    #[serde(default, deserialize_with = "null_is_default")]
    versions: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    severity: Vec<Score>,
    #[serde(default)]
    database_specific: Value,
    #[serde(default)]
    ecosystem_specific: Value,
}

#[derive(Debug, Clone, Deserialize)]
struct PackageName {
    ecosystem: String,
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Range {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "null_is_default")]
    events: Vec<Event>,
}

#[derive(Debug, Clone, Deserialize)]
struct Event {
    introduced: Option<String>,
    fixed: Option<String>,
    last_affected: Option<String>,
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

impl Advisory {
    /// Reads one advisory.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The summary, or the beginning of the details.
    pub fn headline(&self) -> String {
        let text = if self.summary.is_empty() { &self.details } else { &self.summary };
        text.lines().find(|line| !line.trim().is_empty()).unwrap_or("").trim().chars().take(200).collect()
    }

    /// Whether a version of a package is affected: if so, the version that fixes it (when known) and how
    /// bad it is. `release` is the distribution's, where there is one.
    pub fn affects(
        &self,
        ecosystem: Ecosystem,
        release: Option<&str>,
        name: &str,
        version: &str,
    ) -> Option<(Option<String>, Severity)> {
        let wanted = ecosystem.normal_name(name);
        self.affected.iter().find_map(|affected| {
            let package = affected.package.as_ref()?;
            let (of, suffix) = Ecosystem::parse(&package.ecosystem)?;
            if of != ecosystem
                || ecosystem.normal_name(&package.name) != wanted
                || !same_release(suffix, release)
            {
                return None;
            }
            affected
                .covers(ecosystem, version)
                .then(|| (affected.fixed_after(ecosystem, version), self.severity_for(affected)))
        })
    }

    fn severity_for(&self, affected: &Affected) -> Severity {
        let scores = affected.severity.iter().chain(&self.severity).map(|s| s.score.as_str());
        let noted = [&affected.database_specific, &self.database_specific];
        let vectors = noted.iter().filter_map(|value| value.get("cvss")?.as_str());
        let best = scores.chain(vectors).filter_map(score).map(Severity::of_score).max();
        if let Some(best) = best {
            return best;
        }
        let places = [&affected.ecosystem_specific, &affected.database_specific, &self.database_specific];
        let word = |value: &&Value| {
            let word = value.get("severity").or(value.get("urgency"))?.as_str()?;
            word.parse::<Severity>().ok()
        };
        // Ubuntu gives its word where others give a vector.
        let priority = self.severity.iter().filter_map(|s| s.score.parse::<Severity>().ok());
        places.iter().filter_map(word).chain(priority).max().unwrap_or_default()
    }
}

fn score(text: &str) -> Option<f64> {
    cvss::base_score(text).or_else(|| text.parse::<f64>().ok().filter(|s| (0.0..=10.0).contains(s)))
}

/// Whether an advisory for one release of a distribution speaks of another.
fn same_release(advisory: Option<&str>, machine: Option<&str>) -> bool {
    match (advisory, machine) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(advisory), Some(machine)) => advisory.strip_suffix(":LTS").unwrap_or(advisory) == machine,
    }
}

impl Affected {
    fn covers(&self, ecosystem: Ecosystem, version: &str) -> bool {
        let same = |v: &String| v == version || ecosystem.compare(v, version) == Some(Ordering::Equal);
        self.versions.iter().any(same)
            || self.ranges.iter().any(|range| range.kind != "GIT" && range.covers(ecosystem, version))
    }

    /// The first version after `version` that has the fix.
    fn fixed_after(&self, ecosystem: Ecosystem, version: &str) -> Option<String> {
        let fixes = self.ranges.iter().filter(|r| r.kind != "GIT").flat_map(|r| &r.events);
        let later = fixes
            .filter_map(|event| event.fixed.as_ref())
            .filter(|fixed| ecosystem.compare(fixed, version) == Some(Ordering::Greater));
        later.min_by(|a, b| ecosystem.compare(a, b).unwrap_or(Ordering::Equal)).cloned()
    }
}

impl Range {
    /// OSV's evaluation: the events in order of their versions; the last one not after `version` decides.
    fn covers(&self, ecosystem: Ecosystem, version: &str) -> bool {
        let compare = |a: &str, b: &str| match (a, b) {
            ("0", "0") => Ordering::Equal,
            ("0", _) => Ordering::Less,
            (_, "0") => Ordering::Greater,
            _ => ecosystem.compare(a, b).unwrap_or(Ordering::Equal),
        };
        let mut events: Vec<(&str, u8)> = Vec::new();
        for event in &self.events {
            events.extend(event.introduced.as_deref().map(|v| (v, 0)));
            events.extend(event.fixed.as_deref().map(|v| (v, 1)));
            events.extend(event.last_affected.as_deref().map(|v| (v, 2)));
        }
        events.sort_by(|a, b| compare(a.0, b.0).then(a.1.cmp(&b.1)));
        let mut affected = false;
        for (at, kind) in events {
            let order = if at == "0" { Some(Ordering::Greater) } else { ecosystem.compare(version, at) };
            match (kind, order) {
                (0, Some(Ordering::Greater | Ordering::Equal)) => affected = true,
                (1, Some(Ordering::Greater | Ordering::Equal)) | (2, Some(Ordering::Greater)) => {
                    affected = false
                }
                _ => {}
            }
        }
        affected
    }
}

/// Advisories by the packages they are about.
#[derive(Debug, Default)]
pub struct Database {
    advisories: Vec<Advisory>,
    by_package: HashMap<(Ecosystem, String), Vec<usize>>,
    /// Files that could not be read as advisories, and why; the first few.
    pub unreadable: Vec<String>,
}

impl Database {
    /// Reads every `*.json` below `dir`, and those in every `*.zip`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let mut files = Vec::new();
        list(dir, 0, &mut files)?;
        files.sort();
        let half = files.len().div_ceil(std::thread::available_parallelism().map_or(2, usize::from).min(8));
        let read = |files: &[PathBuf]| files.iter().flat_map(|file| read_any(file)).collect::<Vec<_>>();
        let parts: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                files.chunks(half.max(1)).map(|part| scope.spawn(move || read(part))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
        });
        let mut database = Self::default();
        for (file, advisory) in parts {
            match advisory {
                Ok(advisory) => database.add(advisory),
                Err(why) if database.unreadable.len() < 20 => {
                    database.unreadable.push(format!("{file}: {why}"));
                }
                Err(_) => {}
            }
        }
        if database.advisories.is_empty() {
            return Err(Error::NoAdvisories(dir.to_owned()));
        }
        Ok(database)
    }

    /// Adds an advisory, unless it was withdrawn.
    pub fn add(&mut self, advisory: Advisory) {
        if advisory.withdrawn.is_some() {
            return;
        }
        let packages: BTreeSet<_> = advisory
            .affected
            .iter()
            .filter_map(|affected| {
                let package = affected.package.as_ref()?;
                let (ecosystem, _) = Ecosystem::parse(&package.ecosystem)?;
                Some((ecosystem, ecosystem.normal_name(&package.name)))
            })
            .collect();
        let at = self.advisories.len();
        for package in packages {
            self.by_package.entry(package).or_default().push(at);
        }
        self.advisories.push(advisory);
    }

    /// How many advisories there are.
    pub fn len(&self) -> usize {
        self.advisories.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.advisories.is_empty()
    }

    /// The advisories about a package.
    pub fn about(&self, ecosystem: Ecosystem, name: &str) -> impl Iterator<Item = &Advisory> {
        let found = self.by_package.get(&(ecosystem, ecosystem.normal_name(name)));
        found.into_iter().flatten().filter_map(|at| self.advisories.get(*at))
    }
}

type Read = (String, Result<Advisory, String>);

/// The advisories of a file, or of the files in an archive.
fn read_any(file: &Path) -> Vec<Read> {
    let shown = file.display().to_string();
    if file.extension().is_none_or(|e| e != "zip") {
        return vec![(shown, read(file))];
    }
    let mut found = Vec::new();
    let wanted = |name: &str| name.ends_with(".json");
    let ended = zip::entries(file, MAX_ADVISORY, wanted, |name, bytes| {
        let advisory = bytes.and_then(|bytes| Advisory::parse(&bytes).map_err(|e| e.to_string()));
        found.push((format!("{shown}: {name}"), advisory));
    });
    found.extend(ended.err().map(|why| (shown, Err(why))));
    found
}

fn read(file: &Path) -> Result<Advisory, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(file)
        .and_then(|f| f.take(MAX_ADVISORY + 1).read_to_end(&mut bytes))
        .map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_ADVISORY {
        return Err(format!("larger than {MAX_ADVISORY} bytes"));
    }
    Advisory::parse(&bytes).map_err(|e| e.to_string())
}

fn list(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let failed = |source| Error::Io { path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if kind.is_dir() && depth < MAX_DEPTH && !hidden {
            list(&path, depth + 1, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "json" || e == "zip") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn advisory(ecosystem: &str, ranges: Value, versions: Value) -> Advisory {
        let value = json!({"id": "X-1", "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
            "affected": [{"package": {"ecosystem": ecosystem, "name": "p"}, "ranges": ranges, "versions": versions}]});
        Advisory::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn ranges_cover_what_osv_says() {
        let semver = |events: Value| json!([{"type": "SEMVER", "events": events}]);
        let two = semver(
            json!([{"introduced": "1.0.0"}, {"fixed": "1.2.0"}, {"introduced": "2.0.0"}, {"fixed": "2.1.0"}]),
        );
        let unordered = semver(json!([{"fixed": "1.2.0"}, {"introduced": "0"}]));
        let last = semver(json!([{"introduced": "0"}, {"last_affected": "1.5.0"}]));
        let forever = semver(json!([{"introduced": "0.0.0-0"}]));
        for (ranges, version, fixed) in [
            (&two, "0.9.0", None),
            (&two, "1.0.0", Some(Some("1.2.0"))),
            (&two, "1.2.0", None),
            (&two, "2.0.5", Some(Some("2.1.0"))),
            (&two, "3.0.0", None),
            (&unordered, "1.1.9", Some(Some("1.2.0"))),
            (&unordered, "1.2.0", None),
            (&last, "1.5.0", Some(None)),
            (&last, "1.5.1", None),
            (&forever, "9.0.0", Some(None)),
            (&forever, "not a version", None),
        ] {
            let got = advisory("crates.io", ranges.clone(), json!([])).affects(
                Ecosystem::CratesIo,
                None,
                "p",
                version,
            );
            let expect = fixed.map(|fixed| (fixed.map(str::to_owned), Severity::Critical));
            assert_eq!(got, expect, "{ranges} {version}");
        }
        let listed =
            advisory("PyPI", json!([{"type": "GIT", "events": [{"introduced": "0"}]}]), json!(["1.0"]));
        assert!(listed.affects(Ecosystem::PyPI, None, "P", "1.0.0").is_some());
        assert!(listed.affects(Ecosystem::PyPI, None, "p", "1.1").is_none());
    }

    #[test]
    fn releases_and_severities() {
        let range = json!([{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.0-2"}]}]);
        let debian = advisory("Debian:12", range.clone(), Value::Null);
        let hit = |release| debian.affects(Ecosystem::Debian, release, "p", "1.0-1").is_some();
        assert_eq!((hit(Some("12")), hit(Some("11")), hit(None)), (true, false, false));
        assert!(
            advisory("Ubuntu:22.04:LTS", range, json!([]))
                .affects(Ecosystem::Ubuntu, Some("22.04"), "p", "1.0-1")
                .is_some()
        );
        let word = |extra: Value| {
            let mut value = json!({"id": "G", "affected": [{"package": {"ecosystem": "npm", "name": "p"}, "versions": ["1.0.0"]}]});
            value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let found = Advisory::parse(value.to_string().as_bytes()).unwrap().affects(
                Ecosystem::Npm,
                None,
                "p",
                "1.0.0",
            );
            found.unwrap().1
        };
        assert_eq!(word(json!({"database_specific": {"severity": "MODERATE"}})), Severity::Medium);
        assert_eq!(word(json!({"severity": [{"type": "Ubuntu", "score": "high"}]})), Severity::High);
        assert_eq!(word(json!({})), Severity::Unknown);
    }
}
