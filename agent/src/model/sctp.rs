//! SCTP keeps its ports: its checksum covers the whole packet, and no program may change that.

/// What is wrong with a port `dialled` that leads to pods which listen on `target`; `None` if nothing is. A NodePort is named
/// in `what`, as in `nodePort 30009`, anything else as `port 80`.
pub fn sctp_trouble(what: &str, dialled: u16, target: u16, is_node_port: bool) -> Option<String> {
    let fix = if is_node_port {
        "let pods listen on the NodePort's number, or dial another address of the Service"
    } else {
        "let port and targetPort be the same"
    };
    (dialled != target).then(|| {
        format!(
            "SCTP to {what} would have to change its port to {target}, which its checksum forbids: such packets are dropped \
             (sctp_port); {fix}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_stay_are_no_trouble() {
        assert_eq!(sctp_trouble("port 80", 80, 80, false), None);
        let port = sctp_trouble("port 80", 80, 8080, false).unwrap();
        assert!(
            port.contains("port 80") && port.contains("to 8080") && port.contains("be the same"),
            "{port}"
        );
        assert!(sctp_trouble("nodePort 30080", 30_080, 80, true).unwrap().contains("NodePort's number"));
    }
}
