//! Chromium without a screen, led through WebDriver (<https://www.w3.org/TR/webdriver2/>).

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
};

use base64::Engine as _;
use serde_json::{Value, json};

use super::{PATIENCE, until};

/// A browser with one window; it ends with this value.
pub struct Browser {
    driver: Child,
    // The driver must not lose the reader of what it prints.
    _says: BufReader<ChildStdout>,
    address: String,
    session: String,
}

impl Browser {
    pub fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("this test needs chromium and chromedriver in PATH: {error}"));
        let mut says = BufReader::new(driver.stdout.take().unwrap());
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert!(says.read_line(&mut line).unwrap() > 0, "chromedriver ended");
            if let Some((_, port)) =
                line.trim().trim_end_matches('.').rsplit_once("started successfully on port ")
            {
                break port.to_owned();
            }
        };
        let mut browser =
            Self { driver, _says: says, address: format!("127.0.0.1:{port}"), session: String::new() };
        let options = json!({"args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"]});
        let wanted = json!({"capabilities": {"alwaysMatch": {"browserName": "chrome",
            "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}});
        let made = browser.send("POST", "/session", &wanted);
        browser.session = format!("/session/{}", made["sessionId"].as_str().unwrap());
        browser
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.try_send(method, path, body).unwrap_or_else(|error| panic!("{path}: {error}"));
        serde_json::from_str::<Value>(&answer).unwrap()["value"].clone()
    }

    fn try_send(&self, method: &str, path: &str, body: &Value) -> io::Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes())?;
        // The driver keeps its connections open whatever it is asked.
        let (mut answer, mut head, mut length) = (BufReader::new(stream), String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            if answer.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(value) = head[from..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body)?;
        let answer = String::from_utf8_lossy(&body).into_owned();
        if head.starts_with("HTTP/1.1 200") { Ok(answer) } else { Err(io::Error::other(answer)) }
    }

    fn ask(&self, what: &str, body: &Value) -> Value {
        self.send("POST", &format!("{}{what}", self.session), body)
    }

    /// Opens a page and waits until it has loaded.
    pub fn open(&self, url: &str) {
        self.ask("/url", &json!({"url": url}));
    }

    /// What a script returns in the page.
    pub fn eval(&self, script: &str) -> Value {
        self.ask("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until a script returns something true.
    pub fn until(&self, what: &str, script: &str) {
        until(what, || match self.eval(&format!("return Boolean({script})")) {
            Value::Bool(true) => Ok(()),
            _ => Err(format!(
                "{}: {}",
                self.eval("return location.href"),
                self.eval("return document.body.innerText")
            )),
        });
    }

    /// Waits until the page shows these words, without being loaded anew.
    pub fn shows(&self, words: &str) {
        self.until(words, &format!("document.body.innerText.includes({})", json!(words)));
    }

    /// What the browser complains of: scripts that fail, content its policy forbids, addresses that do not answer.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.ask("/se/log", &json!({"type": "browser"}));
        let bad = log.as_array().unwrap().iter().filter(|entry| entry["level"] != "INFO");
        bad.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Keeps a picture (PNG) where `WHARF_SCREENSHOTS` names a folder.
    pub fn picture(&self, name: &str) {
        if let Some(folder) = std::env::var_os("WHARF_SCREENSHOTS") {
            let picture = self.send("GET", &format!("{}/screenshot", self.session), &Value::Null);
            let bytes = base64::engine::general_purpose::STANDARD.decode(picture.as_str().unwrap()).unwrap();
            std::fs::write(std::path::Path::new(&folder).join(name), bytes).unwrap();
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // This ends the browser; the driver alone would leave it.
        let _ = self.try_send("DELETE", &self.session, &Value::Null);
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.driver),
            rustix::process::Signal::TERM,
        );
        let _ = self.driver.wait();
    }
}
