//! Attestations and builds for several platforms, from `wharf build` to another registry and back.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use super::super::support::{IMAGE, Platform, lossy, output_of};
use super::front::{Front, git};

/// The documents of an image in a registry.
struct Pushed {
    name: String,
}

impl Pushed {
    fn raw(&self, selector: &str) -> Value {
        let name = format!("docker://{}{selector}", self.name);
        let text = output_of(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &name]));
        serde_json::from_str(&text).unwrap()
    }

    fn blob(&self, digest: &str) -> Value {
        let (host, path) = self.name.split_once('/').unwrap();
        let url = format!("http://{host}/v2/{path}/blobs/{digest}");
        serde_json::from_str(&output_of(Command::new("curl").args(["-sf", &url]))).unwrap()
    }

    /// The manifest of each platform with what is attested of it, by the platform's text.
    fn images(&self) -> Vec<(String, String, Vec<Value>)> {
        let index = self.raw(":1");
        let manifests = index["manifests"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let is_attestation =
            |m: &&Value| m["annotations"]["vnd.docker.reference.type"] == "attestation-manifest";
        let images = manifests.iter().filter(|m| !is_attestation(m)).map(|image| {
            let digest = text(&image["digest"]);
            let about = |m: &&Value| m["annotations"]["vnd.docker.reference.digest"] == digest.as_str();
            let statements = manifests.iter().filter(is_attestation).filter(about).flat_map(|attested| {
                assert_eq!(attested["platform"]["os"], "unknown");
                let manifest = self.raw(&format!("@{}", text(&attested["digest"])));
                assert_eq!(manifest["subject"]["digest"], digest.as_str());
                let layers = manifest["layers"].as_array().unwrap().clone();
                layers.into_iter().map(|layer| {
                    assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
                    let statement = self.blob(&text(&layer["digest"]));
                    assert_eq!(statement["predicateType"], layer["annotations"]["in-toto.io/predicate-type"]);
                    assert_eq!(
                        statement["subject"][0]["digest"]["sha256"],
                        digest.trim_start_matches("sha256:")
                    );
                    statement
                })
            });
            let platform =
                format!("{}/{}", text(&image["platform"]["os"]), text(&image["platform"]["architecture"]));
            (platform, digest.clone(), statements.collect())
        });
        images.collect()
    }
}

/// The statements in a layout.
fn statements_in(layout: &Path) -> Vec<Value> {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let documents =
        blobs.filter_map(|blob| serde_json::from_slice(&fs::read(blob.unwrap().path()).unwrap()).ok());
    documents.filter(|document: &Value| !document["predicateType"].is_null()).collect()
}

/// Repositories and files over HTTP are told of with what they were.
pub(super) fn sources(front: &Front<'_>, here: &str) {
    let provenance = |layout: &str, context: &str| {
        let output = format!("type=oci,dest={layout},tar=false");
        front.built(&["-q", "-o", &output, "--provenance=mode=min", context], b"");
        let statements = statements_in(&front.folder.join(layout));
        assert_eq!(statements.len(), 1);
        statements[0]["predicate"].clone()
    };
    let head = git(&front.folder.join("repo"), &["rev-parse", "HEAD"]);
    let repository = json!({ "uri": format!("{here}/r.git"), "digest": { "sha1": head.trim() } });
    let told = provenance("of-git", &format!("{here}/r.git"));
    let source = &told["buildDefinition"]["externalParameters"]["configSource"];
    assert_eq!((&source["uri"], &source["digest"]), (&repository["uri"], &repository["digest"]));
    let materials =
        |told: &Value| told["buildDefinition"]["resolvedDependencies"].as_array().unwrap().clone();
    assert!(materials(&told).contains(&repository), "{told}");
    let metadata = &told["runDetails"]["metadata"];
    assert_eq!(
        (&metadata["buildkit_hermetic"], &metadata["buildkit_completeness"]["resolvedDependencies"]),
        (&json!(true), &json!(true))
    );
    front.write("h/Dockerfile", &format!("FROM {IMAGE}\nADD {here}/old /got\n"));
    let told = provenance("of-http", "h");
    let digest = wharf_base::Digest::of("fetched").hex();
    assert!(
        materials(&told).contains(&json!({ "uri": format!("{here}/old"), "digest": { "sha256": digest } })),
        "{told}"
    );
    assert!(told["runDetails"]["metadata"]["buildkit_hermetic"].is_null(), "a folder was part of it: {told}");
}

