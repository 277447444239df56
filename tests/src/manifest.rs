//! Short ways to write the YAML that scenarios need.

/// A Service of the namespace `shop` with a selector on `app`, its addresses and its ports (`name:port:target/PROTOCOL`).
pub fn service(name: &str, addresses: &[&str], ports: &[&str]) -> String {
    let ip = addresses.first().unwrap_or(&"");
    let list: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let ports: Vec<String> = ports.iter().map(|port| service_port(port)).collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         clusterIP: \"{ip}\"\n  clusterIPs: [{}]\n  selector: {{app: {name}}}\n  ports:\n{}",
        list.join(", "),
        ports.concat()
    )
}

/// The same, headless.
pub fn headless(name: &str, ports: &[&str]) -> String {
    service(name, &["None"], ports)
}

fn service_port(text: &str) -> String {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let parts: Vec<&str> = rest.split(':').collect();
    let [name, port, target] = parts[..] else { panic!("{text} is not name:port:target/PROTOCOL") };
    format!("  - {{name: {name}, port: {port}, targetPort: {target}, protocol: {protocol}}}\n")
}

/// A ready Pod of the Service `app` on the node `node-1`.
pub fn pod(name: &str, app: &str, addresses: &[&str]) -> String {
    pod_on("node-1", name, app, addresses)
}

/// The same on a node of choice.
pub fn pod_on(node: &str, name: &str, app: &str, addresses: &[&str]) -> String {
    let ips: Vec<String> = addresses.iter().map(|address| format!("{{ip: \"{address}\"}}")).collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: main}}]}}\nstatus: {{podIPs: [{}]}}\n",
        ips.join(", ")
    )
}
