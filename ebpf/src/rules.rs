//! Connections to frontends that rules hold for: whether they go to the redirector, and by which address.

use sluice_common::{
    Addr,
    layout::{CONFIG_FAIL_CLOSED, FLAG_REDIRECTED, FrontendKey, FrontendKind, FrontendValue, TCP},
};

use crate::{maps::CONFIG, raw, socket};

/// How a connection goes on.
pub enum Course {
    /// No rules: the kernel balances it.
    Kernel,
    /// To the redirector, as it is dialled: the address is this node's, or made so.
    AsDialled,
    /// To the redirector by the Service's cluster IP, for what is dialled may be another machine's address.
    ByClusterIp,
    /// Rules hold, but the redirector is not there: balanced without them.
    Unruled,
    /// The same with `--l7-fail-closed`: refused.
    Refused,
}

/// The course of a connection to `key`, whose frontend is `value`; `reaches` is whether it can be led to the node itself from
/// where it is met. Leaves the Service's cluster IP in `cluster_ip` if that is the course.
#[inline(always)]
pub fn course(value: &FrontendValue, key: &FrontendKey, reaches: bool, cluster_ip: &mut Addr) -> Course {
    if value.flags & FLAG_REDIRECTED == 0 || key.protocol != TCP {
        return Course::Kernel;
    }
    let is_others =
        value.kind == FrontendKind::LoadBalancer as u8 || value.kind == FrontendKind::ExternalIp as u8;
    if (reaches || !is_others) && socket::redirector_is_well() {
        if !is_others {
            return Course::AsDialled;
        }
        *cluster_ip = raw::cluster_ip(value.service_id);
        let key = FrontendKey { addr: *cluster_ip, ..*key };
        match socket::entry(&key) {
            Some(own) if own.service_id != value.service_id => {}
            Some(own) if own.flags & FLAG_REDIRECTED != 0 => return Course::ByClusterIp,
            // Rules come or go at this moment.
            Some(_) => return Course::Kernel,
            None => {}
        }
    }
    if CONFIG.get(CONFIG_FAIL_CLOSED).copied() == Some(1) { Course::Refused } else { Course::Unruled }
}
