//! `wharf inspect`: everything known about containers, in docker's shape.

use std::process::ExitCode;

use serde_json::{Value, json};
use wharf_base::Timestamp;
use wharf_engine::{Container, Engine, MAIN, by_port};

use super::{
    Globals, completion,
    containers::{self, complain, hinted},
    formatted::Format,
    platform::say,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true, add = completion::any_container())]
    containers: Vec<String>,
    /// Print by a Go template, as docker takes it: '{{.State.Status}}', 'table …', or 'json'
    #[arg(short = 'f', long, value_name = "TEMPLATE")]
    format: Option<Format>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let engine = containers::open(globals)?;
        let mut code = ExitCode::SUCCESS;
        let mut found = Vec::new();
        for wanted in &self.containers {
            match engine.find(wanted).map_err(hinted).and_then(|container| describe(&container, &engine)) {
                Ok(value) => found.push(value),
                Err(error) => {
                    complain(&error);
                    code = ExitCode::FAILURE;
                }
            }
        }
        match &self.format {
            Some(format) => say(&format.lines(&[], &found)?),
            None => println!("{}", serde_json::to_string_pretty(&found)?),
        }
        Ok(code)
    }
}

fn describe(container: &Container, engine: &Engine) -> anyhow::Result<Value> {
    let config = container.dir.container_config(MAIN)?;
    let spec = &config.spec;
    let process = spec.process().clone().unwrap_or_default();
    let args = process.args().clone().unwrap_or_default();
    let linux = spec.linux().clone().unwrap_or_default();
    let resources = linux.resources().clone().unwrap_or_default();
    let quota = resources.cpu().as_ref().and_then(oci_quota).unwrap_or(0);
    let mounts: Vec<Value> = spec
        .mounts()
        .iter()
        .flatten()
        .filter(|mount| mount.typ().as_deref() == Some("bind"))
        .map(|mount| {
            let read_only = mount.options().iter().flatten().any(|option| option == "ro" || option == "rro");
            json!({ "Type": "bind", "Source": mount.source(), "Destination": mount.destination(), "RW": !read_only })
        })
        .collect();
    Ok(json!({
        "Id": container.id,
        "Created": container.status.created_at,
        "Path": args.first(),
        "Args": args.get(1..).unwrap_or_default(),
        "State": state(container),
        "Image": container.image(),
        "Name": format!("/{}", container.name()),
        "LogPath": container.log(),
        "HostConfig": {
            "Memory": resources.memory().and_then(|memory| memory.limit()).unwrap_or(0),
            "NanoCpus": quota * 10_000,
            "ReadonlyRootfs": spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
            "NetworkMode": container.record.spec.network,
            "PortBindings": by_port(&container.record.spec.publish, ""),
        },
        "NetworkSettings": network(container, engine)?,
        "GraphDriver": { "Name": "overlay", "Data": {
            "LowerDir": config.root.lower, "UpperDir": container.dir.container(MAIN).join("upper"),
        } },
        "Mounts": mounts,
        "Config": {
            "Hostname": container.pod.as_ref().and_then(|pod| pod.hostname.as_ref()), "User": config.user, "Tty": process.terminal().unwrap_or(false),
            "Env": process.env(), "Cmd": args, "WorkingDir": process.cwd(), "Labels": container.record.spec.labels,
        },
        "Warnings": container.status.warnings,
    }))
}

/// What a container that runs has of the network; one that has ended gave it back.
fn network(container: &Container, engine: &Engine) -> anyhow::Result<Value> {
    let spec = &container.record.spec;
    let places = engine.places(container)?;
    let address =
        |network: &str| places.get(network).map_or_else(String::new, |place| place.address.to_string());
    let ports = container.ports();
    let on = |network: &String| (network.clone(), json!({ "IPAddress": address(network) }));
    let mut networks: serde_json::Map<_, _> = spec.endpoints.keys().map(on).collect();
    networks.entry(&spec.network).or_insert_with(|| json!({ "IPAddress": "" }));
    let address = address(&spec.network);
    Ok(json!({ "IPAddress": address, "Ports": by_port(&ports, "0.0.0.0"), "Networks": networks }))
}

fn oci_quota(cpu: &wharf_runtime::oci::LinuxCpu) -> Option<i64> {
    cpu.quota()
}

fn state(container: &Container) -> Value {
    let exit = container.status.exit.as_ref();
    let never = "0001-01-01T00:00:00Z".to_owned();
    let time = |time: Option<Timestamp>| time.map_or(never.clone(), Timestamp::to_nano);
    json!({
        "Status": wharf_engine::words::state(container),
        "Running": container.is_running(),
        "Paused": container.status.phase == wharf_runtime::Phase::Paused,
        "OOMKilled": exit.is_some_and(|exit| exit.oom_killed),
        "Pid": container.status.pid.unwrap_or(0),
        "ExitCode": exit.map_or(0, |exit| exit.code),
        "Error": exit.and_then(|exit| exit.reason.clone()).unwrap_or_default(),
        "StartedAt": time(container.status.started_at),
        "FinishedAt": time(exit.map(|exit| exit.finished_at)),
    })
}
