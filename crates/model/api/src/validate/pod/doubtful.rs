//! What is valid in a pod and hardly what its author wants: said, and not refused. The texts are upstream's.

use wharf_base::Quantity;

use super::super::field::Field;

/// One sentence for each.
pub(in super::super) fn warnings(spec: &Field<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for list in ["initContainers", "containers"] {
        for container in spec.child(list).items() {
            hidden_variables(&container.child("env"), &mut found);
            repeated_ports(&container.child("ports"), &mut found);
            let resources = container.child("resources");
            for side in ["limits", "requests"] {
                fractional_bytes(&resources.child(side), &mut found);
            }
        }
    }
    found
}

fn hidden_variables(variables: &Field<'_>, found: &mut Vec<String>) {
    let mut seen = Vec::new();
    for variable in variables.items() {
        let name = variable.text_at("/name");
        if seen.contains(&name) {
            found.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                variable.path()
            ));
        }
        seen.push(name);
    }
}

fn repeated_ports(ports: &Field<'_>, found: &mut Vec<String>) {
    fn key<'a>(port: &Field<'a>) -> (i64, i64, &'a str, &'a str) {
        let number = |pointer| port.int_at(pointer);
        (number("/containerPort"), number("/hostPort"), port.text_at("/protocol"), port.text_at("/hostIP"))
    }
    let keys: Vec<_> = ports.items().map(|port| key(&port)).collect();
    for (index, port) in ports.items().enumerate() {
        let first = keys.iter().position(|known| *known == key(&port)).filter(|first| *first < index);
        if let Some(first) = first {
            let (path, list) = (port.path(), ports.path());
            found.push(format!("{path}: duplicate port definition with {list}[{first}]"));
        }
    }
}

fn fractional_bytes(amounts: &Field<'_>, found: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let amount = amounts.key(name);
        let quantity = amount.text().parse::<Quantity>();
        if quantity.is_ok_and(|quantity| quantity.nanos() % 1_000_000_000 != 0) {
            found.push(format!(
                "{}: fractional byte value {:?} is invalid, must be an integer",
                amount.path(),
                amount.text()
            ));
        }
    }
}
