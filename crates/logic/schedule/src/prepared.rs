//! A pod made ready for the hot loop: every text a number, every quantity a whole number.

use crate::{
    amounts::{Amounts, of_pod, weight_of_pod},
    intern::{Id, Interner, UNKNOWN},
    model::{NodeTerm, PodModel, Requirement, Taint, Toleration},
};

/// A port of the node a pod takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    port: i64,
    protocol: Id,
    /// Nothing: all addresses.
    address: Option<Id>,
}

impl HostPort {
    /// Whether two pods cannot both have theirs.
    pub(crate) fn conflicts(self, other: Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address.is_none() || other.address.is_none() || self.address == other.address)
    }
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

impl Effect {
    fn read(text: &str) -> Option<Self> {
        match text {
            "NoSchedule" => Some(Self::NoSchedule),
            "PreferNoSchedule" => Some(Self::PreferNoSchedule),
            "NoExecute" => Some(Self::NoExecute),
            _ => None,
        }
    }
}

/// A taint of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeTaint {
    key: Id,
    value: Id,
    pub(crate) effect: Effect,
}

impl NodeTaint {
    /// A taint with an effect that is known.
    pub(crate) fn read(taint: &Taint, interner: &mut Interner) -> Option<Self> {
        let effect = Effect::read(&taint.effect)?;
        Some(Self { key: interner.id(&taint.key), value: interner.id(&taint.value), effect })
    }

    /// The taint that stands for a cordoned node, whether the node has it or not.
    pub(crate) fn cordon(interner: &mut Interner) -> Self {
        let key = interner.id("node.kubernetes.io/unschedulable");
        Self { key, value: interner.id(""), effect: Effect::NoSchedule }
    }
}

#[derive(Clone, Copy, Debug)]
struct Tolerated {
    /// Nothing: every key.
    key: Option<Id>,
    /// Nothing: every value.
    value: Option<Id>,
    /// Nothing: every effect.
    effect: Option<Effect>,
}

impl Tolerated {
    fn read(toleration: &Toleration, interner: &Interner) -> Option<Self> {
        let exists = toleration.operator == "Exists";
        if toleration.key.is_empty() && !exists {
            return None;
        }
        let effect = match toleration.effect.as_str() {
            "" => None,
            text => Some(Effect::read(text)?),
        };
        Some(Self {
            key: (!toleration.key.is_empty()).then(|| interner.find(&toleration.key)),
            value: (!exists).then(|| interner.find(&toleration.value)),
            effect,
        })
    }

