//! Port-forward: pairs of SPDY streams, on the connection itself or inside WebSocket messages, and the older
//! protocol of two WebSocket channels a port.

use std::{collections::HashMap, io, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinSet,
};

use super::{Connection, Protocol};
use crate::{
    Upgraded,
    spdy::{self, Sender, Stream},
    websocket::{self, ByteStream, Message},
};

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Spoken over WebSocket, the best first.
pub const WEBSOCKET_PROTOCOLS: [&str; 2] = [TUNNEL, "v4.channel.k8s.io"];
/// Spoken over SPDY.
pub const SPDY_PROTOCOLS: [&str; 1] = ["portforward.k8s.io"];

/// Streams whose other half has not come yet.
const MAX_WAITING: usize = 256;
/// Ports of one WebSocket connection: two channels each, named by one byte.
const MAX_PORTS: usize = 64;
const CHUNK: usize = 32 << 10;

/// A connection to a port, to come, or why there is none.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Box<dyn Connection>, String>> + Send>>;

/// Makes connections to ports of what a client named.
pub type Target = Arc<dyn Fn(u16) -> Connecting + Send + Sync>;

/// Serves an upgraded connection until the client ends it. `ports` are those of its URL.
///
/// # Errors
/// When the connection fails or the client does not keep to the protocol.
pub async fn serve(
    connection: Upgraded,
    protocol: Protocol,
    target: &Target,
    ports: &[String],
) -> io::Result<()> {
    match protocol {
        Protocol::Spdy => pairs(spdy::serve(connection), target).await,
        Protocol::WebSocket(TUNNEL) => pairs(spdy::serve(ByteStream::new(connection).await), target).await,
        Protocol::WebSocket(_) => channels(connection, target, ports).await,
    }
}

/// Joins the error and data streams of each request, and each pair with a connection.
async fn pairs(mut streams: mpsc::Receiver<Stream>, target: &Target) -> io::Result<()> {
    let mut waiting: HashMap<String, Stream> = HashMap::new();
    let mut forwards = JoinSet::new();
    while let Some(stream) = streams.recv().await {
        while forwards.try_join_next().is_some() {}
        let request = stream.header("requestid").unwrap_or_default().to_owned();
        let port = stream.header("port").and_then(|p| p.parse().ok()).filter(|p| *p != 0);
        let (Some(port), true) = (port, waiting.len() < MAX_WAITING) else {
            stream.sender.reset().await?;
            continue;
        };
        let Some(other) = waiting.remove(&request) else {
            waiting.insert(request, stream);
            continue;
        };
        let (data, error) = match stream.header("streamtype") {
            Some("data") => (stream, other),
            _ => (other, stream),
        };
        // Ended with this function: the tasks borrow nothing but live no longer than the connection.
        let target = Arc::clone(target);
        forwards.spawn(async move {
            if let Err(problem) = forward(&target, port, data).await {
                // The client may be gone.
                let _ = error.sender.send(problem.into()).await;
            }
            let _ = error.sender.finish().await;
        });
    }
    Ok(())
}

async fn forward(target: &Target, port: u16, data: Stream) -> Result<(), String> {
    let connection = match target(port).await {
        Ok(connection) => connection,
        Err(problem) => {
            // Without an end of the data the client would wait for it.
            let _ = data.sender.finish().await;
            return Err(problem);
        }
    };
    let (mut reader, mut writer) = tokio::io::split(connection);
    let Stream { mut receiver, sender, .. } = data;
    let up = async {
        while let Some(bytes) = receiver.recv().await {
            writer.write_all(&bytes).await?;
        }
        writer.shutdown().await
    };
    let down = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = reader.read(&mut buffer).await?;
            match buffer.get(..read) {
                Some(bytes) if read > 0 => sender.send(Bytes::copy_from_slice(bytes)).await?,
                _ => return sender.finish().await,
            }
        }
    };
    finished(up, down, &sender).await.map_err(|e| format!("error forwarding port {port}: {e}"))
}

/// Ends when the pod's side has ended; what the client still wants to send is of no use then.
async fn finished(
    up: impl Future<Output = io::Result<()>>,
    down: impl Future<Output = io::Result<()>>,
    sender: &Sender,
) -> io::Result<()> {
    let mut down = std::pin::pin!(down);
    let ended = tokio::select! {
        ended = down.as_mut() => ended,
        sent = up => match sent {
            Ok(()) => down.await,
            Err(error) => Err(error),
        },
    };
    if ended.is_err() {
        // The client may be gone.
        let _ = sender.finish().await;
    }
    ended
}

/// The older protocol: for the n-th port, channel 2n carries data and 2n+1 errors; both begin with the port.
async fn channels(connection: Upgraded, target: &Target, ports: &[String]) -> io::Result<()> {
    let ports: Option<Vec<u16>> =
        ports.iter().flat_map(|p| p.split(',')).map(|p| p.parse().ok().filter(|p| *p != 0)).collect();
    let ports = ports.filter(|p| !p.is_empty() && p.len() <= MAX_PORTS);
    let ports = ports.ok_or_else(|| io::Error::other("ports must be numbers between 1 and 65535"))?;
    let (mut sink, mut messages) = websocket::server(connection).await.split();
    let (out, mut outgoing) = mpsc::channel::<Message>(16);
    tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut writers = Vec::new();
    let mut readers = JoinSet::new();
    for (channel, port) in (0u8..).step_by(2).zip(ports) {
        for channel in [channel, channel + 1] {
            let [low, high] = port.to_le_bytes();
            out.send(Message::Binary(vec![channel, low, high].into())).await.map_err(io::Error::other)?;
        }
        match target(port).await {
            Ok(connection) => {
                let (mut reader, writer) = tokio::io::split(connection);
                writers.push(Some(writer));
                let out = out.clone();
                readers.spawn(async move {
                    let mut buffer = vec![0; CHUNK];
                    while let Ok(read) = reader.read(&mut buffer).await
                        && let Some(bytes) = buffer.get(..read).filter(|b| !b.is_empty())
                    {
                        let message = Message::Binary([&[channel], bytes].concat().into());
                        if out.send(message).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Err(problem) => {
                writers.push(None);
                let message = Message::Binary([&[channel + 1], problem.as_bytes()].concat().into());
                out.send(message).await.map_err(io::Error::other)?;
            }
        }
    }
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            ended = readers.join_next() => match ended {
                Some(_) if !readers.is_empty() => continue,
                _ => break,
            },
        };
        let Some(Ok(message)) = message else { break };
        let Message::Binary(data) = message else { continue };
        let Some((channel, bytes)) = data.split_first() else { continue };
        if channel % 2 == 0
            && let Some(Some(writer)) = writers.get_mut(usize::from(channel / 2))
        {
            writer.write_all(bytes).await?;
        }
    }
    out.send(websocket::close()).await.map_err(io::Error::other)
}
