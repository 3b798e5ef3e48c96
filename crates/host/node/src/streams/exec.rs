//! Commands run and processes joined from outside, with their streams.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    sync::mpsc,
    task::spawn_blocking,
};
use wharf_runtime::{ErrorKind, ExecConfig, Sandbox, Size};

use super::{ExecStart, ExecStreams, ExitCode, Result, StreamError, TerminalSize, choose};
use crate::agent::NodeAgent;

impl NodeAgent {
    /// Starts a command in a container, or joins its own process.
    ///
    /// # Errors
    /// When there is no such container, it does not run, or the program cannot be started.
    pub async fn exec(&self, request: ExecStart) -> Result<ExecStreams> {
        let view = self.pod(&request.namespace, &request.pod)?.view();
        let container = choose(&view, request.container.as_deref())?;
        let sandbox = view.sandbox.filter(|_| container.running).ok_or_else(|| {
            StreamError::BadRequest(format!(
                "container {} of pod {} does not run",
                container.name, request.pod
            ))
        })?;
        let run = container.run();
        if request.attach {
            let (tty, stdin) = (container.tty, container.stdin && request.stdin);
            return attach(sandbox, run, tty, ExecStart { stdin, ..request }).await;
        }
        if request.command.is_empty() {
            return Err(StreamError::BadRequest(
                "you must specify at least one command for the container".to_owned(),
            ));
        }
        exec(sandbox, run, request).await
    }
}

fn refused(error: wharf_runtime::Error) -> StreamError {
    match error.kind {
        ErrorKind::NotFound | ErrorKind::ShimGone => StreamError::NotFound(error.to_string()),
        ErrorKind::State | ErrorKind::Invalid | ErrorKind::NoProgram | ErrorKind::NotExecutable => {
            StreamError::BadRequest(error.to_string())
        }
        _ => StreamError::failed(error),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> wharf_runtime::Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.map_err(StreamError::failed)?.map_err(refused)
}

type Pipe = (OwnedFd, OwnedFd);

fn pipe(wanted: bool) -> Result<Option<Pipe>> {
    let made = wanted.then(|| rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)).transpose();
    made.map_err(StreamError::failed)
}

/// Starts a command in the container `run` of a sandbox.
///
/// # Errors
/// When there is no such container, it does not run, or the program cannot be started.
pub async fn exec(sandbox: Arc<dyn Sandbox>, run: String, request: ExecStart) -> Result<ExecStreams> {
    let piped = !request.tty;
    let (stdin, stdout, stderr) =
        (pipe(piped && request.stdin)?, pipe(piped && request.stdout)?, pipe(piped && request.stderr)?);
    let (theirs_in, ours_in) = stdin.unzip();
    let (ours_out, theirs_out) = stdout.unzip();
    let (ours_err, theirs_err) = stderr.unzip();
    // The true size comes with the first message.
    let terminal = request.tty.then_some(Size { rows: 24, columns: 80 });
    let config = ExecConfig {
        args: request.command,
        env: if request.tty { vec!["TERM=xterm".to_owned()] } else { Vec::new() },
        terminal,
        ..ExecConfig::default()
    };
    let mut started =
        blocking(move || sandbox.exec(&run, &config, [theirs_in, theirs_out, theirs_err])).await?;
    let copy = || started.terminal().map(|terminal| terminal.try_clone_to_owned()).transpose();
    let (terminal_in, terminal_out, sized) = (
        copy().map_err(StreamError::failed)?.filter(|_| request.stdin),
        copy().map_err(StreamError::failed)?,
        copy().map_err(StreamError::failed)?,
    );
    let ending = started.ending().as_fd().try_clone_to_owned().map_err(StreamError::failed)?;
    let ended = polled(ending, Interest::READABLE).map_err(StreamError::failed)?;
    let exit: ExitCode = Box::pin(async move {
        // Readable: the answer is there, and reading it does not block.
        let _ = ended.readable().await.map_err(StreamError::failed)?;
        started.wait().map(|exit| exit.code).map_err(StreamError::failed)
    });
    let resize = sized.map(|terminal| {
        resizer(move |size| {
            let size = rustix::termios::Winsize {
                ws_row: size.height,
                ws_col: size.width,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // The program may have ended meanwhile.
            let _ = rustix::termios::tcsetwinsize(&terminal, size);
        })
    });
    Ok(ExecStreams {
        stdin: writer(ours_in.or(terminal_in))?,
        stdout: reader(ours_out.or(terminal_out))?,
        stderr: reader(ours_err)?,
        resize,
        exit,
    })
}

/// Joins the own process of the container `run` of a sandbox.
///
/// # Errors
/// When there is no such container, or it does not run.
pub async fn attach(
    sandbox: Arc<dyn Sandbox>,
    run: String,
    tty: bool,
    request: ExecStart,
) -> Result<ExecStreams> {
    let joined = {
        let (sandbox, run) = (Arc::clone(&sandbox), run.clone());
        blocking(move || Ok((sandbox.watch(&run)?, sandbox.attach(&run)?)))
    };
    let (mut ending, [input, output, error]) = joined.await?;
    let fd = ending.as_fd().try_clone_to_owned().map_err(StreamError::failed)?;
    let ended = polled(fd, Interest::READABLE).map_err(StreamError::failed)?;
    // An input that is not wanted is held all the same: closing it would end the program's.
    let (input, held) = if request.stdin { (input, None) } else { (None, input) };
    let exit: ExitCode = Box::pin(async move {
        let _held = held;
        let _ = ended.readable().await.map_err(StreamError::failed)?;
        ending.wait().map(|exit| exit.code).map_err(StreamError::failed)
    });
    let resize = tty.then(|| {
        resizer(move |size| {
            let _ = sandbox.resize(&run, Size { rows: size.height, columns: size.width });
        })
    });
    Ok(ExecStreams {
        stdin: writer(input)?,
        stdout: reader(output.filter(|_| request.stdout))?,
        stderr: reader(error.filter(|_| request.stderr))?,
        resize,
        exit,
    })
}

/// Takes sizes until nobody sends any.
fn resizer(set: impl Fn(TerminalSize) + Send + 'static) -> mpsc::Sender<TerminalSize> {
    let (sender, mut sizes) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Some(size) = sizes.recv().await {
            set(size);
        }
    });
    sender
}

fn reader(fd: Option<OwnedFd>) -> Result<Option<Box<dyn AsyncRead + Send + Unpin>>> {
    let made = fd.map(|fd| FdStream::new(fd, Interest::READABLE)).transpose().map_err(StreamError::failed)?;
    Ok(made.map(|stream| Box::new(stream) as _))
}

fn writer(fd: Option<OwnedFd>) -> Result<Option<Box<dyn AsyncWrite + Send + Unpin>>> {
    let made = fd.map(|fd| FdStream::new(fd, Interest::WRITABLE)).transpose().map_err(StreamError::failed)?;
    Ok(made.map(|stream| Box::new(stream) as _))
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for types that may not own what they name; this one owns it"
)]
fn polled(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

/// One end of a pipe, or the outer side of a terminal.
struct FdStream(AsyncFd<OwnedFd>);

impl FdStream {
    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(polled(fd, interest)?))
    }
}

impl AsyncRead for FdStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *space)?)) {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // The other side of a terminal has closed: its end.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for FdStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The descriptor closes with this value.
        Poll::Ready(Ok(()))
    }
}
