//! wharf and its shims are killed at bad moments: nothing acknowledged is lost, nothing that runs stops.

#![allow(clippy::unwrap_used)] // a test

mod power;
mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{IMAGE, Kubectl, Load, Platform, get, lossy, text, until};

const KILLS: usize = 10;
const WRITERS: usize = 3;
/// Writes acknowledged between two kills, at the least.
const WRITES: usize = 8;

fn server(name: &str, replicas: u32) -> Value {
    let script = "echo up; mkdir /www; echo well > /www/index.html; exec busybox httpd -f -p 8080 -h /www";
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": IMAGE,
                    "command": ["sh", "-c", script], "ports": [{"containerPort": 8080}],
                    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5},
                    "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5}}]}}}})
}

/// What a writer knows of one object: the last value kubectl confirmed, and the last one it tried.
#[derive(Clone, Debug)]
struct Written {
    confirmed: usize,
    tried: usize,
}

/// Applies ConfigMaps, each twice, until told to stop.
fn write(
    kubectl: &Kubectl,
    writer: usize,
    stop: &AtomicBool,
    confirmed: &AtomicUsize,
) -> BTreeMap<String, Written> {
    let mut all = BTreeMap::<String, Written>::new();
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("note-{writer}-{}", count / 2);
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"count": count.to_string()}});
        let output = kubectl.end(&["apply", "-f", "-"], &map.to_string());
        let said = lossy(&output.stdout);
        let done = output.status.success() && (said.contains("created") || said.contains("configured"));
        match (all.get_mut(&name), done) {
            (Some(known), _) => known.tried = count,
            // An object that nobody confirmed may be there or not.
            (None, false) => {}
            (None, true) => {
                all.insert(name.clone(), Written { confirmed: count, tried: count });
            }
        }
        if done {
            all.get_mut(&name).unwrap().confirmed = count;
            confirmed.fetch_add(1, Ordering::Relaxed);
        }
    }
    all
}

/// Scales a Deployment up and down; the last number confirmed, and those tried after it.
fn scale(kubectl: &Kubectl, stop: &AtomicBool) -> Vec<u64> {
    let mut possible = vec![1];
    for replicas in (1..=3).cycle() {
        if stop.load(Ordering::Relaxed) {
            return possible;
        }
        let number = format!("--replicas={replicas}");
        if kubectl.end(&["scale", "deployment/busy", &number], "").status.success() {
            possible.clear();
        }
        possible.push(replicas);
    }
    possible
}

/// Who runs: container ids, when they started, and how often they were started again.
fn running(kubectl: &Kubectl) -> Vec<(String, String, String, u64)> {
    let pods = kubectl.list(&["pods", "-l", "app=web"]);
    let one = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        let (id, started) = (text(status, "/containerID"), text(status, "/state/running/startedAt"));
        let name = text(pod, "/metadata/name").to_owned();
        (name, id.to_owned(), started.to_owned(), status["restartCount"].as_u64().unwrap())
    };
    pods.iter().map(one).collect()
}

/// Processes of this platform's containers and shims that were there at both times.
fn lost(before: &[(i32, String)], after: &[(i32, String)]) -> Vec<(i32, String)> {
    before.iter().filter(|process| !after.contains(process)).cloned().collect()
}

fn ask(platform: &Platform, path: &str) -> Result<Value, String> {
    let answer = get(&platform.address("console"), "localhost", path)?;
    serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))
}

