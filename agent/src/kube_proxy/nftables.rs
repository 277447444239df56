//! kube-proxy's tables of nftables mode. Source: `pkg/proxy/nftables/proxier.go`, `kubeProxyTable`.

use anyhow::Result;

use super::run;

/// One for each family.
const TABLES: [&str; 2] = ["table ip kube-proxy", "table ip6 kube-proxy"];

/// Removes them; says what.
pub fn clean() -> Result<Vec<String>> {
    let Some(listed) = run("nft", &["list", "tables"], "")? else {
        return Ok(vec!["not looked at: nftables (there is no nft on the PATH)".to_owned()]);
    };
    let mut told = Vec::new();
    for table in TABLES {
        if listed.lines().any(|line| line.trim() == table) {
            run("nft", &["-f", "-"], &format!("delete {table}\n"))?;
            told.push(format!("removed the {table}"));
        }
    }
    Ok(told)
}
