//! Bytes between a container and a connection that has left HTTP.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest, ReadHalf, WriteHalf, unix::AsyncFd},
    sync::mpsc,
};
use wharf_http::Upgraded;

use super::keeper::Streams;

const CHUNK: usize = 32 << 10;
/// Ctrl-P Ctrl-Q leaves the program running and goes.
const DETACH: [u8; 2] = [0x10, 0x11];

/// Standard output and error in one stream: a byte for which, three of nothing, the length in four, then the bytes.
pub(super) fn frame(stream: u8, bytes: &[u8]) -> Bytes {
    let mut framed = Vec::with_capacity(bytes.len() + 8);
    framed.extend_from_slice(&[stream, 0, 0, 0]);
    framed.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(bytes);
    framed.into()
}

/// A descriptor that is polled. It owns what it is made of, as the function that is deprecated asks for.
#[allow(deprecated, reason = "what replaces it is unsafe, and there is no safe way yet")]
pub(super) fn polled<T: AsRawFd>(inner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, interest)
}

/// One side of a pipe or terminal.
struct Fd(AsyncFd<OwnedFd>);

impl Fd {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(polled(fd, Interest::READABLE | Interest::WRITABLE)?))
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| rustix::io::read(fd.get_ref().as_fd(), &mut *buffer).map_err(Into::into))
            {
                Ok(read) => return read,
                Err(_) => continue,
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| rustix::io::write(fd.get_ref().as_fd(), bytes).map_err(Into::into)) {
                Ok(written) => bytes = &bytes[written?..],
                Err(_) => continue,
            }
        }
        Ok(())
    }
}

/// Reads a stream to its end into a channel, in frames unless it is a terminal's.
async fn read_out(fd: OwnedFd, stream: u8, framed: bool, out: mpsc::Sender<Bytes>) {
    let Ok(fd) = Fd::new(fd) else { return };
    let mut buffer = vec![0; CHUNK];
    // A terminal whose last user is gone says EIO.
    while let Ok(count @ 1..) = fd.read(&mut buffer).await {
        let bytes =
            if framed { frame(stream, &buffer[..count]) } else { Bytes::copy_from_slice(&buffer[..count]) };
        if out.send(bytes).await.is_err() {
            return;
        }
    }
}

/// Sends what streams say to a connection, which gets a channel's end when all have ended.
pub(super) fn outputs(streams: [Option<OwnedFd>; 2], terminal: bool) -> mpsc::Receiver<Bytes> {
    let (out, receiver) = mpsc::channel(16);
    for (fd, stream) in streams.into_iter().zip([1, 2]) {
        if let Some(fd) = fd {
            tokio::spawn(read_out(fd, stream, !terminal, out.clone()));
        }
    }
    receiver
}

/// Carries bytes until the program's output ends and `ended` is there, the client goes, or its person leaves by the keys.
pub(super) async fn pump(
    connection: Upgraded,
    streams: Streams,
    terminal: bool,
    before: Vec<Bytes>,
    ended: impl Future<Output = ()>,
) -> io::Result<()> {
    let (from_client, mut to_client) = tokio::io::split(connection);
    for bytes in before {
        to_client.write_all(&bytes).await?;
    }
    let [input, output, error] = streams;
    let said = outputs([output, error], terminal);
    let input = input.map(Fd::new).transpose()?;
    let (left, leave) = tokio::sync::oneshot::channel();
    let reading = tokio::spawn(async move {
        if take_in(from_client, input, terminal).await {
            let _ = left.send(());
        } else {
            // The end of the input is not the end of the connection.
            std::future::pending::<()>().await;
        }
    });
    let all = async {
        send_out(said, &mut to_client).await?;
        ended.await;
        Ok(())
    };
    let sent = tokio::select! {
        sent = all => sent,
        _ = leave => Ok(()),
    };
    reading.abort();
    let _ = to_client.shutdown().await;
    sent
}

async fn send_out(mut said: mpsc::Receiver<Bytes>, to_client: &mut WriteHalf<Upgraded>) -> io::Result<()> {
    while let Some(bytes) = said.recv().await {
        to_client.write_all(&bytes).await?;
    }
    Ok(())
}

/// Passes input on until its end. True when the person left by the keys.
async fn take_in(mut from_client: ReadHalf<Upgraded>, mut input: Option<Fd>, terminal: bool) -> bool {
    let mut buffer = vec![0; CHUNK];
    let mut held = false;
    loop {
        let count = match from_client.read(&mut buffer).await {
            Ok(count @ 1..) => count,
            _ => return false,
        };
        let mut typed = Vec::with_capacity(count + 1);
        for byte in &buffer[..count] {
            if terminal && held && *byte == DETACH[1] {
                return true;
            }
            if std::mem::take(&mut held) {
                typed.push(DETACH[0]);
            }
            match terminal && *byte == DETACH[0] {
                true => held = true,
                false => typed.push(*byte),
            }
        }
        if let Some(fd) = &input
            && fd.write_all(&typed).await.is_err()
        {
            // The program does not read any more.
            input = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_name_their_stream() {
        assert_eq!(frame(2, b"ab")[..], [2, 0, 0, 0, 0, 0, 0, 2, b'a', b'b']);
    }

    #[tokio::test]
    async fn streams_are_read_to_their_end() {
        let [(out, mut out_in), (error, error_in)] = [io::pipe().unwrap(), io::pipe().unwrap()];
        io::Write::write_all(&mut out_in, b"hello").unwrap();
        drop((out_in, error_in));
        let mut said = outputs([Some(out.into()), Some(error.into())], false);
        assert_eq!(said.recv().await.unwrap(), frame(1, b"hello"));
        assert_eq!(said.recv().await, None);
    }
}
