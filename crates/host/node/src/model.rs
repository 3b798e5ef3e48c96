//! Pods as this room reads them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wharf_base::Quantity;
use wharf_control::{Meta, intstr::IntOrString};

/// Amounts by resource name.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

/// Declares structs read from the API's JSON: every field may be absent.
macro_rules! read {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(crate) struct $name { $($(#[$attr])* pub(crate) $field: $ty,)* }
    )*};
}

read! {
    /// `v1.Pod`.
    Pod { metadata: Meta, spec: PodSpec, status: SeenStatus, }
    /// What of a pod's status this room reads back.
    SeenStatus {
        phase: String,
        qos_class: String,
        conditions: Vec<Value>,
        container_statuses: Vec<Value>,
        init_container_statuses: Vec<Value>,
        ephemeral_container_statuses: Vec<Value>,
    }
    /// `v1.PodSpec`.
    PodSpec {
        node_name: String,
        service_account_name: String,
        restart_policy: String,
        termination_grace_period_seconds: Option<i64>,
        active_deadline_seconds: Option<i64>,
        containers: Vec<Container>,
        init_containers: Vec<Container>,
        ephemeral_containers: Vec<Container>,
        volumes: Vec<Volume>,
        image_pull_secrets: Vec<Named>,
        host_network: bool,
        #[serde(rename = "hostPID")]
        host_pid: bool,
        #[serde(rename = "hostIPC")]
        host_ipc: bool,
        share_process_namespace: bool,
        host_users: Option<bool>,
        enable_service_links: Option<bool>,
        hostname: String,
        subdomain: String,
        #[serde(rename = "setHostnameAsFQDN")]
        set_hostname_as_fqdn: bool,
        host_aliases: Vec<HostAlias>,
        dns_policy: String,
        dns_config: DnsConfig,
        security_context: PodSecurity,
        readiness_gates: Vec<ReadinessGate>,
        priority: Option<i64>,
        runtime_class_name: String,
        resources: Option<Value>,
    }
    /// A reference by name.
    Named { name: String, }
    /// `v1.PodReadinessGate`.
    ReadinessGate { condition_type: String, }
    /// `v1.HostAlias`.
    HostAlias { ip: String, hostnames: Vec<String>, }
    /// `v1.PodDNSConfig`.
    DnsConfig { nameservers: Vec<String>, searches: Vec<String>, options: Vec<DnsOption>, }
    /// `v1.PodDNSConfigOption`.
    DnsOption { name: String, value: Option<String>, }
    /// `v1.PodSecurityContext`.
    PodSecurity {
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        fs_group: Option<i64>,
        supplemental_groups: Vec<i64>,
        seccomp_profile: Option<Profile>,
        app_armor_profile: Option<Profile>,
        se_linux_options: Option<Value>,
        sysctls: Vec<Sysctl>,
    }
    /// `v1.SeccompProfile` and `v1.AppArmorProfile`.
    Profile { #[serde(rename = "type")] kind: String, }
    /// `v1.Sysctl`.
    Sysctl { name: String, value: String, }
    /// `v1.Container`.
    Container {
        name: String,
        image: String,
        image_pull_policy: String,
        command: Vec<String>,
        args: Vec<String>,
        working_dir: String,
        env: Vec<EnvVar>,
        env_from: Vec<EnvFrom>,
        ports: Vec<ContainerPort>,
        resources: Resources,
        volume_mounts: Vec<VolumeMount>,
        volume_devices: Vec<Value>,
        liveness_probe: Option<Probe>,
        readiness_probe: Option<Probe>,
        startup_probe: Option<Probe>,
        lifecycle: Lifecycle,
        termination_message_path: String,
        termination_message_policy: String,
        security_context: Security,
        stdin: bool,
        stdin_once: bool,
        tty: bool,
        restart_policy: String,
        restart_policy_rules: Vec<Value>,
        resize_policy: Vec<ResizePolicy>,
        target_container_name: String,
    }
    /// `v1.ContainerPort`.
    ContainerPort { name: String, container_port: u16, host_port: u16, }
    /// `v1.ContainerResizePolicy`.
    ResizePolicy { resource_name: String, restart_policy: String, }
    /// `v1.EnvVar`.
    EnvVar { name: String, value: String, value_from: Option<EnvSource>, }
    /// `v1.EnvVarSource`.
    EnvSource {
        config_map_key_ref: Option<KeyRef>,
        secret_key_ref: Option<KeyRef>,
        field_ref: Option<FieldRef>,
        resource_field_ref: Option<ResourceRef>,
        file_key_ref: Option<Value>,
    }
    /// `v1.ConfigMapKeySelector` and `v1.SecretKeySelector`.
    KeyRef { name: String, key: String, optional: bool, }
    /// `v1.ObjectFieldSelector`.
    FieldRef { field_path: String, }
    /// `v1.ResourceFieldSelector`.
    ResourceRef { container_name: String, resource: String, divisor: Option<Quantity>, }
    /// `v1.EnvFromSource`.
    EnvFrom { prefix: String, config_map_ref: Option<SourceRef>, secret_ref: Option<SourceRef>, }
    /// A whole ConfigMap or Secret.
    SourceRef { name: String, optional: bool, }
    /// `v1.VolumeMount`.
    VolumeMount {
        name: String,
        mount_path: String,
        read_only: bool,
        sub_path: String,
        sub_path_expr: String,
        mount_propagation: String,
    }
    /// `v1.Probe`.
    Probe {
        #[serde(flatten)]
        handler: Handler,
        initial_delay_seconds: u64,
        timeout_seconds: u64,
        period_seconds: u64,
        success_threshold: u32,
        failure_threshold: u32,
        termination_grace_period_seconds: Option<i64>,
    }
    /// What a probe or a hook does; one of the fields.
    Handler {
        exec: Option<ExecHandler>,
        http_get: Option<HttpHandler>,
        tcp_socket: Option<TcpHandler>,
        grpc: Option<Value>,
        sleep: Option<SleepHandler>,
    }
    /// `v1.ExecAction`.
    ExecHandler { command: Vec<String>, }
    /// `v1.HTTPGetAction`.
    HttpHandler {
        host: String,
        path: String,
        port: Port,
        scheme: String,
        http_headers: Vec<HttpHeader>,
    }
    /// `v1.HTTPHeader`.
    HttpHeader { name: String, value: String, }
    /// `v1.TCPSocketAction`.
    TcpHandler { host: String, port: Port, }
    /// `v1.SleepAction`.
    SleepHandler { seconds: u64, }
    /// `v1.Lifecycle`.
    Lifecycle { post_start: Option<Handler>, pre_stop: Option<Handler>, stop_signal: String, }
    /// `v1.SecurityContext`.
    Security {
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        privileged: bool,
        read_only_root_filesystem: bool,
        allow_privilege_escalation: Option<bool>,
        capabilities: CapabilityChange,
        seccomp_profile: Option<Profile>,
        app_armor_profile: Option<Profile>,
        se_linux_options: Option<Value>,
        proc_mount: String,
    }
    /// `v1.Capabilities`.
    CapabilityChange { add: Vec<String>, drop: Vec<String>, }
    /// `v1.Volume`: its name, and one more field that is its source.
    Volume {
        name: String,
        #[serde(flatten)]
        source: Map<String, Value>,
    }
}

/// `v1.ResourceRequirements`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    pub(crate) limits: Amounts,
    pub(crate) requests: Amounts,
}

/// A port by number or by the name of a container's port.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Port(pub(crate) IntOrString);

impl Default for Port {
    fn default() -> Self {
        Self(IntOrString::Int(0))
    }
}

impl Port {
    /// Its number, looked up among the container's ports where it is a name.
    pub(crate) fn number(&self, container: &Container) -> Option<u16> {
        match &self.0 {
            IntOrString::Int(number) => u16::try_from(*number).ok().filter(|port| *port > 0),
            IntOrString::Text(name) => container
                .ports
                .iter()
                .find(|port| port.name == *name)
                .map(|port| port.container_port)
                .or_else(|| name.parse().ok()),
        }
    }
}

impl Container {
    /// An init container that runs beside the others.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.restart_policy == "Always"
    }
}