pub(super) fn attestations(front: &Front<'_>, other: &Platform) {
    front.write(
        "a/Dockerfile",
        &format!(
            "FROM {IMAGE} AS made\nARG V\nRUN --network=none --mount=type=secret,id=TOKEN echo $V > /made\n\
             FROM {IMAGE}\nCOPY --from=made /made /made\nCOPY status /var/lib/dpkg/status\n"
        ),
    );
    front.write("a/status", "Package: libfoo\nStatus: install ok installed\nVersion: 1.2-3\nSource: foo\n");
    let pushed = Pushed { name: format!("{}/front/attested", other.address("registry")) };
    let name = format!("{}:1", pushed.name);
    let epoch =
        ["-q", "--build-arg", "SOURCE_DATE_EPOCH=1767225600", "--build-arg", "V=7", "--secret", "id=TOKEN"];
    let build = |more: &[&str]| front.built(&[&epoch[..], more, &["-t", &name, "--push", "a"]].concat(), b"");
    build(&["--provenance=true", "--sbom=true"]);
    let images = pushed.images();
    let [(platform, digest, statements)] = images.as_slice() else { panic!("{images:?}") };
    let [bill, provenance] = statements.as_slice() else { panic!("{statements:?}") };
    let host = wharf_image::Platform::host().to_string();
    assert_eq!(*platform, host);
    assert_eq!(
        (bill["predicate"]["spdxVersion"].as_str(), bill["predicate"]["packages"][1]["name"].as_str()),
        (Some("SPDX-2.3"), Some("libfoo"))
    );
    let told = &provenance["predicate"]["buildDefinition"];
    let request = &told["externalParameters"]["request"];
    assert_eq!(
        (&request["args"]["build-arg:V"], &request["secrets"][0]["id"]),
        (&"7".into(), &"TOKEN".into())
    );
    let base = output_of(front.platform.wharf().args(["image", "inspect", IMAGE]));
    let base: Value = serde_json::from_str(&base).unwrap();
    let material = &told["resolvedDependencies"][0];
    assert!(
        material["uri"].as_str().unwrap().starts_with("pkg:docker/base/test@latest?platform="),
        "{material}"
    );
    let base = base[0]["Descriptor"]["digest"].as_str().unwrap();
    assert_eq!(material["digest"]["sha256"], base.trim_start_matches("sha256:"));
    let steps = told["internalParameters"]["buildConfig"]["llbDefinition"].to_string();
    assert!(steps.contains("echo $V > /made") && !provenance.to_string().contains("hush-hush-42"), "{steps}");
    // The image is the same image without, and with other attestations.
    build(&["--attest", "type=provenance,mode=min,version=v0.2", "-o", "type=image,oci-artifact=true"]);
    let again = pushed.images();
    assert_eq!(again[0].1, *digest);
    let [less] = again[0].2.as_slice() else { panic!("{again:?}") };
    assert_eq!(less["predicateType"], "https://slsa.dev/provenance/v0.2");
    let parameters = &less["predicate"]["invocation"]["parameters"];
    assert!(parameters["args"].is_null() && parameters["secrets"].is_null(), "{parameters}");
    build(&[]);
    assert_eq!(
        pushed.raw(":1")["config"]["digest"],
        pushed.raw(&format!("@{digest}"))["config"]["digest"],
        "without attestations it is no index"
    );
    build(&["--provenance=mode=max", "--sbom=true"]);
    attestations_get_around(front, &pushed, &name);
}

/// To a layout and back, through a pull and a push, and past garbage collection.
fn attestations_get_around(front: &Front<'_>, pushed: &Pushed, name: &str) {
    let count = || pushed.images()[0].2.len();
    assert_eq!(count(), 2);
    let wharf = |words: &[&str]| output_of(front.platform.wharf().args(words));
    let collect = || {
        wharf(&["image", "tag", IMAGE, "front/gone"]);
        super::grow_old(&front.platform.data().join("images"));
        wharf(&["image", "rm", "front/gone"]);
    };
    // Nothing of it is here any more, so that the pull brings all.
    wharf(&["image", "rm", name]);
    collect();
    wharf(&["image", "pull", name]);
    assert_eq!(wharf(&["run", "--rm", name, "cat", "/made"]), "7\n");
    let copy = format!("{}:1", pushed.name.replace("attested", "copied"));
    wharf(&["image", "tag", name, &copy]);
    collect();
    wharf(&["image", "push", &copy]);
    let copied = Pushed { name: copy.trim_end_matches(":1").to_owned() };
    assert_eq!(copied.images()[0].2.len(), 2);
    let layout = format!("dir:{}", front.folder.join("copied").display());
    let source = format!("docker://{name}");
    output_of(Command::new("skopeo").args([
        "copy",
        "-q",
        "--all",
        "--src-tls-verify=false",
        &source,
        &layout,
    ]));
    let arguments = [
        "-q",
        "-o",
        "type=oci,dest=attested.tar",
        "--provenance=true",
        "-t",
        "front/oci",
        "--build-arg",
        "V=7",
        "a",
    ];
    front.built(&arguments, b"");
    let listed = output_of(Command::new("tar").arg("-tf").arg(front.folder.join("attested.tar")));
    assert!(listed.lines().filter(|line| line.starts_with("blobs/sha256/")).count() > 6, "{listed}");
    let told = lossy(&front.build(&["-o", "out", "--sbom=true", "a"], b"").stderr);
    assert!(told.contains("error: attestations go with an image"), "{told}");
}

