//! A client of the container runtime interface: gRPC over the platform's Unix socket.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::PATIENCE;

/// How a call failed, by gRPC's numbers.
pub const INVALID: u16 = 3;
pub const DEADLINE: u16 = 4;
pub const NOT_FOUND: u16 = 5;
pub const EXISTS: u16 = 6;
pub const STATE: u16 = 9;
pub const UNIMPLEMENTED: u16 = 12;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub code: u16,
    pub message: String,
}

pub struct Cri {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Cri {
    pub fn of(data: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { socket: data.join("cri.sock"), runtime }
    }

    /// Calls a method: `RuntimeService/Version`.
    pub fn call<A: Message + Default>(&self, method: &str, request: impl Message) -> Result<A, Failed> {
        let messages = self.messages(method, request, 1)?;
        Ok(messages.into_iter().next().expect("an answer without a message"))
    }

    /// The first messages of a method that streams.
    pub fn messages<A: Message + Default>(
        &self,
        method: &str,
        request: impl Message,
        wanted: usize,
    ) -> Result<Vec<A>, Failed> {
        let call = self.ask(method, request, wanted);
        let called = async { tokio::time::timeout(PATIENCE, call).await };
        self.runtime.block_on(called).unwrap_or_else(|_| panic!("{method} does not answer"))
    }

    async fn ask<A: Message + Default>(
        &self,
        method: &str,
        request: impl Message,
        wanted: usize,
    ) -> Result<Vec<A>, Failed> {
        let stream = tokio::net::UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let served = tokio::spawn(connection);
        let bytes = request.encode_to_vec();
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(bytes.len() as u32);
        body.extend_from_slice(&bytes);
        let request = http::Request::post(format!("http://localhost/runtime.v1.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let mut trailers = response.headers().clone();
        let mut body = response.into_body();
        let (mut data, mut found) = (BytesMut::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            match frame.unwrap().into_data() {
                Ok(more) => data.extend_from_slice(&more),
                Err(frame) => trailers.extend(frame.into_trailers().unwrap()),
            }
            while let Some(message) = next(&mut data) {
                found.push(A::decode(message).unwrap());
            }
            if found.len() >= wanted && !trailers.contains_key("grpc-status") && wanted > 1 {
                served.abort();
                return Ok(found);
            }
        }
        served.abort();
        let text = |name: &str| trailers.get(name).map(|value| value.to_str().unwrap().to_owned());
        match text("grpc-status").expect("no grpc-status").parse().unwrap() {
            0 => Ok(found),
            code => Err(Failed { code, message: text("grpc-message").unwrap_or_default() }),
        }
    }
}

/// Cuts the next whole message off.
fn next(data: &mut BytesMut) -> Option<Bytes> {
    let head = data.first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if data.len() < length + 5 {
        return None;
    }
    let message = data.split_to(length + 5).freeze();
    Some(message.slice(5..))
}

/// What came over the channels of a remote command: output, error output, and the `Status` at its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub stdout: String,
    pub stderr: String,
    pub status: String,
}

/// Runs the remote command at an address over WebSocket, with this input.
pub fn remote_command(url: &str, input: &str) -> Said {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    if !input.is_empty() {
        send(&mut stream, &[&[0], input.as_bytes()].concat());
        // Version 5: standard input has ended.
        send(&mut stream, &[255, 0]);
    }
    let mut said = Said::default();
    while let Some(message) = receive(&mut stream) {
        let text = String::from_utf8_lossy(&message[1..]).into_owned();
        match message[0] {
            1 => said.stdout += &text,
            2 => said.stderr += &text,
            3 => said.status += &text,
            other => panic!("channel {other}: {text}"),
        }
    }
    said
}

/// One binary message, masked as clients must.
fn send(stream: &mut TcpStream, message: &[u8]) {
    assert!(message.len() < 126);
    let mask = [1, 2, 3, 4];
    let mut frame = vec![0x82, 0x80 | message.len() as u8];
    frame.extend_from_slice(&mask);
    frame.extend(message.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    stream.write_all(&frame).unwrap();
}

/// The next binary message; nothing at the end.
fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let length = match head[1] {
            126 => {
                let mut long = [0; 2];
                stream.read_exact(&mut long).unwrap();
                usize::from(u16::from_be_bytes(long))
            }
            127 => panic!("a message of more than 64 KiB"),
            short => usize::from(short),
        };
        let mut message = vec![0; length];
        stream.read_exact(&mut message).unwrap();
        match head[0] & 0x0f {
            8 => return None,
            2 if !message.is_empty() => return Some(message),
            _ => {}
        }
    }
}
