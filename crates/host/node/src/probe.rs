//! Probes: how a container is asked whether it is up, ready and alive, and what its answers come to.

use std::{net::IpAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    config::Stream,
    model::{Container, Handler, HttpHandler, Probe},
    worker::exec::{Target, command},
};

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// As events say it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The probe of this kind.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// Answers in a row.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    last: Option<bool>,
    row: u32,
}

impl Tracker {
    /// Counts an answer; tells the verdict once enough answers in a row agree.
    pub(crate) fn count(&mut self, probe: &Probe, good: bool) -> Option<bool> {
        self.row = if self.last == Some(good) { self.row.saturating_add(1) } else { 1 };
        self.last = Some(good);
        let enough = if good { probe.success_threshold } else { probe.failure_threshold };
        (self.row >= enough.max(1)).then_some(good)
    }
}

/// One answer of a probe.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) kind: Kind,
    /// Why it failed.
    pub(crate) failure: Option<String>,
    /// What the answers come to, when enough agree.
    pub(crate) verdict: Option<bool>,
}

/// Asks again and again, until dropped or, for the startup probe, until it has succeeded.
pub(crate) async fn watch(target: Target, kind: Kind, report: impl Fn(Answer) -> bool + Send) {
    let Some(probe) = kind.of(&target.container).cloned() else { return };
    let limit = Duration::from_secs(probe.timeout_seconds.max(1));
    let mut tracker = Tracker::default();
    sleep(Duration::from_secs(probe.initial_delay_seconds)).await;
    let mut ticks = interval(Duration::from_secs(probe.period_seconds.max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let failure = run(&target, &probe.handler, limit).await.err();
        let verdict = tracker.count(&probe, failure.is_none());
        let done = kind == Kind::Startup && verdict == Some(true);
        if !report(Answer { kind, failure, verdict }) || done {
            return;
        }
    }
}

/// Carries out a probe's or a hook's action.
pub(crate) async fn run(target: &Target, handler: &Handler, limit: Duration) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let (code, output) = command(target, &exec.command, limit).await?;
        return if code == 0 { Ok(()) } else { Err(format!("command exited with {code}: {output}")) };
    }
    if let Some(get) = &handler.http_get {
        let asked = timeout(limit, http_get(target, get)).await;
        return asked
            .unwrap_or_else(|_| Err(format!("Get \"{}\": no answer within {limit:?}", url(target, get))));
    }
    if let Some(tcp) = &handler.tcp_socket {
        let port = tcp.port.number(&target.container).ok_or("the container has no port of this name")?;
        let host = host(&tcp.host, target.ip)?;
        let connected = timeout(limit, TcpStream::connect((host.as_str(), port))).await;
        let connected =
            connected.map_err(|_| format!("dial tcp {host}:{port}: no answer within {limit:?}"))?;
        return connected.map(drop).map_err(|error| format!("dial tcp {host}:{port}: {error}"));
    }
    if let Some(pause) = &handler.sleep {
        sleep(Duration::from_secs(pause.seconds)).await;
        return Ok(());
    }
    if handler.grpc.is_some() {
        return Err("gRPC probes are not supported by this node: use httpGet, tcpSocket or exec".to_owned());
    }
    Err("it names no action".to_owned())
}

fn host(named: &str, ip: Option<IpAddr>) -> Result<String, String> {
    match (named, ip) {
        ("", Some(ip)) => Ok(ip.to_string()),
        ("", None) => Err("the pod has no address".to_owned()),
        (host, _) => Ok(host.to_owned()),
    }
}

fn url(target: &Target, get: &HttpHandler) -> String {
    let host = host(&get.host, target.ip).unwrap_or_default();
    let port = get.port.number(&target.container).unwrap_or(0);
    format!("{}://{host}:{port}{}", get.scheme.to_lowercase(), path_of(get))
}

fn path_of(get: &HttpHandler) -> String {
    if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) }
}

