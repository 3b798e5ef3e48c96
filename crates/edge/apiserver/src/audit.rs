//! The audit log: who asked for what, when, and what came of it, as a policy wants it.
//!
//! What is found out about a request on its way, such as the object in its body or which policy it breaks, is noted for
//! the request that the task is about ([`note`]); where nothing is to be written down, noting costs a look.
//!
//! Source: `audit.k8s.io/v1`; Kubernetes' auditing.

mod log;
mod policy;
mod record;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use wharf_api::status::Status;
use wharf_base::Clock;
use wharf_http::Body;

use crate::{ApiServer, Identity, configuration::ConfigError, request::RequestInfo};

pub use log::LogOptions;
use log::{LINE, Log, Room};
use policy::{Level, Policy, Stage};
pub(crate) use record::Record;

const ID: &str = "audit-id";

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy is wrong.
    #[error("audit policy: {0}")]
    Policy(#[from] ConfigError),
    /// The file cannot be opened.
    #[error("cannot open the audit log {path}: {source}")]
    Open {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A policy and the log it fills.
pub struct Audit {
    policy: Policy,
    log: Log,
}

impl Audit {
    /// Reads a policy and opens the log.
    ///
    /// # Errors
    /// When the policy is wrong or the file cannot be opened.
    pub fn open(policy: &str, options: LogOptions) -> Result<Self, AuditError> {
        let policy = Policy::parse(policy)?;
        let path = options.path.clone();
        let log = Log::open(options).map_err(|source| AuditError::Open { path, source })?;
        Ok(Self { policy, log })
    }

    /// Waits until everything taken on by now is in the file.
    pub async fn flush(&self) {
        self.log.flush().await;
    }

    /// How often the file could not be written.
    pub(crate) fn failures(&self) -> u64 {
        self.log.failures()
    }

    /// What is known of a request at its beginning, where the policy wants it written down. Nobody asks where its sender
    /// could not show who they are.
    pub(crate) fn record(
        &self,
        server: &ApiServer,
        request: &Request<Body>,
        info: &RequestInfo,
        who: Option<&Identity>,
    ) -> Option<Record> {
        let wanted = self.policy.wants(info, who);
        (wanted.level > Level::None).then(|| Record::new(server, request, info, who, wanted))
    }

    /// Begins to write a request down.
    ///
    /// # Errors
    /// 500 when there is no room for what is to be written down.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        server: &ApiServer,
        record: Record,
    ) -> Result<Auditing, Status> {
        // What is done will be written down: there is room for all of it before it is done.
        let first = !record.wanted.omit_stages.contains(&Stage::RequestReceived);
        let Some(mut room) = self.log.reserve(if first { 2 * LINE } else { LINE }).await else {
            let why =
                "the audit log cannot be written, and no more may wait for it; see the server's own log";
            return Err(Status::new(500, "InternalError", why));
        };
        if first && let Some(room) = room.split(LINE) {
            self.log.put(record.line(Stage::RequestReceived, None, server.now()), room);
        }
        Ok(Auditing {
            audit: Arc::clone(self),
            clock: Arc::clone(&server.clock),
            record: Arc::new(Mutex::new(record)),
            room: Some(room),
        })
    }
}

tokio::task_local! {
    static CURRENT: Arc<Mutex<Record>>;
}

/// Notes something about the request this task is about, where it is to be written down.
pub(crate) fn note(about: impl FnOnce(&mut Record)) {
    // Elsewhere there is nothing to note.
    let _ = CURRENT.try_with(|record| about(&mut lock(record)));
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that is written down.
pub(crate) struct Auditing {
    audit: Arc<Audit>,
    clock: Arc<dyn Clock>,
    record: Arc<Mutex<Record>>,
    /// For a line without objects.
    room: Option<Room>,
}

impl Auditing {
    /// Does what a request asks for, with what is noted meanwhile.
    pub(crate) async fn about<T>(&self, doing: impl Future<Output = T>) -> T {
        CURRENT.scope(Arc::clone(&self.record), doing).await
    }

    fn line(&self, stage: Stage, code: StatusCode) -> Option<String> {
        let record = lock(&self.record);
        let wanted = !record.wanted.omit_stages.contains(&stage);
        wanted.then(|| record.line(stage, Some(code), self.clock.now()))
    }

    /// Writes a stage down, in the room that was kept for it; a long line when there is more room by now.
    async fn put(&mut self, stage: Stage, code: StatusCode) {
        let line = self.line(stage, code);
        // Meanwhile its room stays where it is, for the case that nobody waits for this any more.
        let more = match line.as_ref().map_or(0, String::len).saturating_sub(LINE) {
            0 => None,
            bytes => self.audit.log.reserve(bytes).await,
        };
        self.finish(stage, code, line, more);
    }

    fn put_now(&mut self, stage: Stage, code: StatusCode) {
        let line = self.line(stage, code);
        let more = match line.as_ref().map_or(0, String::len).saturating_sub(LINE) {
            0 => None,
            bytes => self.audit.log.try_reserve(bytes),
        };
        self.finish(stage, code, line, more);
    }

    fn finish(&mut self, stage: Stage, code: StatusCode, line: Option<String>, more: Option<Room>) {
        let Some((mut line, mut room)) = line.zip(self.room.take()) else { return };
        match more {
            Some(more) => room.merge(more),
            None if line.len() > LINE => {
                lock(&self.record).truncate();
                line = self.line(stage, code).unwrap_or_default();
            }
            None => {}
        }
        self.audit.log.put(line, room);
    }

    /// Writes down that nobody was believed to be the sender.
    pub(crate) fn end_unauthenticated(mut self) {
        let message = "Authentication failed, attempted: bearer";
        let status = json!({"status": "Failure", "reason": "Unauthorized", "message": message});
        lock(&self.record).status = Some(status);
        self.put_now(Stage::ResponseComplete, StatusCode::UNAUTHORIZED);
    }

    /// Writes the answer down; that of a long request at its beginning and at its end.
    pub(crate) async fn end(mut self, mut response: Response<Body>) -> Response<Body> {
        let code = response.status();
        let (id, is_long) = {
            let record = lock(&self.record);
            (record.id.clone(), record.is_long)
        };
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(ID, value);
        }
        if !is_long {
            self.put(Stage::ResponseComplete, code).await;
            return response;
        }
        self.put(Stage::ResponseStarted, code).await;
        if code == StatusCode::SWITCHING_PROTOCOLS {
            // What follows is no answer any more.
            let end = End { auditing: Some(self), code };
            drop(end);
            return response;
        }
        let end = End { auditing: Some(self), code };
        response.map(|body| wharf_http::stream(ending(body, end)))
    }
}

impl Drop for Auditing {
    /// A request that was not answered is written down all the same.
    fn drop(&mut self) {
        if self.room.is_none() {
            return;
        }
        let (stage, code, why) = match std::thread::panicking() {
            true => (Stage::Panic, 500, "APIServer panic'd"),
            false => (Stage::ResponseComplete, 499, "the client went away before it was answered"),
        };
        lock(&self.record).status =
            Some(json!({"status": "Failure", "reason": "InternalError", "message": why}));
        self.put_now(stage, StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    }
}

/// A body that lets go of something with its last byte, or when nobody reads it any more.
fn ending(
    body: Body,
    end: End,
) -> impl futures_util::Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static {
    futures_util::stream::unfold((body.into_data_stream(), end), |(mut chunks, end)| async move {
        let chunk = chunks.next().await?.map_err(std::io::Error::other);
        Some((chunk, (chunks, end)))
    })
}

/// The end of a long answer.
struct End {
    auditing: Option<Auditing>,
    code: StatusCode,
}

impl Drop for End {
    fn drop(&mut self) {
        let Some(auditing) = self.auditing.take() else { return };
        let Some(line) = auditing.line(Stage::ResponseComplete, self.code) else { return };
        // It waits for room, as nobody else does for it.
        auditing.audit.log.put_later(line);
    }
}
