//! News from sources.

use super::*;

/// News from a source.
#[derive(Clone, Debug)]
pub enum Change {
    /// All Services there are: a complete listing.
    AllServices(Vec<Service>),
    /// All EndpointSlices there are: a complete listing.
    AllSlices(Vec<EndpointSlice>),
    /// All pods: a complete listing. A source sends it once somebody needs it.
    AllPods(Vec<Pod>),
    /// A pod is new or different; `None` when it is gone.
    Pod(ObjectName, Option<Box<Pod>>),
    /// The source does not look at pods any more.
    NoPods,
    /// All rule objects of a kind: a complete listing.
    AllRules(RuleKind, Vec<(ObjectName, Arc<Value>)>),
    /// A rule object is new or different; `None` when it is gone.
    Rule(RuleKind, ObjectName, Option<Arc<Value>>),
    /// All pods of this node: a complete listing.
    AllOwnPods(Vec<OwnPod>),
    /// A pod of this node is new or different; `None` when it is gone.
    OwnPod(ObjectName, Option<OwnPod>),
    /// A Service is new or different; `None` when it is gone or needs no proxying any more.
    Service(ObjectName, Option<Box<Service>>),
    /// An EndpointSlice is new or different; `None` when it is gone.
    Slice(ObjectName, Option<Box<EndpointSlice>>),
    /// This node.
    Node(Node),
    /// There is no object for this node.
    NoNode,
    /// All ServiceCIDRs there are, each with its networks.
    AllServiceCidrs(Vec<(ObjectName, Vec<IpNet>)>),
    /// A ServiceCIDR is new or different; `None` when it is gone.
    ServiceCidr(ObjectName, Option<Vec<IpNet>>),
    /// Whether a part of the listings cannot be read, so that what they lack may yet be there.
    Partial(bool),
}
