//! The variables that tell a container of the Services of its namespace
//! (<https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables>).

use wharf_control::service::{Service, ServicePort};

/// Names and values: the Service's address and ports, and the older form of Docker's links.
pub(crate) fn variables(services: &[Service]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for service in services {
        let (address, ports) = (&service.spec.cluster_ip, &service.spec.ports);
        let (Some(first), false) = (ports.first(), matches!(address.as_str(), "" | "None")) else { continue };
        let name = variable(&service.metadata.name);
        let mut set = |suffix: String, value: String| all.push((format!("{name}_{suffix}"), value));
        set("SERVICE_HOST".into(), address.clone());
        set("SERVICE_PORT".into(), first.port.to_string());
        for port in ports.iter().filter(|port| !port.name.is_empty()) {
            set(format!("SERVICE_PORT_{}", variable(&port.name)), port.port.to_string());
        }
        set("PORT".into(), url(first, address));
        for port in ports {
            let prefix = format!("PORT_{}_{}", port.port, protocol(port).to_uppercase());
            set(prefix.clone(), url(port, address));
            set(format!("{prefix}_PROTO"), protocol(port));
            set(format!("{prefix}_PORT"), port.port.to_string());
            set(format!("{prefix}_ADDR"), address.clone());
        }
    }
    all
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn protocol(port: &ServicePort) -> String {
    if port.protocol.is_empty() { "tcp".to_owned() } else { port.protocol.to_lowercase() }
}

fn url(port: &ServicePort, address: &str) -> String {
    format!("{}://{address}:{}", protocol(port), port.port)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_port_of_each_service_with_an_address() {
        let service = |name: &str, spec| -> Service {
            wharf_control::read(&json!({"metadata": {"name": name}, "spec": spec})).unwrap()
        };
        let services = [
            service(
                "redis-primary",
                json!({"clusterIP": "10.96.0.7", "ports": [{"port": 6379}, {"name": "dns-x", "port": 53, "protocol": "UDP"}]}),
            ),
            service("headless", json!({"clusterIP": "None", "ports": [{"port": 1}]})),
            service("outside", json!({"type": "ExternalName", "externalName": "x"})),
        ];
        let lines: Vec<String> =
            variables(&services).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            lines,
            [
                "REDIS_PRIMARY_SERVICE_HOST=10.96.0.7",
                "REDIS_PRIMARY_SERVICE_PORT=6379",
                "REDIS_PRIMARY_SERVICE_PORT_DNS_X=53",
                "REDIS_PRIMARY_PORT=tcp://10.96.0.7:6379",
                "REDIS_PRIMARY_PORT_6379_TCP=tcp://10.96.0.7:6379",
                "REDIS_PRIMARY_PORT_6379_TCP_PROTO=tcp",
                "REDIS_PRIMARY_PORT_6379_TCP_PORT=6379",
                "REDIS_PRIMARY_PORT_6379_TCP_ADDR=10.96.0.7",
                "REDIS_PRIMARY_PORT_53_UDP=udp://10.96.0.7:53",
                "REDIS_PRIMARY_PORT_53_UDP_PROTO=udp",
                "REDIS_PRIMARY_PORT_53_UDP_PORT=53",
                "REDIS_PRIMARY_PORT_53_UDP_ADDR=10.96.0.7",
            ]
        );
    }
}
