//! `wharf rollout ls`.

use serde_json::Value;
use wharf_client::{Client, ListParams};
use wharf_deliver::{ROLLOUTS, rollout::Rollout};

use super::show;
use crate::commands::platform::{Form, Table, age, print, text};

pub(super) async fn run(client: &Client, namespace: &str, output: Option<Form>) -> anyhow::Result<()> {
    let list = client.list(&ROLLOUTS, &ListParams::namespace(namespace)).await?.items;
    let rollouts: Vec<Rollout> = list.iter().map(wharf_control::read).collect::<Result<_, _>>()?;
    print(output, &list, |objects| {
        let (all, wide) = (namespace.is_empty(), output == Some(Form::Wide));
        let mut headings = vec![
            "NAME",
            "STRATEGY",
            "STATUS",
            "STEP",
            "SET-WEIGHT",
            "READY",
            "DESIRED",
            "UP-TO-DATE",
            "AVAILABLE",
            "AGE",
        ];
        if all {
            headings.insert(0, "NAMESPACE");
        }
        if wide {
            headings.extend(["MESSAGE", "IMAGES"]);
        }
        let mut table = Table::new(&headings);
        for (object, rollout) in objects.iter().zip(&rollouts) {
            table.row(row(object, rollout, all, wide));
        }
        table.print();
    })
}

fn row(object: &Value, rollout: &Rollout, all: bool, wide: bool) -> Vec<String> {
    let status = &rollout.status;
    let mut row = vec![
        rollout.metadata.name.clone(),
        show::strategy(rollout).to_owned(),
        show::phase(rollout).to_owned(),
        show::step(rollout).unwrap_or_else(|| "-".into()),
        show::set_weight(rollout).map_or_else(|| "-".into(), |weight| weight.to_string()),
        format!("{}/{}", status.ready_replicas, status.replicas),
        rollout.replicas().to_string(),
        status.updated_replicas.to_string(),
        status.available_replicas.to_string(),
        age(object),
    ];
    if all {
        row.insert(0, text(object, "/metadata/namespace").to_owned());
    }
    if wide {
        row.extend([status.message.clone(), show::images(&rollout.spec.template).join(",")]);
    }
    row
}