/// `%` codes for what may not stand in a query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A log line and a sample of a pod, as the console's address gives them; `at` is seconds since 1970.
fn telemetry(platform: &Platform, pod: &str, at: u64) -> Result<(Value, Value), String> {
    let logs = encoded(&format!("{{pod=\"{pod}\"}} |= \"up\""));
    let (from, to) = ((at - 600) * 1_000_000_000, (at + 1) * 1_000_000_000);
    let lines = ask(platform, &format!("/loki/loki/api/v1/query_range?query={logs}&start={from}&end={to}"))?;
    let metric = encoded(&format!("container_memory_usage_bytes{{pod=\"{pod}\"}}"));
    let sample = ask(platform, &format!("/prometheus/api/v1/query?query={metric}&time={at}"))?;
    let (line, sample) = (&lines["data"]["result"][0]["values"][0], &sample["data"]["result"][0]["value"]);
    match line.is_null() || sample.is_null() {
        true => Err(format!("{lines} {sample}")),
        false => Ok((line.clone(), sample.clone())),
    }
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn nothing_acknowledged_is_lost_in_ten_kills() {
    let mut platform = Platform::start();
    let kubectl = platform.kubectl();
    kubectl.apply_object(&server("web", 2));
    kubectl.apply_object(&server("busy", 1));
    kubectl.apply_object(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}));
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=80s"]);
    let at = kubectl.cluster_address("web");
    until("the service answers", || get(&at, "web", "/"));
    let (before, pod) =
        (running(&kubectl), text(&kubectl.list(&["pods", "-l", "app=web"])[0], "/metadata/name").to_owned());
    let (asked_at, (line, sample)) = until("telemetry of the pod", || {
        let at = now();
        telemetry(&platform, &pod, at).map(|found| (at, found))
    });
    let web = |processes: Vec<(i32, String)>| -> Vec<(i32, String)> {
        processes
            .into_iter()
            .filter(|(_, name)| name.contains("httpd") || name.starts_with("wharf-shim"))
            .collect()
    };
    // Those of the Deployment that is scaled come and go.
    let mine = web(platform.traces().processes());
    let mine: Vec<_> = mine.into_iter().filter(|(pid, _)| is_of(&platform, &before, *pid)).collect();
    assert_eq!(mine.iter().filter(|(_, name)| name.contains("httpd")).count(), 2, "{mine:?}");

    let (stop, confirmed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writers: Vec<JoinHandle<_>> = (0..WRITERS)
        .map(|writer| {
            let (kubectl, stop, confirmed) = (platform.kubectl(), Arc::clone(&stop), Arc::clone(&confirmed));
            std::thread::spawn(move || write(&kubectl, writer, &stop, &confirmed))
        })
        .collect();
    let scaler = {
        let (kubectl, stop) = (platform.kubectl(), Arc::clone(&stop));
        std::thread::spawn(move || scale(&kubectl, &stop))
    };
    let stop = Stop(stop);
    let load = Load::start(&[(at, "web")]);
    for kill in 0..KILLS {
        let wanted = confirmed.load(Ordering::Relaxed) + WRITES;
        until("writes are confirmed", || match confirmed.load(Ordering::Relaxed) {
            enough if enough >= wanted => Ok(()),
            few => Err(format!("{few} of {wanted} before kill {kill}")),
        });
        platform.kill();
        // The Service goes on while nobody is there.
        let answered = load.so_far().of("well");
        until("the service answers without wharf", || {
            let tally = load.so_far();
            if tally.of("well") > answered + 20 || !tally.failures.is_empty() {
                Ok(())
            } else {
                Err(format!("{tally:?}"))
            }
        });
        platform.restart();
    }
    stop.0.store(true, Ordering::Relaxed);
    let written: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    let possible = scaler.join().unwrap();
    let tally = load.stop();
    assert_eq!(tally.failures, [""; 0], "{:?}", tally.answers);

    let maps = kubectl.list(&["configmaps"]);
    let found: BTreeMap<&str, usize> = maps
        .iter()
        .filter_map(|map| Some((text(map, "/metadata/name"), text(map, "/data/count").parse().ok()?)))
        .collect();
    assert!(written.len() >= KILLS * WRITES / 2, "{}", written.len());
    for (name, written) in &written {
        let count = found.get(name.as_str()).unwrap_or_else(|| panic!("{name} is lost: {written:?}"));
        assert!((written.confirmed..=written.tried).contains(count), "{name}: {written:?}, found {count}");
    }
    let replicas = kubectl.get(&["deployment", "busy"])["spec"]["replicas"].as_u64().unwrap();
    assert!(possible.contains(&replicas), "scaled to {replicas}, possible {possible:?}");
    until("the number asked for runs", || {
        let ready = kubectl.get(&["deployment", "busy"])["status"]["readyReplicas"].clone();
        if ready == replicas { Ok(()) } else { Err(ready.to_string()) }
    });

    assert_eq!(running(&kubectl), before, "containers were restarted");
    assert_eq!(lost(&mine, &platform.traces().processes()), []);
    assert_eq!(telemetry(&platform, &pod, asked_at).unwrap(), (line, sample));
    platform.drain();
}

