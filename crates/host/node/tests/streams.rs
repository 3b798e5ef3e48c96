//! Logs, commands, attachment and port-forward, as the API server asks for them.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

mod support;

use futures_util::StreamExt;
use serde_json::json;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wharf_node::{ExecStart, LogOptions, LogStream, StreamError, TerminalSize};

async fn text(stream: LogStream) -> String {
    let chunks: Vec<_> = stream.collect().await;
    chunks.into_iter().map(|chunk| String::from_utf8(chunk.unwrap().to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_follow_to_the_end() {
    let cluster = Cluster::start().await;
    let script = "echo one; echo two >&2; until test -e /tmp/go; do sleep 0.05; done; echo three";
    cluster
        .pod("p", json!({"restartPolicy": "Never", "containers": [{"name": "main", "command": sh(script)}]}))
        .await;
    cluster.until("p", "running", phase("Running")).await;
    let agent = cluster.agent();
    let logs = |options: LogOptions| agent.logs("default", "p", options);
    let mut follow = logs(LogOptions { follow: true, ..LogOptions::default() }).unwrap();
    let mut seen = String::new();
    while seen != "one\ntwo\n" {
        seen.push_str(std::str::from_utf8(&follow.next().await.unwrap().unwrap()).unwrap());
    }
    assert_eq!(cluster.exec("p", "main", "touch /tmp/go").await.0, 0);
    assert_eq!(text(follow).await, "three\n");
    cluster.until("p", "ended", phase("Succeeded")).await;
    assert_eq!(
        text(logs(LogOptions { tail_lines: Some(1), ..LogOptions::default() }).unwrap()).await,
        "three\n"
    );
    let wrong = logs(LogOptions { container: Some("x".into()), ..LogOptions::default() });
    assert!(matches!(wrong.err(), Some(StreamError::BadRequest(_))));
    let previous = logs(LogOptions { previous: true, ..LogOptions::default() });
    assert!(matches!(previous.err(), Some(StreamError::BadRequest(_))));
    assert!(matches!(
        agent.logs("default", "none", LogOptions::default()).err(),
        Some(StreamError::NotFound(_))
    ));
    cluster.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_terminals_attachment_and_ports() {
    let cluster = Cluster::start().await;
    let cat = json!({"name": "cat", "stdin": true, "stdinOnce": true, "command": ["tr", "a-z", "A-Z"]});
    let server = json!({"name": "server", "command": ["nc", "-ll", "-p", "8080", "-e", "cat"]});
    cluster.pod("p", json!({"terminationGracePeriodSeconds": 0, "containers": [server, cat]})).await;
    cluster.until("p", "ready", is_ready).await;
    let agent = cluster.agent();
    let start = |command: &[&str]| ExecStart {
        namespace: "default".into(),
        pod: "p".into(),
        container: Some("server".into()),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        stdin: true,
        stdout: true,
        stderr: true,
        ..ExecStart::default()
    };
    let mut session = agent.exec(start(&["sh", "-c", "cat; echo oops >&2; exit 5"])).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"hello").await.unwrap();
    drop(stdin);
    let (mut said, mut complained) = (String::new(), String::new());
    session.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
    session.stderr.take().unwrap().read_to_string(&mut complained).await.unwrap();
    assert_eq!((said.as_str(), complained.as_str(), session.exit.await), ("hello", "oops\n", Ok(5)));
    assert!(matches!(agent.exec(start(&["nope"])).await.err(), Some(StreamError::BadRequest(_))));

    let mut session = agent
        .exec(ExecStart {
            tty: true,
            ..start(&["sh", "-c", "read x; until stty size | grep '33 77'; do sleep 0.05; done"])
        })
        .await
        .unwrap();
    session.resize.as_ref().unwrap().send(TerminalSize { width: 77, height: 33 }).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    stdin.write_all(b"go\n").await.unwrap();
    let mut said = String::new();
    stdout.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("go\r\n") && said.contains("33 77"), "{said:?}");
    assert_eq!(session.exit.await, Ok(0));

    let joined = ExecStart { container: Some("cat".into()), attach: true, ..start(&[]) };
    let mut session = agent.exec(joined).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"shout").await.unwrap();
    drop(stdin);
    let mut said = String::new();
    session.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
    assert_eq!((said.as_str(), session.exit.await), ("SHOUT", Ok(0)));

    let mut port = agent.port_forward("default", "p", 8080).await.unwrap();
    port.write_all(b"through\n").await.unwrap();
    let mut answer = [0; 8];
    port.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"through\n");
    assert!(matches!(agent.port_forward("default", "p", 1).await.err(), Some(StreamError::Failed(_))));
    cluster.drain().await;
}
