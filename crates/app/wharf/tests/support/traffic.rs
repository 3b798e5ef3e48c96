//! HTTP as a client of a service sends it: over kept connections and over new ones.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(10);

struct Connection {
    stream: BufReader<TcpStream>,
}

/// Where a request failed: before the answer began, or later.
enum Failed {
    Silent(io::Error),
    Midway(String),
}

impl Connection {
    fn open(address: &str) -> io::Result<Self> {
        let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a GET and reads the answer: its body, and whether the connection may be used again.
    fn ask(&mut self, host: &str, path: &str, keep: bool) -> Result<(String, bool), Failed> {
        let end = if keep { "" } else { "Connection: close\r\n" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{end}\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).map_err(Failed::Silent)?;
        match self.stream.fill_buf() {
            Ok([]) => return Err(Failed::Silent(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return Err(Failed::Silent(error)),
        }
        self.answer().map_err(|error| Failed::Midway(error.to_string()))
    }

    fn answer(&mut self) -> io::Result<(String, bool)> {
        let mut status = String::new();
        self.stream.read_line(&mut status)?;
        let (mut length, mut keep) = (None, true);
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse::<usize>().ok();
            }
            keep &= line != "connection: close";
        }
        let mut body = Vec::new();
        match length {
            Some(length) => {
                body.resize(length, 0);
                self.stream.read_exact(&mut body)?;
            }
            None => {
                self.stream.read_to_end(&mut body)?;
                keep = false;
            }
        }
        let body = String::from_utf8_lossy(&body).trim().to_owned();
        if !status.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(format!("{}: {body}", status.trim_end())));
        }
        Ok((body, keep))
    }
}

/// One GET over a connection of its own.
pub fn get(address: &str, host: &str, path: &str) -> Result<String, String> {
    let mut connection = Connection::open(address).map_err(|error| error.to_string())?;
    match connection.ask(host, path, false) {
        Ok((body, _)) => Ok(body),
        Err(Failed::Silent(error)) => Err(error.to_string()),
        Err(Failed::Midway(error)) => Err(error),
    }
}

/// What a load saw.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub answers: Vec<(String, usize)>,
    pub failures: Vec<String>,
}

impl Tally {
    fn count(&mut self, answer: Result<String, String>) {
        match answer {
            Err(failure) => self.failures.push(failure),
            Ok(body) => match self.answers.iter_mut().find(|(known, _)| *known == body) {
                Some((_, count)) => *count += 1,
                None => self.answers.push((body, 1)),
            },
        }
    }

    pub fn of(&self, body: &str) -> usize {
        self.answers.iter().find(|(known, _)| known == body).map_or(0, |(_, count)| *count)
    }
}

/// Requests one after another, until stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// One thread with kept connections and one with new ones for each address and host.
    pub fn start(targets: &[(String, &'static str)]) -> Self {
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())));
        let mut threads = Vec::new();
        for (address, host) in targets {
            for keep in [false, true] {
                let (address, host, stop, tally) =
                    (address.clone(), *host, Arc::clone(&stop), Arc::clone(&tally));
                threads.push(std::thread::spawn(move || {
                    let mut kept = None;
                    while !stop.load(Ordering::Relaxed) {
                        let answer = request(&mut kept, &address, host, keep);
                        let answer = answer.map_err(|why| {
                            format!("{} {host} at {address}, kept {keep}: {why}", super::now())
                        });
                        tally.lock().unwrap().count(answer);
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }));
            }
        }
        Self { stop, tally, threads }
    }

    /// What was seen so far.
    pub fn so_far(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A connection that was closed while nothing was asked on it is opened again, as every HTTP client does.
fn request(kept: &mut Option<Connection>, address: &str, host: &str, keep: bool) -> Result<String, String> {
    if let Some(mut connection) = kept.take() {
        match connection.ask(host, "/", true) {
            Ok((body, again)) => {
                *kept = again.then_some(connection);
                return Ok(body);
            }
            Err(Failed::Midway(error)) => return Err(error),
            Err(Failed::Silent(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(error.to_string());
            }
            Err(Failed::Silent(_)) => {}
        }
    }
    let mut connection = Connection::open(address).map_err(|error| error.to_string())?;
    match connection.ask(host, "/", keep) {
        Ok((body, again)) => {
            *kept = (keep && again).then_some(connection);
            Ok(body)
        }
        Err(Failed::Silent(error)) => Err(error.to_string()),
        Err(Failed::Midway(error)) => Err(error),
    }
}