/// Runs on this machine's platform, for which it cross-builds; the last stage is of the image's.
const CROSS: &str = "FROM --platform=$BUILDPLATFORM base/test AS tools
ARG TARGETPLATFORM
ARG TARGETARCH
ARG TARGETVARIANT
ARG BUILDARCH
RUN echo $TARGETPLATFORM $TARGETARCH:$TARGETVARIANT on $BUILDARCH > /told
FROM front/parts
COPY --from=tools /told /told
";

pub(super) fn several_platforms(front: &Front<'_>, other: &Platform) {
    front.write("p/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /own\n");
    for name in ["amd64", "arm64", "arm"] {
        front.write(&format!("p/{name}"), name);
    }
    let platforms = ["-q", "--platform", "linux/amd64,linux/aarch64", "--platform", "linux/arm/v7"];
    front.built(&[&platforms[..], &["-t", "front/parts", "p"]].concat(), b"");
    front.write("x/Dockerfile", CROSS);
    let pushed = Pushed { name: format!("{}/front/cross", other.address("registry")) };
    let name = format!("{}:1", pushed.name);
    front.built(
        &[&platforms[..], &["-t", &name, "--push", "-o", "cross", "--provenance=mode=min", "x"]].concat(),
        b"",
    );
    let host = wharf_image::Platform::host().architecture;
    let told = |folder: &str| front.read(&format!("cross/{folder}/told"));
    assert_eq!(told("linux_arm64"), format!("linux/arm64 arm64: on {host}\n"));
    assert_eq!(told("linux_arm_v7"), format!("linux/arm/v7 arm:v7 on {host}\n"));
    assert_eq!(front.read("cross/linux_arm64/own"), "arm64");
    let images = pushed.images();
    let found: Vec<&str> = images.iter().map(|(platform, ..)| platform.as_str()).collect();
    assert_eq!(found, ["linux/amd64", "linux/arm64", "linux/arm"]);
    for (platform, digest, statements) in &images {
        let config = pushed.raw(&format!("@{digest}"))["config"]["digest"].as_str().unwrap().to_owned();
        let config = pushed.blob(&config);
        let own = format!("{}/{}", config["os"].as_str().unwrap(), config["architecture"].as_str().unwrap());
        assert_eq!(own, *platform);
        let materials = statements[0]["predicate"]["buildDefinition"]["resolvedDependencies"].to_string();
        assert!(
            materials.contains(&format!("front/parts@latest?platform={}", platform.replace('/', "%2F"))),
            "{materials}"
        );
    }
    // One platform alone is no index, and what is not here is asked of its registry.
    output_of(front.platform.wharf().args(["image", "rm", &name]));
    front.write("x/Dockerfile", &format!("FROM {name}\nENV X=1\n"));
    let one = ["-q", "--platform", "linux/arm64", "-o", "one", "x"];
    front.built(&one, b"");
    assert_eq!(front.read("one/own"), "arm64");
    for (dockerfile, platform, expect) in [
        (
            "FROM front/parts\nRUN true",
            "linux/arm64",
            "Dockerfile:2: this machine, which is linux/amd64, has no interpreter for programs of linux/arm64",
        ),
        (
            "FROM base/test\nRUN true",
            "linux/arm64",
            "Dockerfile:1: the image 'base/test' here is for linux/amd64, not for linux/arm64",
        ),
        ("FROM front/parts", "linux/s390x", "Dockerfile:1: index sha256:"),
        (
            "FROM --platform=linux/no/x/y front/parts",
            "linux/arm64",
            "Dockerfile:1: 'linux/no/x/y' is no platform",
        ),
    ] {
        // A machine that knows how to run the program has nothing to tell.
        if expect.contains("interpreter") && Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists() {
            continue;
        }
        front.write("x/Dockerfile", dockerfile);
        let output = front.build(&["--platform", platform, "x"], b"");
        let told = lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(expect), "{dockerfile}: {told}");
    }
}
