//! The rules in the kernel, kept as they are wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddrV4,
    sync::Arc,
};

use tokio::sync::Mutex;

use crate::{
    error::Result,
    kernel::Firewall,
    rules::{BridgeRule, Op, Plan, Protocol, ServicePortRule, Table},
    saved::{PortMapping, Store},
};

/// Owners of this prefix are the platform's own: no namespace can have the name.
const PLATFORM: &str = "-/";

/// Service load balancing in the kernel. Cheap to clone.
///
/// Rules a former run left work on untouched until [`ServiceRules::replace`], which swaps the whole table at once.
#[derive(Clone)]
pub struct ServiceRules {
    engine: Arc<Engine>,
}

struct Engine {
    firewall: Box<dyn Firewall>,
    store: Store,
    state: Mutex<State>,
}

struct State {
    table: Table,
    /// The kernel holds this table, not one from before.
    ours: bool,
}

impl ServiceRules {
    /// Makes the table unless one is there.
    pub(crate) async fn open(firewall: Box<dyn Firewall>, store: Store, table: Table) -> Result<Self> {
        let present = firewall.present().await?;
        let rules = Self {
            engine: Arc::new(Engine { firewall, store, state: Mutex::new(State { table, ours: !present }) }),
        };
        if !present {
            rules.engine.rebuild(&*rules.engine.state.lock().await).await?;
        }
        Ok(rules)
    }

    /// Sets the rules of some Services (`NAMESPACE/NAME`); empty ones remove it. All change at once.
    ///
    /// # Errors
    /// When the kernel refuses; then nothing has changed.
    pub async fn apply(
        &self,
        services: impl IntoIterator<Item = (String, Vec<ServicePortRule>)>,
    ) -> Result<()> {
        let state = &mut *self.engine.state.lock().await;
        self.engine.set(state, services).await
    }

    /// Sets the rules of all Services: those not named here go. All change at once.
    ///
    /// # Errors
    /// When the kernel refuses; then nothing has changed.
    pub async fn replace(&self, services: BTreeMap<String, Vec<ServicePortRule>>) -> Result<()> {
        let state = &mut *self.engine.state.lock().await;
        let platform = |owner: &String| owner.starts_with(PLATFORM);
        let gone = state.table.owners().filter(|owner| !platform(owner) && !services.contains_key(*owner));
        let gone: Vec<_> = gone.map(|owner| (owner.clone(), Vec::new())).collect();
        if state.ours {
            return self.engine.set(state, gone.into_iter().chain(services)).await;
        }
        for (owner, rules) in gone.into_iter().chain(services) {
            state.table.set(&owner, rules);
        }
        self.engine.rebuild(state).await?;
        state.ours = true;
        Ok(())
    }

    /// Sets the rules of a service the platform itself offers; they win over Services of the same address.
    ///
    /// # Errors
    /// When the kernel refuses; then nothing has changed.
    pub async fn set_platform(&self, name: &str, rules: Vec<ServicePortRule>) -> Result<()> {
        self.apply([(format!("{PLATFORM}{name}"), rules)]).await
    }

    /// Publishes host ports and takes others back, in a table of a former run too.
    pub(crate) async fn publish(&self, add: &[PortMapping], remove: &[PortMapping]) -> Result<()> {
        let state = self.engine.state.lock().await;
        let mut ops: Vec<Op> = remove.iter().map(|port| Op::Unpublish(port.rule().0)).collect();
        let gone = remove.iter().filter_map(PortMapping::rule6);
        ops.extend(gone.map(|((protocol, port), _)| Op::Unpublish6(protocol, port)));
        ops.extend(add.iter().map(PortMapping::rule).map(|(port, to)| Op::Publish { port, to }));
        let new = add.iter().filter_map(PortMapping::rule6);
        ops.extend(new.map(|((protocol, port), to)| Op::Publish6 { protocol, port, to }));
        let udp = remove.iter().filter(|port| port.protocol == Protocol::Udp);
        let plan = Plan { ops, stale: udp.map(|port| port.rule().1).collect() };
        if state.ours {
            return self.engine.commit(&state, plan).await;
        }
        self.engine.firewall.commit(&plan.ops).await?;
        self.engine.forget(&plan.stale).await
    }

    /// Adds bridge networks and takes others back, in a table of a former run too.
    pub(crate) async fn bridges(&self, add: &[BridgeRule], remove: &[BridgeRule]) -> Result<()> {
        let state = self.engine.state.lock().await;
        let mut ops: Vec<Op> = remove.iter().cloned().map(Op::RemoveBridge).collect();
        ops.extend(add.iter().cloned().map(Op::AddBridge));
        match state.ours {
            true => self.engine.commit(&state, Plan { ops, stale: BTreeSet::new() }).await,
            false => self.engine.firewall.commit(&ops).await,
        }
    }

    /// Removes the table.
    pub(crate) async fn remove(&self) -> Result<()> {
        let mut state = self.engine.state.lock().await;
        // Changes that still come must not bring it back.
        state.ours = false;
        self.engine.firewall.remove().await
    }
}

impl Engine {
    async fn set(
        &self,
        state: &mut State,
        services: impl IntoIterator<Item = (String, Vec<ServicePortRule>)>,
    ) -> Result<()> {
        let mut all = Plan::default();
        for (owner, rules) in services {
            let plan = state.table.set(&owner, rules);
            all.ops.extend(plan.ops);
            all.stale.extend(plan.stale);
        }
        match state.ours {
            true => self.commit(state, all).await,
            false => Ok(()),
        }
    }

    async fn commit(&self, state: &State, plan: Plan) -> Result<()> {
        if !plan.ops.is_empty()
            && let Err(error) = self.firewall.commit(&plan.ops).await
        {
            // Somebody may have changed or flushed the table: put all of it back as it should be.
            tracing::warn!(%error, "service rules did not fit the kernel's state; writing all of them anew");
            self.rebuild(state).await?;
        }
        self.forget(&plan.stale).await
    }

    async fn rebuild(&self, state: &State) -> Result<()> {
        let saved = self.store.read()?;
        let bridges = saved.bridge_rules(state.table.bridges());
        self.firewall.commit(&state.table.rebuild(&saved.host_ports(), saved.host_ports6(), bridges)).await
    }

    async fn forget(&self, stale: &BTreeSet<SocketAddrV4>) -> Result<()> {
        if stale.is_empty() {
            return Ok(());
        }
        self.firewall.forget(&stale.iter().copied().collect::<Vec<_>>()).await
    }
}
