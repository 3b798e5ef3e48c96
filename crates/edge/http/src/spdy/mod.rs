//! SPDY/3.1 as Kubernetes' clients still speak it for exec, attach and port-forward: streams that the client
//! opens on one connection (draft-mbelshe-httpbis-spdy-00). There is no flow control, as in the library that all of
//! them use; bounded queues take its place.

mod dictionary;
mod frame;

use std::{collections::HashMap, io};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};

use frame::{Decoder, Encoder, Frame};

/// Chunks waiting to be read or written per stream and connection.
const QUEUE: usize = 16;
/// Streams open at once.
const MAX_STREAMS: usize = 1024;

/// A stream the client opened.
pub struct Stream {
    /// The headers it was opened with, names in lower case.
    pub headers: Vec<(String, String)>,
    /// What the client sends; ends when the client has finished.
    pub receiver: mpsc::Receiver<Bytes>,
    /// Where answers go.
    pub sender: Sender,
}

impl Stream {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// The server's half of a stream.
#[derive(Clone)]
pub struct Sender {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

impl Sender {
    /// Sends data.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&self, data: Bytes) -> io::Result<()> {
        self.push(Frame::Data { id: self.id, last: false, data }).await
    }

    /// Ends the server's half.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn finish(&self) -> io::Result<()> {
        self.push(Frame::Data { id: self.id, last: true, data: Bytes::new() }).await
    }

    /// Ends both halves at once.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn reset(&self) -> io::Result<()> {
        self.push(Frame::Reset { id: self.id, status: frame::CANCEL }).await
    }

    async fn push(&self, frame: Frame) -> io::Result<()> {
        self.frames.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Serves a connection: gives the streams the client opens, each answered at once. Nothing more is read once the client
/// has ended it or the receiver is dropped; it is closed when every [`Sender`] is gone too.
pub fn serve(connection: impl AsyncRead + AsyncWrite + Send + 'static) -> mpsc::Receiver<Stream> {
    let (reader, mut writer) = tokio::io::split(connection);
    let (frames, mut outgoing) = mpsc::channel::<Frame>(QUEUE);
    let (streams, opened) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut encoder = Encoder::default();
        let mut bytes = Vec::new();
        while let Some(frame) = outgoing.recv().await {
            encoder.encode(&frame, &mut bytes);
            // What waits already goes with the same write.
            while let Ok(more) = outgoing.try_recv() {
                encoder.encode(&more, &mut bytes);
            }
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                return;
            }
            bytes.clear();
        }
        // The client may be gone already.
        let _ = writer.shutdown().await;
    });
    tokio::spawn(async move {
        let unused = streams.clone();
        let ended = tokio::select! {
            ended = read(reader, frames, streams) => ended,
            () = unused.closed() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "SPDY connection ended");
        }
    });
    opened
}

async fn read(
    reader: impl AsyncRead + Send,
    frames: mpsc::Sender<Frame>,
    streams: mpsc::Sender<Stream>,
) -> io::Result<()> {
    let mut reader = std::pin::pin!(reader);
    let mut decoder = Decoder::default();
    let mut open: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    while let Some(frame) = decoder.next(&mut reader).await? {
        let answer = match frame {
            Frame::Open { id, headers, last } => {
                if open.len() >= MAX_STREAMS {
                    return Err(io::Error::other("too many streams"));
                }
                let (sender, receiver) = mpsc::channel(QUEUE);
                if !last {
                    open.insert(id, sender);
                }
                frames.send(Frame::Reply { id }).await.map_err(io::Error::other)?;
                let stream = Stream { headers, receiver, sender: Sender { id, frames: frames.clone() } };
                if streams.send(stream).await.is_err() {
                    open.remove(&id);
                }
                continue;
            }
            Frame::Data { id, last, data } => {
                if let Some(sender) = open.get(&id)
                    && !data.is_empty()
                    && sender.send(data).await.is_err()
                {
                    open.remove(&id);
                }
                if last {
                    open.remove(&id);
                }
                continue;
            }
            Frame::Reset { id, .. } => {
                open.remove(&id);
                continue;
            }
            Frame::Ping { id } => Frame::Ping { id },
            Frame::GoAway => return Ok(()),
            Frame::Reply { .. } | Frame::Other => continue,
        };
        frames.send(answer).await.map_err(io::Error::other)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
