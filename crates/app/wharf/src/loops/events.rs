//! Events go after an hour: see `wharf_control::events`.

use std::time::Duration;

use wharf_client::{Client, ListParams, Result, action::EVENTS};
use wharf_control::{Step, events::expire};

use super::runner::{Controller, Seen, Shared, Watch};

const EVERY: Duration = Duration::from_secs(300);

/// Lists Events now and then; keeping them all in memory would cost more.
pub(crate) struct Expiry {
    client: Client,
}

impl Expiry {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { client: shared.client.clone() }
    }
}

impl Controller for Expiry {
    const NAME: &'static str = "event-expiry";

    fn watches(&self) -> Vec<Watch<Self>> {
        Vec::new()
    }

    fn first_keys(&self) -> Vec<String> {
        vec!["all".to_owned()]
    }

    async fn step(&self, _: &str, seen: Seen<'_>) -> Result<Step> {
        let events = self.client.list(&EVENTS, &ListParams::default()).await?;
        Ok(Step { actions: expire(&events.items, seen.now), requeue_after: Some(EVERY) })
    }
}