/// The most that is read of an answer.
const MAX_ANSWER: usize = 10 << 10;

/// A status of 200 to 399 is success, as for the kubelet; redirects are not followed.
async fn http_get(target: &Target, get: &HttpHandler) -> Result<(), String> {
    let url = url(target, get);
    let failed = |why: String| format!("Get {url:?}: {why}");
    let port = get.port.number(&target.container);
    let port = port.ok_or_else(|| failed("the container has no port of this name".to_owned()))?;
    let host = host(&get.host, target.ip)?;
    let connection = TcpStream::connect((host.as_str(), port)).await;
    let connection = connection.map_err(|error| failed(error.to_string()))?;
    let mut stream: Box<dyn Stream> = match get.scheme.as_str() {
        "HTTPS" => {
            target.secure.secure(connection, &host).await.map_err(|error| failed(error.to_string()))?
        }
        _ => Box::new(connection),
    };
    let request = request(get, &host, port).map_err(failed)?;
    let mut answer = Vec::new();
    let asked = async {
        stream.write_all(request.as_bytes()).await?;
        let mut chunk = [0; 2048];
        while answer.len() < MAX_ANSWER {
            match stream.read(&mut chunk).await? {
                0 => break,
                n => answer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            }
            if status_of(&answer).is_some() {
                break;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    asked.await.map_err(|error| failed(error.to_string()))?;
    match status_of(&answer) {
        Some(200..400) => Ok(()),
        Some(status) => Err(format!("HTTP probe failed with statuscode: {status}")),
        None => Err(failed("malformed HTTP response".to_owned())),
    }
}

fn request(get: &HttpHandler, host: &str, port: u16) -> Result<String, String> {
    let own = |name: &str| get.http_headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    let mut lines = vec![format!("GET {} HTTP/1.1", path_of(get))];
    for (name, value) in [
        ("Host", format!("{host}:{port}")),
        ("User-Agent", "kube-probe/1.36".to_owned()),
        ("Accept", "*/*".to_owned()),
    ] {
        if !own(name) {
            lines.push(format!("{name}: {value}"));
        }
    }
    lines.extend(get.http_headers.iter().map(|header| format!("{}: {}", header.name, header.value)));
    lines.push("Connection: close".to_owned());
    // A line end inside would begin a line of its own.
    if lines.iter().any(|line| line.contains(['\r', '\n'])) {
        return Err("its path or a header has a line end".to_owned());
    }
    Ok(lines.join("\r\n") + "\r\n\r\n")
}

/// The status, once the first line is there.
fn status_of(answer: &[u8]) -> Option<u16> {
    let end = answer.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(answer.get(..end)?).ok()?;
    let mut words = line.split_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/"))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_need_answers_in_a_row() {
        let probe = Probe { success_threshold: 2, failure_threshold: 3, ..Probe::default() };
        let mut tracker = Tracker::default();
        let answers = [true, true, false, false, true, false, false, false, true, true];
        let verdicts: Vec<_> = answers.iter().map(|answer| tracker.count(&probe, *answer)).collect();
        let (good, bad) = (Some(true), Some(false));
        assert_eq!(verdicts, [None, good, None, None, None, None, None, bad, None, good]);
    }

    #[test]
    fn statuses_are_read_from_the_first_line() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 503\r\nX: y\r\n", Some(503)),
            ("HTTP/1.1 20", None),
            ("SSH-2.0-x\r\n", None),
            ("", None),
        ] {
            assert_eq!(status_of(answer.as_bytes()), expected, "{answer}");
        }
    }

    #[test]
    fn requests_cannot_be_split() {
        let mut get = HttpHandler { path: "x".into(), ..HttpHandler::default() };
        assert!(request(&get, "h", 80).unwrap().starts_with("GET /x HTTP/1.1\r\nHost: h:80\r\n"));
        get.path = "/a\r\nEvil: yes".into();
        assert!(request(&get, "h", 80).is_err());
    }
}