    fn covers(&self, taint: &NodeTaint) -> bool {
        self.key.is_none_or(|key| key == taint.key)
            && self.value.is_none_or(|value| value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// Requirements on a node that must all hold.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    labels: Vec<Test>,
    names: Vec<(bool, Vec<Id>)>,
}

#[derive(Clone, Debug)]
struct Test {
    key: Id,
    operator: Operator,
}

#[derive(Clone, Debug)]
enum Operator {
    In(Vec<Id>),
    NotIn(Vec<Id>),
    Exists,
    DoesNotExist,
    Gt(i64),
    Lt(i64),
    Never,
}

impl Term {
    fn read(term: &NodeTerm, interner: &Interner) -> Self {
        let test =
            |r: &Requirement| Test { key: interner.find(&r.key), operator: Operator::read(r, interner) };
        // `metadata.name` is the only field; another one holds for no node.
        let name = |r: &Requirement| {
            let known = r.key == "metadata.name" && matches!(r.operator.as_str(), "In" | "NotIn");
            let values: Vec<Id> = r.values.iter().map(|value| interner.find(value)).collect();
            if known { (r.operator == "In", values) } else { (true, Vec::new()) }
        };
        Self {
            labels: term.match_expressions.iter().map(test).collect(),
            names: term.match_fields.iter().map(name).collect(),
        }
    }

    /// Whether a node with these sorted labels and this name satisfies it.
    pub(crate) fn matches(&self, labels: &[(Id, Id)], name: Id, interner: &Interner) -> bool {
        let named = |(inside, names): &(bool, Vec<Id>)| names.contains(&name) == *inside;
        !(self.labels.is_empty() && self.names.is_empty())
            && self.labels.iter().all(|test| test.holds(labels, interner))
            && self.names.iter().all(named)
    }
}

impl Test {
    fn holds(&self, labels: &[(Id, Id)], interner: &Interner) -> bool {
        let value = label(labels, self.key);
        let number = || value.and_then(|id| interner.text(id).parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.contains(&v)),
            Operator::NotIn(values) => value.is_none_or(|v| !values.contains(&v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt(limit) => number().is_some_and(|n| n > *limit),
            Operator::Lt(limit) => number().is_some_and(|n| n < *limit),
            Operator::Never => false,
        }
    }
}

impl Operator {
    fn read(requirement: &Requirement, interner: &Interner) -> Self {
        let values = || -> Vec<Id> { requirement.values.iter().map(|value| interner.find(value)).collect() };
        let number = || requirement.values.first().and_then(|value| value.parse::<i64>().ok());
        match requirement.operator.as_str() {
            "In" => Self::In(values()),
            "NotIn" => Self::NotIn(values()),
            "Exists" => Self::Exists,
            "DoesNotExist" => Self::DoesNotExist,
            "Gt" => number().map_or(Self::Never, Self::Gt),
            "Lt" => number().map_or(Self::Never, Self::Lt),
            _ => Self::Never,
        }
    }
}

/// The value of a label among sorted ones.
pub(crate) fn label(labels: &[(Id, Id)], key: Id) -> Option<Id> {
    labels.binary_search_by_key(&key, |(key, _)| *key).ok().map(|at| labels[at].1)
}

/// A controller, by the FNV-1a hash of its uid: controllers come and go, so their uids are not
/// remembered as texts. Two that collide are merely spread together.
pub(crate) type OwnerKey = u64;

fn owner_key(uid: &str) -> OwnerKey {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    uid.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// A pod made ready.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) amounts: Amounts,
    pub(crate) weight: (i64, i64),
    /// The only node it may go to.
    pub(crate) node_name: Option<Id>,
    node_selector: Vec<(Id, Id)>,
    required: Option<Vec<Term>>,
    pub(crate) preferred: Vec<(i64, Term)>,
    tolerated: Vec<Tolerated>,
    pub(crate) ports: Vec<HostPort>,
    /// The controller whose pods it is spread among.
    pub(crate) owner: Option<OwnerKey>,
}

impl Prepared {
    /// Reads a pod.
    pub(crate) fn read(pod: &PodModel, interner: &mut Interner) -> Self {
        let amounts = of_pod(pod, interner);
        let owner = pod.metadata.owner_references.iter().find(|owner| owner.controller == Some(true));
        let owner = owner.map(|owner| owner_key(&owner.uid));
        let ports = host_ports(pod, interner);
        let interner = &*interner;
        let spec = &pod.spec;
        let pair = |(key, value): (&String, &String)| (interner.find(key), interner.find(value));
        let affinity = &spec.affinity.node_affinity;
        let terms = |terms: &[NodeTerm]| -> Vec<Term> {
            terms.iter().map(|term| Term::read(term, interner)).collect()
        };
        let preferred = affinity.preferred.iter().filter(|term| term.weight != 0);
        Self {
            weight: weight_of_pod(pod, &amounts),
            amounts,
            node_name: (!spec.node_name.is_empty()).then(|| interner.find(&spec.node_name)),
            node_selector: spec.node_selector.iter().map(pair).collect(),
            required: affinity.required.as_ref().map(|required| terms(&required.node_selector_terms)),
            preferred: preferred.map(|t| (t.weight, Term::read(&t.preference, interner))).collect(),
            tolerated: spec.tolerations.iter().filter_map(|t| Tolerated::read(t, interner)).collect(),
            ports,
            owner,
        }
    }

    /// Whether a node's labels and name are what the pod asks for.
    pub(crate) fn selects(&self, labels: &[(Id, Id)], name: Id, interner: &Interner) -> bool {
        self.node_selector.iter().all(|(key, value)| *value != UNKNOWN && label(labels, *key) == Some(*value))
            && self
                .required
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term.matches(labels, name, interner)))
    }

    /// Whether it tolerates a taint.
    pub(crate) fn tolerates(&self, taint: &NodeTaint) -> bool {
        self.tolerated.iter().any(|tolerated| tolerated.covers(taint))
    }
}

fn host_ports(pod: &PodModel, interner: &mut Interner) -> Vec<HostPort> {
    let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy == "Always");
    let ports = pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let taken = ports.filter(|port| port.host_port > 0);
    taken
        .map(|port| HostPort {
            port: port.host_port,
            protocol: interner.id(if port.protocol.is_empty() { "TCP" } else { &port.protocol }),
            address: match port.host_ip.as_str() {
                "" | "0.0.0.0" | "::" => None,
                address => Some(interner.id(address)),
            },
        })
        .collect()
}
