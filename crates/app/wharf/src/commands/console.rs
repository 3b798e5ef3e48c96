//! The console's address: below it metrics, logs and traces are asked for.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use serde_json::Value;
use wharf_base::Hinted;
use wharf_http::{
    client::{Client, ClientConfig, Failure},
    collect,
};

use super::{
    Globals,
    platform::{endpoints, not_running, run},
};

/// Bytes of an answer at the most.
const MAX_ANSWER: usize = 256 << 20;

/// Asks a running platform for what it has seen.
pub(crate) struct Console {
    folder: PathBuf,
    base: String,
    client: Client,
}

/// Runs `act` with the console of the chosen platform.
pub(crate) fn ask(
    globals: &Globals,
    act: impl AsyncFnOnce(Console) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    run(async { act(Console::of(globals)?).await })
}

impl Console {
    pub(crate) fn of(globals: &Globals) -> anyhow::Result<Self> {
        let folder = globals.data_dir()?;
        let endpoints = endpoints(&folder)?;
        let Some(base) = endpoints["console"].as_str() else {
            let error = format!("the platform on {} has no console", folder.display());
            return Err(Hinted::new(error, "start it again with this version of wharf").into());
        };
        // Queries over much data take long before the first byte.
        let config = ClientConfig { response_timeout: Duration::from_secs(300), ..ClientConfig::default() };
        Ok(Self { base: base.trim_end_matches('/').to_owned(), folder, client: Client::new(config) })
    }

    /// The JSON at a path.
    pub(crate) async fn get(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let url = format!("{}{path}?{query}", self.base);
        let response = self.client.get(&url).await.map_err(|error| match error.failure {
            Failure::Connect => not_running(&self.folder),
            _ => anyhow::anyhow!("{error}"),
        })?;
        let status = response.status();
        let body = collect(response.into_body(), MAX_ANSWER)
            .await
            .map_err(|error| anyhow::anyhow!("the answer of {} could not be read: {error}", self.base))?;
        if !status.is_success() {
            return Err(Refused { status: status.as_u16(), message: message(&body) }.into());
        }
        serde_json::from_slice(&body).with_context(|| format!("{} does not answer in JSON", self.base))
    }
}

/// The platform's answer is no.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "the platform answers with status {}", self.status),
            message => f.write_str(message),
        }
    }
}

impl std::error::Error for Refused {}

/// What a refusal says: Prometheus' `error`, or a plain text.
fn message(body: &[u8]) -> String {
    let json: Option<Value> = serde_json::from_slice(body).ok();
    match json.as_ref().and_then(|json| json["error"].as_str()) {
        Some(error) => error.to_owned(),
        None => String::from_utf8_lossy(body).trim().chars().take(2000).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn refusals_are_read_in_both_forms() {
        assert_eq!(message(br#"{"status":"error","errorType":"bad_data","error":"1:2: no"}"#), "1:2: no");
        assert_eq!(message(b"trace not found: ab\n"), "trace not found: ab");
    }
}