impl Pod {
    /// Reads a pod of the API; explicit nulls count as absent.
    pub(crate) fn read(object: &Value) -> Result<Self, serde_json::Error> {
        wharf_control::read(&without_nulls(object))
    }

    /// The containers a pod is made with: init containers first, as they run.
    pub(crate) fn own_containers(&self) -> impl Iterator<Item = &Container> {
        self.spec.init_containers.iter().chain(&self.spec.containers)
    }

    /// All containers, also the ephemeral ones.
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.own_containers().chain(&self.spec.ephemeral_containers)
    }

    /// The containers that run side by side and keep their resources: sidecars, then the main ones.
    pub(crate) fn lasting_containers(&self) -> impl Iterator<Item = &Container> {
        let sidecars = self.spec.init_containers.iter().filter(|container| container.is_sidecar());
        sidecars.chain(&self.spec.containers)
    }

    /// Whether a container was added to look into the pod.
    pub(crate) fn is_ephemeral(&self, name: &str) -> bool {
        self.spec.ephemeral_containers.iter().any(|container| container.name == name)
    }

    /// A container of any kind by its name.
    pub(crate) fn container(&self, name: &str) -> Option<&Container> {
        self.all_containers().find(|container| container.name == name)
    }

    /// Seconds its containers are given to end.
    pub(crate) fn grace(&self) -> i64 {
        let asked = self.metadata.deletion_grace_period_seconds;
        asked.or(self.spec.termination_grace_period_seconds).unwrap_or(30).max(0)
    }

    /// The name the machine has inside.
    pub(crate) fn hostname(&self) -> String {
        let name = match self.spec.hostname.as_str() {
            "" => self.metadata.name.as_str(),
            name => name,
        };
        // The kernel takes 64 bytes; a cut name must not end in a separator.
        name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
    }

    /// The full name, where the pod is in the domain of a headless Service.
    pub(crate) fn fqdn(&self, domain: &str) -> Option<String> {
        let (host, subdomain) = (self.hostname(), &self.spec.subdomain);
        (!subdomain.is_empty())
            .then(|| format!("{host}.{subdomain}.{}.svc.{domain}", self.metadata.namespace))
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}
