//! The remote command protocol of exec and attach: channels for the standard streams, an error channel that ends
//! with a `Status`, and one for terminal sizes (`k8s.io/apimachinery/pkg/util/remotecommand`, versions 4 and 5). Over
//! WebSocket also the first version, whose errors are plain text, and the forms in base64 for clients without binary
//! messages.

use std::{io, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};

use super::{Protocol, Session, TerminalSize};
use crate::{
    Upgraded, spdy,
    websocket::{self, Message},
};

/// Spoken over SPDY, the best first.
pub const PROTOCOLS: [&str; 2] = [V5, "v4.channel.k8s.io"];
/// Spoken over WebSocket, the best first.
pub const WEBSOCKET_PROTOCOLS: [&str; 5] = [V5, "v4.channel.k8s.io", V4_BASE64, V1, V1_BASE64];

const V5: &str = "v5.channel.k8s.io";
const V4_BASE64: &str = "v4.base64.channel.k8s.io";
const V1: &str = "channel.k8s.io";
const V1_BASE64: &str = "base64.channel.k8s.io";

/// A client has this long to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// Output of processes that a command left behind is waited for this long after its end.
const LINGER: Duration = Duration::from_secs(2);
const CHUNK: usize = 32 << 10;
const QUEUE: usize = 16;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5: the client has finished the channel named by the next byte.
const CLOSE: u8 = 255;

/// The client's ends.
struct Wire {
    stdin: mpsc::Receiver<Bytes>,
    resize: mpsc::Receiver<TerminalSize>,
    out: Out,
}

enum Out {
    Spdy { stdout: Option<spdy::Sender>, stderr: Option<spdy::Sender>, error: spdy::Sender },
    WebSocket { messages: mpsc::Sender<Message>, version: &'static str },
}

impl Out {
    async fn send(&self, channel: u8, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Spdy { stdout, stderr, error } => {
                let sender = match channel {
                    STDOUT => stdout.as_ref(),
                    STDERR => stderr.as_ref(),
                    _ => Some(error),
                };
                match sender {
                    Some(sender) => sender.send(Bytes::copy_from_slice(data)).await,
                    None => Ok(()),
                }
            }
            Self::WebSocket { messages, version } => {
                let message = match is_base64(version) {
                    // The channel is a digit before what is encoded.
                    true => Message::Text(format!("{channel}{}", STANDARD.encode(data)).into()),
                    false => Message::Binary([&[channel], data].concat().into()),
                };
                messages.send(message).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    async fn finish(&self) -> io::Result<()> {
        match self {
            Self::Spdy { stdout, stderr, error } => {
                for sender in [stdout.as_ref(), stderr.as_ref(), Some(error)].into_iter().flatten() {
                    sender.finish().await?;
                }
                Ok(())
            }
            Self::WebSocket { messages, .. } => {
                messages.send(websocket::close()).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
            }
        }
    }
}

fn is_base64(version: &str) -> bool {
    matches!(version, V4_BASE64 | V1_BASE64)
}

/// A message as the byte of its channel and what it says.
fn decoded(message: Message, version: &str) -> Option<Bytes> {
    let data = match message {
        Message::Binary(data) => data,
        Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        _ => return None,
    };
    if !is_base64(version) {
        return Some(data);
    }
    let (channel, text) = data.split_first()?;
    let channel = channel.checked_sub(b'0')?;
    Some([&[channel], STANDARD.decode(text).ok()?.as_slice()].concat().into())
}

/// The streams a client opens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input is sent.
    pub stdin: bool,
    /// Standard output is wanted.
    pub stdout: bool,
    /// Standard error is wanted.
    pub stderr: bool,
    /// On a terminal.
    pub tty: bool,
}

fn size_of(data: &[u8]) -> Option<TerminalSize> {
    let size: Value = serde_json::from_slice(data).ok()?;
    let number = |name| size.get(name)?.as_u64()?.try_into().ok();
    Some(TerminalSize { width: number("Width")?, height: number("Height")? })
}

/// Joins a session with an upgraded connection until the command has ended or the client is gone.
///
/// # Errors
/// When the connection fails or the client does not keep to the protocol.
pub async fn serve(
    connection: Upgraded,
    protocol: Protocol,
    wanted: Streams,
    session: Session,
) -> io::Result<()> {
    match protocol {
        Protocol::Spdy => {
            let mut streams = spdy::serve(connection);
            let opened = timeout(OPENING, open_streams(&mut streams, wanted)).await;
            let wire = opened.map_err(|_| io::Error::other("the client did not open its streams"))??;
            // `streams` is kept: dropping it would end the connection.
            relay(session, wire).await
        }
        Protocol::WebSocket(version) => relay(session, websocket_wire(connection, version).await).await,
    }
}

async fn open_streams(streams: &mut mpsc::Receiver<spdy::Stream>, wanted: Streams) -> io::Result<Wire> {
    let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
    let expected = 1
        + usize::from(wanted.stdin)
        + usize::from(wanted.stdout)
        + usize::from(wanted.stderr && !wanted.tty)
        + usize::from(wanted.tty);
    for _ in 0..expected {
        let stream = streams.recv().await.ok_or(io::ErrorKind::UnexpectedEof)?;
        match stream.header("streamtype").unwrap_or_default() {
            "stdin" => stdin = Some(stream.receiver),
            "stdout" => stdout = Some(stream.sender),
            "stderr" => stderr = Some(stream.sender),
            "error" => error = Some(stream.sender),
            "resize" => resize = Some(stream.receiver),
            other => return Err(io::Error::other(format!("unknown stream type {other:?}"))),
        }
    }
    let error = error.ok_or_else(|| io::Error::other("the client opened no error stream"))?;
    Ok(Wire {
        stdin: stdin.unwrap_or_else(|| mpsc::channel(1).1),
        resize: resize.map_or_else(|| mpsc::channel(1).1, sizes),
        out: Out::Spdy { stdout, stderr, error },
    })
}

/// Sizes come as lines of JSON.
fn sizes(mut lines: mpsc::Receiver<Bytes>) -> mpsc::Receiver<TerminalSize> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Some(data) = lines.recv().await {
            for size in data.split(|b| *b == b'\n').filter_map(size_of) {
                if sender.send(size).await.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

async fn websocket_wire(connection: Upgraded, version: &'static str) -> Wire {
    let (mut sink, mut messages) = websocket::server(connection).await.split();
    let (out, mut outgoing) = mpsc::channel::<Message>(QUEUE);
    tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            let last = matches!(message, Message::Close(_));
            if sink.send(message).await.is_err() || last {
                return;
            }
        }
    });
    let (stdin_sender, stdin) = mpsc::channel(QUEUE);
    let (resize_sender, resize) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut stdin = Some(stdin_sender);
        while let Some(Ok(message)) = messages.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
            let Some(data) = decoded(message, version) else { continue };
            match (data.first().copied(), data.get(1..).unwrap_or_default()) {
                (Some(STDIN), rest) if !rest.is_empty() => {
                    if let Some(sender) = &stdin
                        && sender.send(data.slice(1..)).await.is_err()
                    {
                        stdin = None;
                    }
                }
                (Some(RESIZE), rest) => {
                    if let Some(size) = size_of(rest) {
                        // A session without a terminal does not listen.
                        let _ = resize_sender.send(size).await;
                    }
                }
                (Some(CLOSE), [STDIN]) if version == V5 => stdin = None,
                _ => {}
            }
        }
    });
    Wire { stdin, resize, out: Out::WebSocket { messages: out, version } }
}