/// Ends the threads also when the test fails.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether a process belongs to one of those pods.
fn is_of(platform: &Platform, pods: &[(String, String, String, u64)], pid: i32) -> bool {
    let kubectl = platform.kubectl();
    let uids =
        pods.iter().map(|(name, ..)| kubectl.run(&["get", "pod", name, "-o", "jsonpath={.metadata.uid}"]));
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let facts = read("cgroup") + &read("cmdline");
    uids.into_iter().any(|uid| facts.contains(&uid))
}

#[test]
fn a_full_disk_is_reported_and_what_was_confirmed_stays() {
    let mut platform = Platform::on_a_small_disk(48);
    let kubectl = platform.kubectl();
    let ballast = platform.data().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[0; 1 << 16]).is_ok() {}
    drop(file);
    let text = "x".repeat(100_000);
    let create = |name: &str| {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": text}});
        kubectl.end(&["create", "-f", "-"], &map.to_string())
    };
    let mut confirmed = Vec::new();
    let refused = until("the disk is full", || {
        let name = format!("map-{}", confirmed.len());
        let output = create(&name);
        if !output.status.success() {
            return Ok(lossy(&output.stderr));
        }
        confirmed.push(name);
        Err(format!("{} objects have room", confirmed.len()))
    });
    assert!(refused.contains("No space left on device"), "{refused}");
    let all = |kubectl: &Kubectl| kubectl.run(&["get", "configmaps", "-o", "name"]);
    assert!(confirmed.iter().all(|name| all(&kubectl).contains(name)), "{confirmed:?}: {}", all(&kubectl));
    platform.kill();
    fs::remove_file(ballast).unwrap();
    platform.restart();
    assert!(confirmed.iter().all(|name| all(&kubectl).contains(name)), "{confirmed:?}: {}", all(&kubectl));
    let output = create("after");
    assert!(output.status.success(), "{}", lossy(&output.stderr));
}

#[test]
fn a_killed_shim_is_reported_and_its_pod_recovers() {
    let platform = Platform::start();
    let kubectl = platform.kubectl();
    kubectl.apply_object(&server("web", 1));
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=80s"]);
    let pod = kubectl.list(&["pods"])[0].clone();
    let (name, uid) = (text(&pod, "/metadata/name"), text(&pod, "/metadata/uid"));
    let address = pod["status"]["podIP"].clone();
    let file = fs::read(platform.data().join("pods").join(uid).join("shim.json")).unwrap();
    let shim = serde_json::from_slice::<Value>(&file).unwrap()["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(shim as i32).unwrap(), Signal::KILL).unwrap();
    let status = until("the pod runs again", || {
        let pod = kubectl.get(&["pod", name]);
        let status = pod["status"]["containerStatuses"][0].clone();
        if status["restartCount"] == 1 && status["ready"] == true {
            assert_ne!(pod["status"]["podIP"], address, "a new sandbox has a new address");
            assert_eq!(pod["status"]["podIPs"], json!([{"ip": pod["status"]["podIP"]}]));
            Ok(status)
        } else {
            Err(pod["status"].to_string())
        }
    });
    let ended = &status["lastState"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(137), &json!("ContainerStatusUnknown")));
    let reasons = kubectl.run(&["get", "events", "--field-selector", &format!("involvedObject.name={name}")]);
    assert!(reasons.contains("SandboxChanged"), "{reasons}");
    let said = kubectl.run(&["logs", name, "--previous"]);
    assert_eq!(said, "up\n");
    platform.drain();
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes() {
    power::cuts();
}
