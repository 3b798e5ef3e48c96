//! The length of a list on a Redis server (RESP2).

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

/// A server has this long to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest line of an answer.
const MAX_LINE: u64 = 4096;

/// Who asks, and in which database.
#[derive(Default)]
pub(super) struct Login {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
}

/// `LLEN list`.
pub(super) async fn list_length(host: &str, port: u16, login: &Login, list: &str) -> Result<i64, String> {
    let asked = timeout(PATIENCE, ask(host, port, login, list)).await;
    asked.unwrap_or_else(|_| {
        Err(format!("redis at {host}:{port} did not answer within {} s", PATIENCE.as_secs()))
    })
}

async fn ask(host: &str, port: u16, login: &Login, list: &str) -> Result<i64, String> {
    let failed = |e: std::io::Error| format!("redis at {host}:{port}: {e}");
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    let mut stream = BufReader::new(stream);
    let database = login.database.to_string();
    let mut commands: Vec<Vec<&str>> = Vec::new();
    if let Some(password) = &login.password {
        let mut auth = vec!["AUTH"];
        auth.extend(login.username.as_deref());
        auth.push(password);
        commands.push(auth);
    }
    if login.database != 0 {
        commands.push(vec!["SELECT", &database]);
    }
    commands.push(vec!["LLEN", list]);
    let mut answer = String::new();
    for command in commands {
        stream.get_mut().write_all(&encode(&command)).await.map_err(failed)?;
        answer = line(&mut stream).await.map_err(failed)?;
        if let Some(error) = answer.strip_prefix('-') {
            return Err(format!("redis at {host}:{port}: {error}"));
        }
    }
    let length = answer.strip_prefix(':').and_then(|n| n.parse().ok());
    length.ok_or_else(|| format!("redis at {host}:{port}: {answer:?} is no length"))
}

async fn line(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    stream.take(MAX_LINE).read_line(&mut line).await?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the connection ended")),
    }
}

fn encode(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn serve(answers: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listens");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut buffer = [0; 1024];
            for answer in answers {
                let _ = stream.read(&mut buffer).await.expect("a command");
                stream.write_all(answer.as_bytes()).await.expect("answered");
            }
        });
        port
    }

    #[tokio::test]
    async fn lengths_and_errors() {
        let port = serve(&[":42\r\n"]).await;
        assert_eq!(list_length("127.0.0.1", port, &Login::default(), "jobs").await, Ok(42));
        let port = serve(&["+OK\r\n", "+OK\r\n", ":7\r\n"]).await;
        let login = Login { password: Some("p".into()), database: 3, ..Login::default() };
        assert_eq!(list_length("127.0.0.1", port, &login, "jobs").await, Ok(7));
        let port = serve(&["-NOAUTH Authentication required.\r\n"]).await;
        let error = list_length("127.0.0.1", port, &Login::default(), "jobs").await.expect_err("refused");
        assert!(error.ends_with("NOAUTH Authentication required."), "{error}");
        assert_eq!(encode(&["LLEN", "a"]), b"*2\r\n$4\r\nLLEN\r\n$1\r\na\r\n");
    }
}
