//! The server the kubelet and crictl stream from: exec, attach and port-forward under addresses that are good once.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use tokio::sync::{mpsc, watch};
use wharf_base::random_hex;
use wharf_http::{
    Body, Handler, Listener, full,
    remote::{Session, TerminalSize, command, forward, handshake},
    upgrade,
};
use wharf_node::{ExecStart, StreamError};

use crate::{
    grpc::{Code, Failure, Result},
    table::{Living, locked},
};

/// An address nobody comes to is forgotten after this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Addresses waited at.
const MAX_WAITING: usize = 1000;

/// What is streamed.
pub(crate) enum Ask {
    /// A command, or the container's own process to join.
    Command { sandbox: Living, run: String, start: ExecStart },
    /// Connections to ports in a network; the machine's own without a path.
    Ports { network: Option<PathBuf>, ports: Vec<String> },
}

struct Waiting {
    since: Instant,
    ask: Ask,
}

/// What is asked for and not yet come for.
#[derive(Clone)]
pub struct Streams {
    address: SocketAddr,
    waiting: Arc<Mutex<HashMap<String, Waiting>>>,
}

impl Streams {
    /// Listens on a free port of the loopback interface, and serves until `stop` turns true.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn serve(
        stop: watch::Receiver<bool>,
    ) -> Result<(Self, impl Future<Output = ()> + Send), wharf_http::ServeError> {
        let listener = Listener::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None).await?;
        let address = listener.address().unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let streams = Self { address, waiting: Arc::default() };
        let own = streams.clone();
        let handler: Handler = Arc::new(move |request| {
            let streams = own.clone();
            Box::pin(async move { streams.handle(request) })
        });
        Ok((streams, listener.serve(handler, stop)))
    }

    /// An address under which this is streamed, once.
    pub(crate) fn url(&self, kind: &str, ask: Ask) -> Result<String> {
        let mut waiting = locked(&self.waiting);
        waiting.retain(|_, one| one.since.elapsed() < PATIENCE);
        if waiting.len() >= MAX_WAITING {
            return Err(Failure::new(
                Code::ResourceExhausted,
                "too many streams are asked for and not come for",
            ));
        }
        let token = random_hex(16);
        waiting.insert(token.clone(), Waiting { since: Instant::now(), ask });
        Ok(format!("http://{}/{kind}/{token}", self.address))
    }

    fn take(&self, path: &str) -> Option<Ask> {
        let token = path.rsplit('/').next()?;
        let one = locked(&self.waiting).remove(token)?;
        (one.since.elapsed() < PATIENCE).then_some(one.ask)
    }

    fn handle(&self, mut request: Request<Body>) -> Response<Body> {
        let (websocket, spdy): (&[_], &[_]) = match request.uri().path().starts_with("/portforward/") {
            true => (&forward::WEBSOCKET_PROTOCOLS, &forward::SPDY_PROTOCOLS),
            false => (&command::WEBSOCKET_PROTOCOLS, &command::PROTOCOLS),
        };
        // Before the address is used up: a client tries one protocol after the other.
        let (response, protocol) = match handshake(&request, websocket, spdy) {
            Ok(accepted) => accepted,
            Err(why) => return plain(StatusCode::BAD_REQUEST, &why.to_string()),
        };
        let Some(ask) = self.take(request.uri().path()) else {
            return plain(StatusCode::NOT_FOUND, "this address is good once, and for a minute");
        };
        let connection = upgrade(&mut request);
        tokio::spawn(async move {
            let served = match (connection.await, ask) {
                (Err(error), _) => Err(error),
                (Ok(connection), Ask::Command { sandbox, run, start }) => {
                    let streams = command::Streams {
                        stdin: start.stdin,
                        stdout: start.stdout,
                        stderr: start.stderr,
                        tty: start.tty,
                    };
                    command::serve(connection, protocol, streams, session(sandbox, run, start).await).await
                }
                (Ok(connection), Ask::Ports { network, ports }) => {
                    forward::serve(connection, protocol, &target(network), &ports).await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a stream ended early");
            }
        });
        response
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(format!("{text}\n")));
    *response.status_mut() = status;
    response
}

/// The command's ends; one that cannot be started tells why at its end.
async fn session(sandbox: Living, run: String, start: ExecStart) -> Session {
    let started = match start.attach {
        true => wharf_node::attach(sandbox, run, start.tty, start).await,
        false => wharf_node::exec(sandbox, run, start).await,
    };
    match started {
        Ok(streams) => {
            let exit = streams.exit;
            Session {
                stdin: streams.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr,
                resize: streams.resize.map(resizer),
                exit: Box::pin(async move { exit.await.map_err(|error| error.to_string()) }),
            }
        }
        Err(error) => failed(error),
    }
}

fn failed(error: StreamError) -> Session {
    let exit = Box::pin(async move { Err(error.to_string()) });
    Session { stdin: None, stdout: None, stderr: None, resize: None, exit }
}

/// Hands sizes on until either side is done.
fn resizer(terminal: mpsc::Sender<wharf_node::TerminalSize>) -> mpsc::Sender<TerminalSize> {
    let (sender, mut sizes) = mpsc::channel::<TerminalSize>(4);
    tokio::spawn(async move {
        while let Some(TerminalSize { width, height }) = sizes.recv().await {
            if terminal.send(wharf_node::TerminalSize { width, height }).await.is_err() {
                return;
            }
        }
    });
    sender
}

fn target(network: Option<PathBuf>) -> forward::Target {
    Arc::new(move |port| {
        let network = network.clone();
        Box::pin(async move {
            match wharf_node::connect_in(network, port).await {
                Ok(connection) => Ok(Box::new(connection) as Box<dyn wharf_http::remote::Connection>),
                Err(error) => Err(format!("cannot connect to port {port} of the sandbox: {error}")),
            }
        })
    })
}