async fn relay(session: Session, wire: Wire) -> io::Result<()> {
    let Session { stdin, stdout, stderr, resize, exit } = session;
    let Wire { stdin: mut input, resize: mut sizes, out } = wire;
    let inputs = async {
        if let Some(mut stdin) = stdin {
            while let Some(data) = input.recv().await {
                if stdin.write_all(&data).await.is_err() || stdin.flush().await.is_err() {
                    break;
                }
            }
            // The program may have closed its side.
            let _ = stdin.shutdown().await;
        }
    };
    let resizes = async {
        if let Some(resize) = resize {
            while let Some(size) = sizes.recv().await {
                if resize.send(size).await.is_err() {
                    break;
                }
            }
        }
    };
    let outputs = async { tokio::try_join!(pump(stdout, STDOUT, &out), pump(stderr, STDERR, &out)) };
    let ended = async {
        let mut outputs = std::pin::pin!(outputs);
        let mut exit = std::pin::pin!(exit);
        let status = tokio::select! {
            status = exit.as_mut() => {
                if let Ok(result) = timeout(LINGER, outputs).await {
                    result?;
                }
                status
            }
            result = outputs.as_mut() => {
                result?;
                exit.await
            }
        };
        Ok::<_, io::Error>(status)
    };
    let mut ended = std::pin::pin!(ended);
    let mut both = std::pin::pin!(async { tokio::join!(inputs, resizes) });
    let status = tokio::select! {
        status = ended.as_mut() => status,
        _ = both.as_mut() => ended.await,
    }?;
    let status = match status {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
        Err(why) => json!({"metadata": {}, "status": "Failure", "reason": "InternalError",
            "message": why, "code": 500}),
    };
    match out {
        // The first version says what went wrong in words, and nothing when nothing did.
        Out::WebSocket { version: V1 | V1_BASE64, .. } => {
            if let Some(message) = status["message"].as_str() {
                out.send(ERROR, message.as_bytes()).await?;
            }
        }
        _ => out.send(ERROR, status.to_string().as_bytes()).await?,
    }
    out.finish().await
}

async fn pump(source: Option<Box<dyn AsyncRead + Send + Unpin>>, channel: u8, out: &Out) -> io::Result<()> {
    let Some(mut source) = source else { return Ok(()) };
    let mut buffer = vec![0; CHUNK];
    loop {
        // A terminal whose other side is gone fails instead of ending.
        let read = source.read(&mut buffer).await.unwrap_or(0);
        match buffer.get(..read) {
            Some(data) if read > 0 => out.send(channel, data).await?,
            _ => return Ok(()),
        }
    }
}
